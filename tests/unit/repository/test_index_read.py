"""Indexes in place: what was built is found, and hostile bytes end in a named error."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.base.errors import CorruptIndex
from agent.repository.ids import ContentId
from agent.repository.index_build import build_index
from agent.repository.index_entry import IndexEntry
from agent.repository.index_read import V1_OVERHEAD, MappedIndex
from agent.storage.base import BlobId

CONTENTS = st.builds(
    lambda prefix, digest: ContentId(bytes((prefix,)) + digest),
    st.sampled_from([0, ord("k"), ord("m")]),
    st.binary(min_size=16, max_size=16),
)
PACKS = st.sampled_from([BlobId(f"p{number:032x}-s00" + "7" * 17) for number in range(5)])


def entries(version: int) -> st.SearchStrategy[IndexEntry]:
    length = st.integers(0, (1 << 28) - 1 if version == 2 else (1 << 32) - 1)
    return st.builds(
        lambda cid, pack, offset, packed, original, time_s, deleted, compression: IndexEntry(
            cid,
            pack,
            offset,
            packed,
            original if version == 2 else max(0, packed - V1_OVERHEAD),
            time_s,
            deleted,
            compression if version == 2 else 0,
        ),
        CONTENTS,
        PACKS,
        st.integers(0, (1 << 30) - 1),
        length,
        st.integers(0, (1 << 28) - 1),
        st.integers(0, (1 << 32) - 1),
        st.booleans(),
        st.sampled_from([0, 0x1101, 0x1200]),
    )


INDEXES = st.sampled_from([1, 2]).flatmap(
    lambda version: st.tuples(
        st.just(version), st.lists(entries(version), min_size=1, max_size=20, unique_by=lambda entry: entry.content)
    )
)


@given(INDEXES, st.binary(max_size=32))
def test_what_was_built_is_found_and_iterated(built: tuple[int, list[IndexEntry]], suffix: bytes) -> None:
    version, rows = built
    index = MappedIndex(build_index(rows, version, suffix=suffix))
    index.check_sorted()
    by_key = sorted(rows, key=lambda row: row.content)
    assert len(index) == len(rows)
    assert list(index.entries()) == by_key
    assert list(index.entries(b"k")) == [row for row in by_key if row.content[0] == ord("k")]
    absent = ContentId(b"z" + bytes(16))
    assert index.find_many([*(row.content for row in rows), absent]) == [*rows, None]
    assert index.find_many([ContentId(b"z" + bytes(28)), rows[0].content]) == [None, rows[0]]
    assert index.find(absent) is None


@settings(max_examples=100)
@given(INDEXES, st.data())
def test_damaged_bytes_give_rows_or_a_named_error(built: tuple[int, list[IndexEntry]], data: st.DataObject) -> None:
    version, rows = built
    blob = bytearray(build_index(rows, version))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    del blob[data.draw(st.integers(0, len(blob))) :]
    with contextlib.suppress(CorruptIndex):
        index = MappedIndex(bytes(blob))
        with contextlib.suppress(CorruptIndex):
            index.check_sorted()
        for row in rows:
            with contextlib.suppress(CorruptIndex):
                index.find(row.content)
        list(index.entries())


def test_an_empty_index_finds_nothing() -> None:
    index = MappedIndex(build_index([], 1))
    index.check_sorted()
    assert len(index) == 0
    assert index.find(ContentId(bytes(17))) is None
    assert index.find_many([ContentId(bytes(17))]) == [None]
    assert list(index.entries()) == []


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x02" * 16, b"\x03" * 100, b"\x02\x11\x00\x10" + b"\xff" * 30])
def test_what_is_no_index_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptIndex):
        MappedIndex(data)


def test_unsorted_rows_are_refused_before_an_index_is_kept() -> None:
    first, second = (
        IndexEntry(ContentId(bytes((0,)) + bytes((number,)) * 16), BlobId("p1"), 1, 1, 1, 1) for number in (1, 2)
    )
    blob = bytearray(build_index([first, second], 2))
    blob[17 + 1] = 3
    with pytest.raises(CorruptIndex, match="not sorted at row 1"):
        MappedIndex(bytes(blob)).check_sorted()
