"""Objects over contents: lists, lists of lists, and lists that lie."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.base.errors import CorruptObject
from agent.repository import object_reader
from agent.repository.compression import compress
from agent.repository.ids import ObjectId, content_text
from agent.repository.object_reader import ExtentTable, ObjectReader
from tests.unit.repository.made_repository import MadeRepository

PARTS = [b"first part", b"second", b"", b"first part", b"the end"]


def list_of(items: list[tuple[int, str]]) -> bytes:
    entries = []
    start = 0
    for length, oid in items:
        entries.append({"s": start, "l": length, "o": oid})
        start += length
    return json.dumps({"stream": "kopia:indirect", "entries": entries}).encode()


async def put(made: MadeRepository, data: bytes) -> str:
    return content_text(made.object(data))


async def reader(made: MadeRepository) -> ObjectReader:
    await made.index_set.refresh()
    return ObjectReader(made.contents)


async def test_a_list_is_read_in_order_with_repeated_empty_compressed_and_nested_parts() -> None:
    made = MadeRepository()
    inner = "I" + await put(made, list_of([(len(part), await put(made, part)) for part in PARTS]))
    zipped = "Z" + await put(made, compress(0x1101, b"squeezed " * 100))
    whole = b"".join(PARTS)
    outer = list_of([(len(whole), inner), (900, zipped), (len(whole), inner)])
    oid = ObjectId("I" + await put(made, outer))
    objects = await reader(made)
    expected = whole + b"squeezed " * 100 + whole
    assert await objects.read(oid) == expected
    assert b"".join([chunk async for chunk in objects.chunks(oid)]) == expected
    for start, length in ((0, 5), (8, 12), (len(whole) + 3, 1000), (0, 10_000), (5000, 1)):
        assert await objects.read_range(oid, start, length) == expected[start : start + length]
    assert (await objects.extents(oid)).length == len(expected)
    assert [extent.compressed for extent in await objects.extents(ObjectId(zipped))] == [True]
    with pytest.raises(CorruptObject, match="more than the 10"):
        await objects.read(oid, max_length=10)


@pytest.mark.parametrize(
    "entries",
    [
        [{"s": 1, "l": 3, "o": "{one}"}],
        [{"s": 0, "l": 3, "o": "{one}"}, {"s": 2, "l": 3, "o": "{one}"}],
        [{"s": 0, "l": 3, "o": "{one}"}, {"s": 4, "l": 3, "o": "{one}"}],
        [{"s": 0, "l": -3, "o": "{one}"}],
        [{"s": 0, "l": 4, "o": "{one}"}],
        [{"s": 0, "l": 2, "o": "{one}"}],
        [{"s": 0, "l": 1 << 63, "o": "{one}"}],
        [{"s": 0, "l": 3, "o": "nonsense"}],
        [{"s": 0, "l": 3, "o": ""}],
        [{"s": 0, "l": "3", "o": "{one}"}],
        [{"s": 0, "l": 3}],
        {"a": 1},
        "text",
    ],
)
async def test_a_list_that_lies_is_a_named_error(entries: object) -> None:
    made = MadeRepository()
    one = await put(made, b"one")
    text = json.dumps({"stream": "kopia:indirect", "entries": entries}).replace("{one}", one)
    oid = ObjectId("I" + await put(made, text.encode()))
    objects = await reader(made)
    with pytest.raises(CorruptObject):
        await objects.read(oid)


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"[]", b"{}", b'{"stream":"kopia:directory","entries":[]}', b"[" * 10**5]
)
async def test_what_is_no_list_is_a_named_error(data: bytes) -> None:
    made = MadeRepository()
    oid = ObjectId("I" + await put(made, data))
    objects = await reader(made)
    with pytest.raises(CorruptObject, match="list of object I"):
        await objects.extents(oid)


async def test_lists_that_multiply_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_reader, "_MAX_ENTRIES", 1000)
    made = MadeRepository()
    oid, length = await put(made, b"x"), 1
    for _ in range(6):
        oid, length = "I" + await put(made, list_of([(length, oid)] * 10)), length * 10
    objects = await reader(made)
    with pytest.raises(CorruptObject, match="entries"):
        await objects.extents(ObjectId(oid))


async def test_lists_of_lists_without_end_are_stopped() -> None:
    made = MadeRepository()
    oid = await put(made, b"x")
    for _ in range(12):
        oid = "I" + await put(made, list_of([(1, oid)]))
    objects = await reader(made)
    with pytest.raises(CorruptObject, match="levels"):
        await objects.extents(ObjectId(oid))
    with pytest.raises(CorruptObject, match="levels"):
        await objects.extents(ObjectId("I" * 5000 + "ab" * 16))


@given(st.lists(st.integers(0, 5), max_size=30))
def test_an_extent_table_finds_every_byte(lengths: list[int]) -> None:
    made = MadeRepository()
    table = ExtentTable()
    for number, length in enumerate(lengths):
        table.append(length, made.cid(b"%d" % number), bool(number % 2))
    numbers = [number for number, length in enumerate(lengths) for _ in range(length)]
    kept = [number for number, length in enumerate(lengths) if length]
    assert table.length == sum(lengths)
    assert [kept[table.number_at(offset)] for offset in range(table.length)] == numbers
    assert table.number_at(table.length) == len(table)
    assert [extent.content for extent in table] == [made.cid(b"%d" % number) for number in kept]
    assert table[-2:] == list(table)[-2:]
