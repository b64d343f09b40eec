"""Index blobs from index entries, byte for byte as kopia builds them.

The name of an index blob is the hash of its bytes, so equal entries have to give equal bytes whoever writes them:
the order of packs and formats in the tables is that of their first use (§4.5, §4.6). Called by the content writer for
index blobs and for the local index of a pack, and by the repair of lost indexes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from agent.base.errors import CorruptIndex, UsageError
from agent.repository.ids import ContentId, content_text
from agent.repository.index_entry import IndexEntry, winner

MAX_SHARD_ENTRIES = 16_000_000
RANDOM_SUFFIX_LENGTH = 32
"""Random bytes after a pack's local index and after legacy compaction output; readers ignore them (§4.7)."""

_V1_HEADER = struct.Struct(">BBHI")
_V1_VALUE = struct.Struct(">QIII")
_V2_HEADER = struct.Struct(">BBHIIBI")
_V2_PACK = struct.Struct(">BI")
_V2_FORMAT = struct.Struct(">IBB")
_V2_VALUE_HEAD = struct.Struct(">II")

_DELETED = 0x80000000
_EMPTY_KEY_SIZE = 255
_MAX_PACK_NAME = 255
_MAX_U32 = (1 << 32) - 1
_V1_MAX_TIME = (1 << 48) - 1
_V1_MAX_OFFSET = (1 << 31) - 1
_V2_MAX_OFFSET = (1 << 30) - 1
_V2_MAX_LENGTH = (1 << 28) - 1
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


def _check(row: IndexEntry, name: str, value: int, maximum: int) -> None:
    if not 0 <= value <= maximum:
        raise CorruptIndex(f"the index entry of content {content_text(row.content)} has {name} {value} > {maximum}")


def _check_common(row: IndexEntry) -> None:
    _check(row, "a pack name of length", len(row.pack.encode()), _MAX_PACK_NAME)
    _check(row, "format version", row.format_version, 255)


class _PackNames:
    """Pack names back to back, each once, in order of first use."""

    def __init__(self, rows: Sequence[IndexEntry]) -> None:
        self.numbers: dict[str, int] = {}
        self.offsets: list[int] = []
        names = bytearray()
        for row in rows:
            if row.pack not in self.numbers:
                self.numbers[row.pack] = len(self.numbers)
                self.offsets.append(len(names))
                names += row.pack.encode()
        self.data = bytes(names)


def _build_v1(rows: Sequence[IndexEntry]) -> bytes:
    if not rows:
        return _V1_HEADER.pack(1, _EMPTY_KEY_SIZE, _V1_VALUE.size, 0)
    key_size = _key_size(rows)
    names = _PackNames(rows)
    extra = _V1_HEADER.size + len(rows) * (key_size + _V1_VALUE.size)
    out = bytearray(_V1_HEADER.pack(1, key_size, _V1_VALUE.size, len(rows)))
    for row in rows:
        _check_common(row)
        _check(row, "time", row.time_s, _V1_MAX_TIME)
        _check(row, "offset", row.offset, _V1_MAX_OFFSET)
        _check(row, "packed length", row.packed_length, _MAX_U32)
        name_offset = extra + names.offsets[names.numbers[row.pack]]
        _check(row, "a pack name at offset", name_offset, _MAX_U32)
        out += row.content
        out += _V1_VALUE.pack(
            row.time_s << 16 | row.format_version << 8 | len(row.pack.encode()),
            name_offset,
            row.offset | (_DELETED if row.deleted else 0),
            row.packed_length,
        )
    return bytes(out + names.data)


def _build_v2(rows: Sequence[IndexEntry]) -> bytes:
    if not rows:
        raise CorruptIndex("an index of version 2 cannot be empty")
    key_size = _key_size(rows)
    names = _PackNames(rows)
    formats: dict[tuple[int, int, int], int] = {}
    for row in rows:
        _check_common(row)
        _check(row, "time", row.time_s, _MAX_U32)
        _check(row, "offset", row.offset, _V2_MAX_OFFSET)
        _check(row, "packed length", row.packed_length, _V2_MAX_LENGTH)
        _check(row, "length", row.original_length, _V2_MAX_LENGTH)
        _check(row, "compression", row.compression, _MAX_U32)
        _check(row, "key id", row.key_id, 255)
        formats.setdefault((row.compression, row.format_version, row.key_id), len(formats))
    if len(formats) > _V2_MAX_FORMATS or len(names.numbers) > _V2_MAX_PACKS:
        raise CorruptIndex(f"an index cannot hold {len(formats)} formats in {len(names.numbers)} packs")
    value_size = _v2_value_size(rows, len(formats), len(names.numbers))
    extra = (
        _V2_HEADER.size
        + len(rows) * (key_size + value_size)
        + len(names.numbers) * _V2_PACK.size
        + len(formats) * _V2_FORMAT.size
    )
    out = bytearray(_V2_HEADER.pack(2, key_size, value_size, len(rows), len(names.numbers), len(formats), 0))
    for row in rows:
        pack = names.numbers[row.pack]
        value = (
            _V2_VALUE_HEAD.pack(row.time_s, row.offset | (_DELETED if row.deleted else 0))
            + (row.original_length & 0xFFFFFF).to_bytes(3)
            + (row.packed_length & 0xFFFFFF).to_bytes(3)
            + (pack & 0xFFFF).to_bytes(2)
            + bytes((formats[(row.compression, row.format_version, row.key_id)], pack >> 16))
            + bytes(((row.original_length >> 24) << 4 | row.packed_length >> 24,))
        )
        out += row.content
        out += value[:value_size]
    for name, number in names.numbers.items():
        out += _V2_PACK.pack(len(name.encode()), extra + names.offsets[number])
    for key in formats:
        out += _V2_FORMAT.pack(*key)
    return bytes(out + names.data)


def _v2_value_size(rows: Sequence[IndexEntry], format_count: int, pack_count: int) -> int:
    if any(max(row.packed_length, row.original_length) >= _V2_SHORT_LENGTH for row in rows):
        return 19
    if pack_count > _V2_SHORT_PACKS:
        return 18
    return 17 if format_count > 1 else 16
