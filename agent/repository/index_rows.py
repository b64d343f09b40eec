"""Indexes of what was just written, straight from its rows: `index_build` for the case where speed counts.

A backup of small files has an index row for each of them twice, in its pack and in an index blob. As `IndexEntry`
objects these would cost more than hashing and sealing the files. The bytes are the same as `index_build` gives; what
this cannot do (version 1, deletions) goes there. Called by `pack_writer` and `content_writer`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from agent._native import RowTable
from agent.base.errors import CorruptIndex
from agent.repository.ids import ContentId
from agent.repository.index_build import build_index
from agent.repository.index_entry import IndexEntry
from agent.storage.base import BlobId

_HEADER = struct.Struct(">BBHIIBI")
_PACK = struct.Struct(">BI")
_FORMAT = struct.Struct(">IBB")


def row_entries(
    rows: RowTable, packs: Sequence[BlobId], format_version: int, *, pack: int | None = None
) -> Iterator[IndexEntry]:
    """The index entries of all contents of `rows`, or of those in one pack; `packs` names packs by their number."""
    for row in rows.select(pack):
        content, number, offset, packed, original, compression, time_s = rows.row(row)
        yield IndexEntry(
            ContentId(content), packs[number], offset, packed, original, time_s, False, compression, format_version
        )


def build_rows_index(
    rows: RowTable,
    packs: Sequence[BlobId],
    *,
    index_version: int,
    format_version: int,
    pack: int | None = None,
    suffix: bytes = b"",
) -> bytes:
    """`build_index` of `row_entries`, of which there is at least one. Raises `CorruptIndex`."""
    if index_version != 2:
        return build_index(row_entries(rows, packs, format_version, pack=pack), index_version, suffix=suffix)
    try:
        entries, key_size, value_size, pack_numbers, compressions = rows.index(pack)
    except ValueError as error:
        raise CorruptIndex(f"an index of new contents cannot be built: {error}") from error
    names = [packs[number].encode() for number in pack_numbers]
    count = len(entries) // (key_size + value_size)
    extra = _HEADER.size + len(entries) + len(names) * _PACK.size + len(compressions) * _FORMAT.size
    out = [
        _HEADER.pack(2, key_size, value_size, count, len(names), len(compressions), 0),
        entries,
    ]
    for name in names:
        out.append(_PACK.pack(len(name), extra))
        extra += len(name)
    out += [_FORMAT.pack(compression, format_version, 0) for compression in compressions]
    return b"".join((*out, *names, suffix))
