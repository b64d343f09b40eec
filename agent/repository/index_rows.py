"""Indexes of what was just written, straight from its rows: `index_build` for the case where speed counts.

A backup of small files has an index row for each of them twice, in its pack and in an index blob. As `IndexEntry`
objects these would cost more than hashing and sealing the files. The bytes are the same as `index_build` gives; what
this cannot do (version 1, deletions) goes there. Called by `pack_writer` and `content_writer`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from agent import _native
from agent.base.errors import CorruptIndex
from agent.repository.ids import ContentId
from agent.repository.index_build import build_index
from agent.repository.index_entry import IndexEntry
from agent.storage.base import BlobId

Row = bytes
"""A content's place as kept until its index is in force: `ROW` packed. An `IndexEntry` takes several times the room."""

ROW = struct.Struct("<IIIIIQ")
"""Pack number within the session, offset, packed length, original length, compression, unix seconds."""

_HEADER = struct.Struct(">BBHIIBI")
_PACK = struct.Struct(">BI")
_FORMAT = struct.Struct(">IBB")


def row_entries(
    rows: dict[ContentId, Row], contents: Sequence[ContentId], packs: Sequence[BlobId], format_version: int
) -> Iterator[IndexEntry]:
    """The index entries of these contents; `packs` names the session's packs by their number."""
    for content in contents:
        number, offset, packed, original, compression, time_s = ROW.unpack(rows[content])
        yield IndexEntry(content, packs[number], offset, packed, original, time_s, False, compression, format_version)


def build_rows_index(
    rows: dict[ContentId, Row],
    contents: list[ContentId],
    packs: Sequence[BlobId],
    *,
    index_version: int,
    format_version: int,
    suffix: bytes = b"",
) -> bytes:
    """`build_index` of `row_entries`; `contents` are distinct and at least one."""
    if index_version != 2:
        return build_index(row_entries(rows, contents, packs, format_version), index_version, suffix=suffix)
    try:
        entries, pack_numbers, compressions = _native.index_rows(rows, contents)
    except ValueError as error:
        raise CorruptIndex(f"an index of {len(contents)} contents cannot be built: {error}") from error
    names = [packs[number].encode() for number in pack_numbers]
    key_size = len(contents[0])
    extra = _HEADER.size + len(entries) + len(names) * _PACK.size + len(compressions) * _FORMAT.size
    out = [
        _HEADER.pack(
            2, key_size, len(entries) // len(contents) - key_size, len(contents), len(names), len(compressions), 0
        ),
        entries,
    ]
    for name in names:
        out.append(_PACK.pack(len(name), extra))
        extra += len(name)
    out += [_FORMAT.pack(compression, format_version, 0) for compression in compressions]
    return b"".join((*out, *names, suffix))
