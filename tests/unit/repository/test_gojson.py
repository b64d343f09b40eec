"""JSON as Go writes it."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.base.errors import CorruptBlob, RepositoryError
from agent.repository import gojson


class Pair(msgspec.Struct):
    z: str
    a: int


def test_structs_keep_their_order_and_maps_are_sorted() -> None:
    assert gojson.encode([Pair("x", 1), {"b": 1, "a": None}]) == b'[{"z":"x","a":1},{"a":null,"b":1}]'


def test_what_html_could_mistake_is_escaped() -> None:
    assert gojson.encode("<a>&\u2028\u2029") == b'"\\u003ca\\u003e\\u0026\\u2028\\u2029"'
    assert gojson.encode({"é\U0001f600": "\x7f"}) == '{"é\U0001f600":"\x7f"}'.encode()


def test_control_characters_are_written_as_go_writes_them() -> None:
    assert gojson.encode('\b\f\n\r\t"\\\x01\x1f/') == b'"\\b\\f\\n\\r\\t\\"\\\\\\u0001\\u001f/"'


def test_each_byte_that_is_not_utf8_becomes_one_replacement() -> None:
    assert gojson.quote(b"bad\xff\xe2\x80<\xed\xa0\x80") == b'"bad\\ufffd\\ufffd\\ufffd\\u003c\\ufffd\\ufffd\\ufffd"'
    assert gojson.quote("\ufffd".encode()) == '"\ufffd"'.encode()


def test_raw_json_is_compacted() -> None:
    assert gojson.compact(b'{ "a" : [ 1, "<" ] }\n') == b'{"a":[1,"\\u003c"]}'


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_value_is_read_back_as_it_was(value: object) -> None:
    assert json.loads(gojson.encode(value)) == value
    assert json.loads(gojson.encode_indented(value)) == value


@given(st.binary(max_size=64))
def test_any_name_can_be_quoted(name: bytes) -> None:
    replaced = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in name.decode("utf-8", "surrogateescape"))
    assert json.loads(gojson.quote(name)) == replaced


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 200_000, b'{"a":1}', b'"\xff"'])
def test_what_is_not_the_expected_json_is_a_named_error(data: bytes) -> None:
    decoder = msgspec.json.Decoder(list[int])
    with pytest.raises(CorruptBlob, match="thing"):
        gojson.decode(decoder, data, "thing", CorruptBlob)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_values_or_named_errors(data: bytes) -> None:
    try:
        gojson.decode(msgspec.json.Decoder(dict[str, Pair]), data, "thing", CorruptBlob)
    except RepositoryError as error:
        assert "thing" in str(error)
