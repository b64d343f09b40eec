"""The quick index builder against the plain one."""

from collections.abc import Mapping
from dataclasses import astuple, dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent._native import RowTable
from agent.base.errors import CorruptIndex
from agent.repository.ids import ContentId
from agent.repository.index_build import build_index
from agent.repository.index_entry import IndexEntry
from agent.repository.index_rows import build_rows_index, row_entries
from agent.storage.base import BlobId

PACKS = [BlobId(f"p{n:032x}-s00112233445566771{n % 10}") for n in range(70_000)]


@dataclass(frozen=True)
class Place:
    pack: int = 0
    offset: int = 0
    packed: int = 28
    original: int = 0
    compression: int = 0
    time_s: int = 1


def table(places: Mapping[ContentId, Place]) -> RowTable:
    rows = RowTable()
    assert rows.claim(list(places), []) == list(range(len(places)))
    for number, place in enumerate(places.values()):
        pack, offset, *columns = astuple(place)
        rows.place(number, pack, offset, *([value] for value in columns))
    return rows


def entries(places: Mapping[ContentId, Place], pack: int | None = None) -> list[IndexEntry]:
    return [
        IndexEntry(content, PACKS[p.pack], p.offset, p.packed, p.original, p.time_s, False, p.compression)
        for content, p in places.items()
        if pack is None or p.pack == pack
    ]


places_of_contents = st.integers(1, 64).flatmap(
    lambda size: st.dictionaries(
        st.builds(
            lambda prefix, digest: ContentId(bytes([prefix]) + digest),
            st.sampled_from([0, 107]),
            st.binary(min_size=size, max_size=size),
        ),
        st.builds(
            Place,
            st.sampled_from([0, 1, 2, 3, 255, 256]),
            st.integers(0, (1 << 30) - 1),
            st.integers(0, (1 << 24) - 1) | st.integers(0, (1 << 28) - 1),
            st.integers(0, (1 << 24) - 1),
            st.sampled_from([0, 0, 0x1100, 0x1101]),
            st.integers(0, (1 << 32) - 1),
        ),
        min_size=1,
    )
)


@given(places_of_contents, st.sampled_from([1, 2]), st.binary(max_size=32))
def test_the_bytes_are_those_of_the_plain_builder(places: dict[ContentId, Place], version: int, suffix: bytes) -> None:
    rows = table(places)
    assert list(row_entries(rows, PACKS, 3)) == entries(places)
    plain = build_index(entries(places), version, suffix=suffix)
    assert build_rows_index(rows, PACKS, index_version=version, format_version=3, suffix=suffix) == plain


@given(places_of_contents, st.sampled_from([1, 2]))
def test_the_index_of_a_pack_is_that_of_its_contents_and_needs_no_others(
    places: dict[ContentId, Place], version: int
) -> None:
    rows = table(places)
    rows.claim([bytes(len(next(iter(places))) - 1) + b"!"], [])  # it has no place yet
    for pack in {place.pack for place in places.values()}:
        assert list(row_entries(rows, PACKS, 3, pack=pack)) == entries(places, pack)
        plain = build_index(entries(places, pack), version)
        assert build_rows_index(rows, PACKS, index_version=version, format_version=3, pack=pack) == plain


def test_more_than_65536_packs_take_a_wider_number() -> None:
    places = {ContentId(n.to_bytes(17)): Place(pack=n) for n in range(70_000)}
    plain = build_index(entries(places), 2)
    assert build_rows_index(table(places), PACKS, index_version=2, format_version=3) == plain


def test_as_many_compressions_as_an_index_can_hold_and_no_more() -> None:
    places = {ContentId(n.to_bytes(17)): Place(compression=n) for n in range(255)}
    plain = build_index(entries(places), 2)
    assert build_rows_index(table(places), PACKS, index_version=2, format_version=3) == plain
    places[ContentId(b"\1" * 17)] = Place(compression=255)
    with pytest.raises(CorruptIndex, match="compressions"):
        build_rows_index(table(places), PACKS, index_version=2, format_version=3)


@pytest.mark.parametrize(
    "place",
    [
        Place(pack=1 << 24),
        Place(offset=1 << 30),
        Place(packed=1 << 28),
        Place(original=1 << 28),
        Place(time_s=1 << 32),
    ],
)
def test_what_an_index_cannot_hold_is_refused(place: Place) -> None:
    rows = table({ContentId(bytes(17)): place})
    with pytest.raises(CorruptIndex):
        build_rows_index(rows, PACKS, index_version=2, format_version=3)


def test_a_time_that_only_version_1_can_hold_is_kept_for_it() -> None:
    places = {ContentId(bytes(17)): Place(time_s=(1 << 48) - 1)}
    plain = build_index(entries(places), 1)
    assert build_rows_index(table(places), PACKS, index_version=1, format_version=3) == plain


def test_an_index_of_nothing_or_of_a_content_without_a_place_is_refused() -> None:
    rows = RowTable()
    with pytest.raises(CorruptIndex):
        build_rows_index(rows, PACKS, index_version=2, format_version=3)
    rows.claim([bytes(17)], [])
    for pack in (None, 0):
        with pytest.raises(CorruptIndex):
            build_rows_index(rows, PACKS, index_version=2, format_version=3, pack=pack)
