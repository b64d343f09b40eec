"""The quick index builder against the plain one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.base.errors import CorruptIndex
from agent.repository.ids import ContentId
from agent.repository.index_build import build_index
from agent.repository.index_rows import ROW, build_rows_index, row_entries
from agent.storage.base import BlobId

PACKS = [BlobId(f"p{n:032x}-s00112233445566771{n % 10}") for n in range(70_000)]
places = st.builds(
    ROW.pack,
    st.sampled_from([0, 1, 2, 3, 255, 256]),
    st.integers(0, (1 << 30) - 1),
    st.integers(0, (1 << 24) - 1) | st.integers(0, (1 << 28) - 1),
    st.integers(0, (1 << 24) - 1),
    st.sampled_from([0, 0, 0x1100, 0x1101]),
    st.integers(0, (1 << 32) - 1),
)


@given(
    st.sampled_from([16, 28, 32]).flatmap(
        lambda size: st.dictionaries(
            st.builds(lambda p, h: bytes([p]) + h, st.sampled_from([0, 107]), st.binary(min_size=size, max_size=size)),
            places,
            min_size=1,
        )
    ),
    st.sampled_from([1, 2]),
    st.binary(max_size=32),
)
def test_the_bytes_are_those_of_the_plain_builder(rows: dict[ContentId, bytes], version: int, suffix: bytes) -> None:
    contents = list(rows)
    plain = build_index(row_entries(rows, contents, PACKS, 3), version, suffix=suffix)
    assert build_rows_index(rows, contents, PACKS, index_version=version, format_version=3, suffix=suffix) == plain


def test_more_than_65536_packs_take_a_wider_number() -> None:
    rows = {ContentId(n.to_bytes(17)): ROW.pack(n, 0, 28, 0, 0, 1) for n in range(70_000)}
    plain = build_index(row_entries(rows, list(rows), PACKS, 3), 2)
    assert build_rows_index(rows, list(rows), PACKS, index_version=2, format_version=3) == plain


@pytest.mark.parametrize(
    "row",
    [ROW.pack(0, 1 << 30, 28, 0, 0, 1), ROW.pack(0, 0, 1 << 28, 0, 0, 1), ROW.pack(0, 0, 28, 0, 0, 1 << 32), b""],
)
def test_what_an_index_cannot_hold_is_refused(row: bytes) -> None:
    content = ContentId(bytes(17))
    with pytest.raises(CorruptIndex):
        build_rows_index({content: row}, [content], PACKS, index_version=2, format_version=3)
