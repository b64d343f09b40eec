"""Index blobs from index entries, byte for byte as kopia builds them.

The name of an index blob is the hash of its bytes, so equal entries have to give equal bytes whoever writes them:
the order of packs and formats in the tables is that of their first use (§4.5, §4.6). Called by the content writer for
index blobs and for the local index of a pack, and by the repair of lost indexes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import msgspec

from agent.base.errors import CorruptIndex, UsageError
from agent.repository.ids import ContentId, content_text
from agent.repository.index_entry import IndexEntry, winner
from agent.storage.base import BlobId

MAX_SHARD_ENTRIES = 16_000_000
RANDOM_SUFFIX_LENGTH = 32
"""Random bytes after a pack's local index and after legacy compaction output; readers ignore them (§4.7)."""

_V1_HEADER = struct.Struct(">BBHI")
_V1_VALUE_SIZE = 20
_V2_HEADER = struct.Struct(">BBHIIBI")
_V2_PACK = struct.Struct(">BI")
_V2_FORMAT = struct.Struct(">IBB")
_V2_VALUE = "IIBHBHH"
_V2_MIN_VALUE_SIZE = 16

_DELETED = 0x80000000
_EMPTY_KEY_SIZE = 255
_MAX_PACK_NAME = 255
_MAX_NAMES = 1 << 31
_MAX_U32 = (1 << 32) - 1
_V2_SHORT_LENGTH = 1 << 24
_V2_MAX_FORMATS = 255
_V2_MAX_PACKS = 1 << 24
_V2_SHORT_PACKS = 1 << 16
_FNV_OFFSET = 0x811C9DC5
_FNV_PRIME = 0x01000193


def build_index(entries: Iterable[IndexEntry], version: int, *, suffix: bytes = b"") -> bytes:
    """One index of `version` 1 or 2 over `entries`, in any order; of several for one content the winner is kept.

    `suffix` is appended as it is: `RANDOM_SUFFIX_LENGTH` random bytes for the local index of a pack, else nothing.
    Raises `CorruptIndex` for entries that the version cannot hold: keys of unequal length, values out of range.
    """
    rows = _sorted_winners(entries)
    if version == 1:
        return _build_v1(rows) + suffix
    if version == 2:
        return _build_v2(rows) + suffix
    raise UsageError(f"index version {version} cannot be written", hint="the versions are 1 and 2")


def build_shards(
    entries: Iterable[IndexEntry], version: int, *, max_entries: int = MAX_SHARD_ENTRIES
) -> Sequence[bytes]:
    """The index blobs that hold `entries`: usually one, none for no entries, several beyond `max_entries` (§4.7)."""
    rows = _sorted_winners(entries)
    count = -(-len(rows) // max_entries)
    if count <= 1:
        return [build_index(rows, version)] if rows else []
    shards: list[list[IndexEntry]] = [[] for _ in range(count)]
    for row in rows:
        shards[_fnv1a(content_text(row.content).encode()) % count].append(row)
    return [build_index(shard, version) for shard in shards if shard]


def _fnv1a(data: bytes) -> int:
    value = _FNV_OFFSET
    for byte in data:
        value = ((value ^ byte) * _FNV_PRIME) & _MAX_U32
    return value


def _sorted_winners(entries: Iterable[IndexEntry]) -> list[IndexEntry]:
    by_content: dict[ContentId, IndexEntry] = {}
    for entry in entries:
        old = by_content.get(entry.content)
        by_content[entry.content] = entry if old is None else winner(old, entry)
    return [by_content[content] for content in sorted(by_content)]


def _key_size(rows: Sequence[IndexEntry]) -> int:
    sizes = {len(row.content) for row in rows}
    if len(sizes) > 1:
        raise CorruptIndex(f"an index cannot hold contents of different hash lengths: keys of {sorted(sizes)} bytes")
    size = sizes.pop()
    if not 1 < size < _EMPTY_KEY_SIZE:
        raise CorruptIndex(f"an index cannot hold a content id of {size} bytes")
    return size


class _Names:
    """Pack names back to back, each once, in order of first use."""

    def __init__(self, rows: Sequence[IndexEntry]) -> None:
        self.numbers: dict[BlobId, int] = {}
        self.lengths: list[int] = []
        self.offsets: list[int] = []
        names = bytearray()
        for row in rows:
            if row.pack not in self.numbers:
                name = row.pack.encode()
                self.numbers[row.pack] = len(self.numbers)
                self.lengths.append(len(name))
                self.offsets.append(len(names))
                names += name
        self.data = bytes(names)


def _build_v1(rows: Sequence[IndexEntry]) -> bytes:
    if not rows:
        return _V1_HEADER.pack(1, _EMPTY_KEY_SIZE, _V1_VALUE_SIZE, 0)
    key_size = _key_size(rows)
    names = _Names(rows)
    row_struct = struct.Struct(f">{key_size}sQIII")
    extra = _V1_HEADER.size + len(rows) * row_struct.size
    out = bytearray(extra)
    _V1_HEADER.pack_into(out, 0, 1, key_size, _V1_VALUE_SIZE, len(rows))
    _check_ranges(rows, names, _V1_LIMITS)
    at, pack_into, numbers = _V1_HEADER.size, row_struct.pack_into, names.numbers
    for row in rows:
        number = numbers[row.pack]
        pack_into(
            out,
            at,
            row.content,
            row.time_s << 16 | row.format_version << 8 | names.lengths[number],
            extra + names.offsets[number],
            row.offset | (_DELETED if row.deleted else 0),
            row.packed_length,
        )
        at += row_struct.size
    return bytes(out) + names.data


def _build_v2(rows: Sequence[IndexEntry]) -> bytes:
    if not rows:
        raise CorruptIndex("an index of version 2 cannot be empty")
    key_size = _key_size(rows)
    names = _Names(rows)
    formats: dict[tuple[int, int, int], int] = {}
    for row in rows:
        formats.setdefault((row.compression, row.format_version, row.key_id), len(formats))
    if len(formats) > _V2_MAX_FORMATS or len(names.numbers) > _V2_MAX_PACKS:
        raise CorruptIndex(f"an index cannot hold {len(formats)} formats in {len(names.numbers)} packs")
    _check_ranges(rows, names, _V2_LIMITS)
    value_size = _v2_value_size(rows, len(formats), len(names.numbers))
    row_struct = struct.Struct(f">{key_size}s{_V2_VALUE}{'B' * (value_size - _V2_MIN_VALUE_SIZE)}")
    extra = _V2_HEADER.size + len(rows) * row_struct.size
    extra += len(names.numbers) * _V2_PACK.size + len(formats) * _V2_FORMAT.size
    out = bytearray(_V2_HEADER.size + len(rows) * row_struct.size)
    _V2_HEADER.pack_into(out, 0, 2, key_size, value_size, len(rows), len(names.numbers), len(formats), 0)
    at, pack_into, numbers, optional = (
        _V2_HEADER.size,
        row_struct.pack_into,
        names.numbers,
        value_size - _V2_MIN_VALUE_SIZE,
    )
    for row in rows:
        number, original, packed = numbers[row.pack], row.original_length, row.packed_length
        last = (
            formats[row.compression, row.format_version, row.key_id],
            number >> 16,
            original >> 24 << 4 | packed >> 24,
        )
        pack_into(
            out,
            at,
            row.content,
            row.time_s,
            row.offset | (_DELETED if row.deleted else 0),
            original >> 16 & 0xFF,
            original & 0xFFFF,
            packed >> 16 & 0xFF,
            packed & 0xFFFF,
            number & 0xFFFF,
            *last[:optional],
        )
        at += row_struct.size
    for length, offset in zip(names.lengths, names.offsets, strict=True):
        out += _V2_PACK.pack(length, extra + offset)
    for key in formats:
        out += _V2_FORMAT.pack(*key)
    return bytes(out) + names.data


def _v2_value_size(rows: Sequence[IndexEntry], format_count: int, pack_count: int) -> int:
    if any(row.packed_length >= _V2_SHORT_LENGTH or row.original_length >= _V2_SHORT_LENGTH for row in rows):
        return 19
    if pack_count > _V2_SHORT_PACKS:
        return 18
    return 17 if format_count > 1 else _V2_MIN_VALUE_SIZE


class _Limits(msgspec.Struct, frozen=True):
    """How many bits each value may have."""

    time_s: int
    offset: int
    packed_length: int
    original_length: int


_V1_LIMITS = _Limits(48, 31, 32, 64)
_V2_LIMITS = _Limits(32, 30, 28, 28)


def _check_ranges(rows: Sequence[IndexEntry], names: _Names, limits: _Limits) -> None:
    """Raise `CorruptIndex`, naming the row, unless every value fits; a shift leaves nothing of one that does."""
    if len(names.data) > _MAX_NAMES or max(names.lengths) > _MAX_PACK_NAME:
        raise CorruptIndex(f"an index cannot hold pack names of {max(names.lengths)}, together {len(names.data)} bytes")
    for row in rows:
        if (
            row.time_s >> limits.time_s
            or row.offset >> limits.offset
            or row.packed_length >> limits.packed_length
            or row.original_length >> limits.original_length
            or (row.format_version | row.key_id) >> 8
            or row.compression >> 32
        ):
            raise CorruptIndex(f"the index entry of content {content_text(row.content)} does not fit an index: {row}")
