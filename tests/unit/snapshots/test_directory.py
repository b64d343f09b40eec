"""Directory objects: bytes as kopia writes them, and a reader that takes anything (§7.3, §7.4)."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import _native
from agent.base.errors import CorruptDirectory
from agent.base.times import MAX_NS, MIN_NS, format_rfc3339
from agent.repository.ids import ObjectId
from agent.snapshots.directory import (
    MAX_VALUE,
    DirectoryEncoder,
    DirectoryParser,
    encode_directory,
    entry_header,
    parse_directory,
    parse_whole,
)
from agent.snapshots.model import DIRECTORY, FILE, SYMLINK, DirectorySummary, Entry, EntryError, decode_entry
from agent.volumes.attributes import Attributes

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0�"), min_size=1)
uint32 = st.integers(0, 2**32 - 1)
times = st.integers(MIN_NS, MAX_NS)
object_ids = st.sampled_from(["k" + "0" * 32, "a" * 32, "Ix" + "1" * 32, "Zab"]).map(ObjectId)
errors = st.builds(EntryError, st.text(st.characters(exclude_categories=["Cs"])), st.just("permission denied"))
summaries = st.builds(
    DirectorySummary,
    size=st.integers(0, 2**62),
    files=st.integers(0, 2**40),
    symlinks=st.integers(0, 2**40),
    dirs=st.integers(0, 2**40),
    max_time_ns=times,
    incomplete=st.sampled_from(["", "checkpoint", "canceled"]),
    failed=st.integers(0, 5),
    ignored_errors=st.integers(0, 5),
    errors=st.lists(errors, max_size=3).map(tuple),
)
entries = st.builds(
    Entry,
    name=names,
    type=st.sampled_from([FILE, DIRECTORY, SYMLINK]),
    mode=st.integers(0, 2**31 - 1),
    size=st.integers(-(2**63), 2**63 - 1),
    mtime_ns=times,
    uid=uint32,
    gid=uint32,
    obj=object_ids,
    summ=st.none() | summaries,
)


def test_bytes_of_every_golden_directory_come_back(golden):
    for vector in json.loads((golden / "vectors.json").read_bytes())["directories"]:
        data = bytes.fromhex(vector["bytes"])
        parser, encoder = DirectoryParser(), DirectoryEncoder()
        raws = parser.feed(data)
        summary = parser.close()
        assert summary is not None
        # A name that was not UTF-8 is only known as U+FFFD: give the encoder such a byte again.
        again = [decode_entry(raw) for raw in raws]
        encoded = [
            _native.entry_prefix(
                b"\xff".join(e.name.encode().split("�".encode())) if b"\\ufffd" in raw else e.name.encode(),
                e.type.encode(),
                e.mode,
                e.size,
                e.mtime_ns,
                e.uid,
                e.gid,
            )
            + e.obj.encode()
            + b'"'
            + (b',"summ":' + e.summ.to_json() if e.summ else b"")
            + b"}"
            for e, raw in zip(again, raws, strict=True)
        ]
        assert b"".join([*(encoder.entries(raw) for raw in encoded), encoder.end(summary)]) == data, vector["path"]
        if b"\\ufffd" not in data:
            assert encode_directory(again, summary) == data


@given(st.lists(entries, max_size=5), summaries, st.integers(1, 40))
def test_what_is_encoded_is_parsed_whatever_the_pieces(listed, summary, piece):
    data = encode_directory(listed, summary)
    json.loads(data)
    parser = DirectoryParser()
    raws = [raw for at in range(0, len(data), piece) for raw in parser.feed(data[at : at + piece])]
    assert [decode_entry(raw) for raw in raws] == listed
    assert parser.close() == summary
    for raw, entry in zip(raws, listed, strict=True):
        assert entry_header(raw) == (entry.name.encode(), entry.type)


@given(entries)
def test_a_list_of_prefixes_is_the_prefixes_one_by_one(entry):
    kind = {FILE: 0o100000, DIRECTORY: 0o040000, SYMLINK: 0o120000}[entry.type]
    attributes = Attributes(mode=kind | 0o6755, size=entry.size, mtime_ns=entry.mtime_ns, uid=entry.uid, gid=entry.gid)
    name = entry.name.encode()
    size = 0 if entry.type == DIRECTORY else entry.size
    one = _native.entry_prefix(
        name, entry.type.encode(), 0o755 | 1 << 23 | 1 << 22, size, entry.mtime_ns, entry.uid, entry.gid
    )
    assert _native.entry_prefixes([name], [attributes]) == [one]


@given(times)
def test_native_times_are_those_of_python(ns):
    assert _native.format_time(ns) == format_rfc3339(ns).encode()


@given(st.binary())
def test_a_quoted_name_is_json_and_keeps_what_is_utf8(name):
    text = json.loads(_native.quote_string(name))
    assert text == name.decode("utf-8", "replace") or b"\\ufffd" in _native.quote_string(name)


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        (b"a<b>&\"\\'", rb'"a\u003cb\u003e\u0026\"\\' + b"'\""),
        (b"\b\f\n\r\t\x07\x7f", b'"\\b\\f\\n\\r\\t\\u0007\x7f"'),
        ("\u2028\u2029é".encode(), b'"\\u2028\\u2029' + "é".encode() + b'"'),
        ("�".encode(), '"�"'.encode()),
        (b"bad\xff\xe2\x82", rb'"bad\ufffd\ufffd\ufffd"'),
        (b"\xed\xa0\x80", rb'"\ufffd\ufffd\ufffd"'),
        (b"\xc0\xaf\xf5\x80", rb'"\ufffd\ufffd\ufffd\ufffd"'),
    ],
)
def test_strings_are_escaped_as_go_does(name, quoted):
    assert _native.quote_string(name) == quoted


@pytest.mark.parametrize("listed", [b"null", b"[]", b"[ ]", b"[null]"])
def test_a_directory_without_entries_is_empty(listed):
    entries, summary = parse_whole(b'{"stream":"kopia:directory","entries":' + listed + b"}\n")
    assert entries == []
    assert summary is None


def test_unknown_keys_other_orders_and_cases_are_taken():
    entries, summary = parse_whole(
        b' { "x-new" : [1,{"a":"]"}], "SUMMARY":{"files":1,"Size":2,"new":[]} , "Entries" : [ {"Name":"a","TYPE":"f",'
        b'"x-k":{"v":[1]},"mode":null,"obj":"aa","size":7} ] ,"stream":"kopia:directory"} trailing'
    )
    assert summary == DirectorySummary(files=1, size=2)
    (entry,) = entries
    assert (entry.name, entry.type, entry.size, entry.obj, entry.mode) == ("a", "f", 7, "aa", 0)
    assert entry.to_json() == b'{"name":"a","type":"f","size":7,"obj":"aa","x-k":{"v":[1]}}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b'{"stream":"kopia:directory"',
        b'{"stream":"other","entries":[]}',
        b'{"entries":[]}',
        b'{"stream":"kopia:directory","entries":{}}',
        b'{"stream":"kopia:directory","entries":[1]}',
        b'{"stream":"kopia:directory","entries":[{}{}]}',
        b'{"stream":"kopia:directory","entries":[{},]}',
        b'{"stream":"kopia:directory","entries":[{"a":]}',
        b'{"stream":"kopia:directory","entries":[' + b"[" * 1000,
        b'{"stream":"kopia:directory","entries":[{"name":"a","obj":"b","mode":493}]}',
        b'{"stream":"kopia:directory","entries":[{"name":"a","obj":"b","uid":8589934592}]}',
        b'{"stream":"kopia:directory","entries":[{"name":"a","obj":"b","size":1.5}]}',
        b'{"stream":"kopia:directory","entries":[{"name":"a","obj":"b","mtime":"yesterday"}]}',
        b'{"stream":"kopia:directory","entries":[],"entries":[]}',
        b'{"stream":"kopia:directory","entries":[],"summary":[]}',
    ],
)
def test_nonsense_is_a_corrupt_directory(data):
    with pytest.raises(CorruptDirectory):
        parse_whole(data)


@given(st.binary(max_size=300) | st.text('{}[]",:enulstrm1 \\', max_size=60).map(lambda s: s.encode()))
def test_any_bytes_parse_or_are_corrupt(data):
    with contextlib.suppress(CorruptDirectory):
        parse_whole(b'{"stream":"kopia:directory","entries":[' + data)


@given(st.data())
def test_a_damaged_directory_parses_or_is_corrupt(data):
    good = encode_directory(
        [Entry(name="a", type=FILE, mode=0o644, size=3, mtime_ns=5, obj=ObjectId("ab"))] * 2, DirectorySummary()
    )
    at = data.draw(st.integers(0, len(good) - 1))
    damaged = good[:at] + data.draw(st.binary(max_size=3)) + good[at + data.draw(st.integers(0, 3)) :]
    with contextlib.suppress(CorruptDirectory):
        parse_whole(damaged)


def test_an_endless_value_is_refused_before_it_fills_the_memory():
    parser = DirectoryParser()
    parser.feed(b'{"stream":"kopia:directory","entries":["')
    with pytest.raises(CorruptDirectory):
        parser.feed(b"x" * (MAX_VALUE + 2))


async def test_entries_come_one_by_one_from_chunks():
    listed = [Entry(name=f"f{n}", type=FILE, obj=ObjectId("ab")) for n in range(10)]
    data = encode_directory(listed, DirectorySummary())

    async def chunks():
        for at in range(0, len(data), 17):
            yield data[at : at + 17]

    assert [entry async for entry in parse_directory(chunks())] == listed


def test_a_run_of_unchanged_entries_ends_at_the_first_other():
    prefixes = [b'{"name":"a","type":"f","obj":"', b'{"name":"b","type":"f","obj":"', b'{"name":"c","type":"f","obj":"']
    raws = [prefixes[0] + b'ab"}', prefixes[1] + b'Ixcd"}', prefixes[2] + b'ab","size":1}']
    assert _native.unchanged_run(prefixes, 0, raws, 0) == 2
    assert _native.unchanged_run(prefixes, 2, raws, 2) == 0
    assert _native.unchanged_run(prefixes, 0, raws, 1) == 0
    assert _native.unchanged_run(prefixes, 0, [prefixes[0] + b'"}'], 0) == 0
    assert _native.unchanged_run(prefixes, 5, raws, 5) == 0


def test_slices_give_the_same_entries_some_at_a_time():
    encoder = DirectoryEncoder()
    raws = [b'{"name":"%07d","type":"f"}' % number for number in range(20_000)]
    data = encoder.entries(b",".join(raws)) + encoder.end(DirectorySummary())
    parser = DirectoryParser()
    slices = list(parser.feed_slices(data))
    assert [raw for found in slices for raw in found] == raws
    assert max(map(len, slices)) < 4_000
    assert parser.close() == DirectorySummary()


def test_slices_grow_with_a_value_that_goes_on():
    long = b'{"name":"' + b"x" * (4 << 20) + b'"}'
    parser = DirectoryParser()
    slices = list(parser.feed_slices(b'{"stream":"kopia:directory","entries":[' + long + b"]}"))
    assert [raw for found in slices for raw in found] == [long]
    assert len(slices) < 12, "each would scan and copy what there was before"
