"""Index blobs, read in place: the sorted rows stay in the mapped file, only what is asked for becomes an object.

A repository has millions of rows; on the heap they would cost hundreds of bytes each. `index_set` merges several
`MappedIndex` objects, `index_cache` makes them from verified local files. The bytes come from a decrypted blob, so they
were written by somebody who holds the keys, but nothing here relies on that: every reference is checked when it
is followed, and `check_sorted` once before the file is kept.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from agent import _native
from agent.base.errors import CorruptIndex
from agent.repository.ids import ContentId
from agent.repository.index_entry import IndexEntry
from agent.storage.base import BlobId, Buffer

V1_OVERHEAD = 28
"""Version 1 stores no plaintext lengths; there they are the packed lengths less this (§4.5)."""

_V1_HEADER = struct.Struct(">BBHI")
_V1_VALUE = struct.Struct(">QIII")
_V2_HEADER = struct.Struct(">BBHIIBI")
_V2_VALUE = struct.Struct(">IIBHBHH")
_V2_PACK = struct.Struct(">BI")
_V2_FORMAT = struct.Struct(">IBB")
_V2_MAX_VALUE = 19
_DELETED = 0x80000000
_OFFSET = 0x7FFFFFFF
_MIN_KEY = 2
_MAX_KEY = 33
_MAX_NAMES = 4096


class MappedIndex:
    """One index of version 1 or 2 over bytes that stay where they are. Immutable; any thread may call it."""

    __slots__ = (
        "_base_time",
        "_count",
        "_data",
        "_format_count",
        "_formats_at",
        "_key_size",
        "_names",
        "_pack_count",
        "_packs_at",
        "_rows_at",
        "_stride",
        "_version",
        "name",
    )

    def __init__(self, data: Buffer, name: str = "index") -> None:
        """`name` is for messages. Raises `CorruptIndex` when the header does not fit the bytes."""
        self._data = memoryview(data)
        self.name = name
        self._names: dict[tuple[int, int], BlobId] = {}
        self._version = self._data[0] if self._data else 0
        self._pack_count = self._format_count = self._base_time = 0
        if self._version == 1 and len(self._data) >= _V1_HEADER.size:
            _, self._key_size, value_size, self._count = _V1_HEADER.unpack_from(self._data)
            self._rows_at = _V1_HEADER.size
            sizes = (_V1_VALUE.size, _V1_VALUE.size)
        elif self._version == 2 and len(self._data) >= _V2_HEADER.size:
            header = _V2_HEADER.unpack_from(self._data)
            _, self._key_size, value_size, self._count, self._pack_count, self._format_count, self._base_time = header
            self._rows_at = _V2_HEADER.size
            sizes = (_V2_VALUE.size, _V2_MAX_VALUE)
        else:
            raise CorruptIndex(f"{name} is no index: {len(self._data)} bytes that start with {self._version}")
        self._stride = self._key_size + value_size
        if self._count and not (_MIN_KEY <= self._key_size <= _MAX_KEY and sizes[0] <= value_size <= sizes[1]):
            raise CorruptIndex(f"{name} has rows of {self._key_size} + {value_size} bytes, which no index has")
        self._packs_at = self._rows_at + self._count * self._stride
        self._formats_at = self._packs_at + self._pack_count * _V2_PACK.size
        end = self._formats_at + self._format_count * _V2_FORMAT.size
        if end > len(self._data):
            raise CorruptIndex(f"{name} claims {self._count} rows in {len(self._data)} bytes; {end} would be needed")

    def __len__(self) -> int:
        """Rows, deleted ones included."""
        return int(self._count)

    def find(self, content: ContentId) -> IndexEntry | None:
        """The row of `content`. Raises `CorruptIndex` when that row makes no sense."""
        if not self._count:
            return None
        row = _native.find_key(self._data, self._rows_at, self._stride, self._key_size, self._count, content)
        return None if row < 0 else self._entry(row, content)

    def find_many(self, contents: Sequence[ContentId]) -> list[IndexEntry | None]:
        """The rows of `contents`, in their order; one native search when all ids are of one length."""
        if not self._count:
            return [None] * len(contents)
        keys = b"".join(contents)
        if len(keys) != self._key_size * len(contents) or any(len(content) != self._key_size for content in contents):
            return [self.find(content) for content in contents]
        found = _native.find_keys(self._data, self._rows_at, self._stride, self._key_size, self._count, keys)
        rows = memoryview(found).cast("q")
        return [None if row < 0 else self._entry(row, content) for row, content in zip(rows, contents, strict=True)]

    def entries(self, prefix: bytes = b"") -> Iterator[IndexEntry]:
        """The rows whose keys start with `prefix`, by key, one at a time."""
        for row in range(self._lower_bound(prefix), self._count):
            key = self._key(row)
            if not key.startswith(prefix):
                return
            yield self._entry(row, ContentId(key))

    def check_sorted(self) -> None:
        """Raise `CorruptIndex` unless the keys ascend, each once: a search would miss what is out of order."""
        if self._count:
            row = _native.first_unsorted(self._data, self._rows_at, self._stride, self._key_size, self._count)
            if row >= 0:
                raise CorruptIndex(f"{self.name} is not sorted at row {row}")

    def _lower_bound(self, key: bytes) -> int:
        return bisect_left(range(self._count), key, key=self._key)

    def _key(self, row: int) -> bytes:
        at = self._rows_at + row * self._stride
        return bytes(self._data[at : at + self._key_size])

    def _entry(self, row: int, content: ContentId) -> IndexEntry:
        at = self._rows_at + row * self._stride + self._key_size
        return self._v1_entry(at, content) if self._version == 1 else self._v2_entry(at, content)

    def _v1_entry(self, at: int, content: ContentId) -> IndexEntry:
        packed_time, name_at, offset, packed = _V1_VALUE.unpack_from(self._data, at)
        return IndexEntry(
            content,
            self._pack_name(name_at, packed_time & 0xFF),
            offset & _OFFSET,
            packed,
            max(0, packed - V1_OVERHEAD),
            packed_time >> 16,
            bool(offset & _DELETED),
            0,
            packed_time >> 8 & 0xFF,
        )

    def _v2_entry(self, at: int, content: ContentId) -> IndexEntry:
        data = self._data
        time, offset, original_high, original, packed_high, packed, pack = _V2_VALUE.unpack_from(data, at)
        original |= original_high << 16
        packed |= packed_high << 16
        number = 0
        extra = self._stride - self._key_size - _V2_VALUE.size
        if extra > 0:
            number = data[at + 16]
        if extra > 1:
            pack |= data[at + 17] << 16
        if extra > 2:
            original |= (data[at + 18] >> 4) << 24
            packed |= (data[at + 18] & 15) << 24
        if pack >= self._pack_count or number >= self._format_count:
            raise CorruptIndex(f"{self.name} refers to pack {pack} and format {number}, which it does not have")
        length, name_at = _V2_PACK.unpack_from(data, self._packs_at + pack * _V2_PACK.size)
        compression, version, key_id = _V2_FORMAT.unpack_from(data, self._formats_at + number * _V2_FORMAT.size)
        return IndexEntry(
            content,
            self._pack_name(name_at, length),
            offset & _OFFSET,
            packed,
            original,
            self._base_time + time,
            bool(offset & _DELETED),
            compression,
            version,
            key_id,
        )

    def _pack_name(self, at: int, length: int) -> BlobId:
        """The name there, the same object each time as far as memory is bounded."""
        name = self._names.get((at, length))
        if name is None:
            raw = bytes(self._data[at : at + length])
            if len(raw) != length or not length or not raw.isascii():
                raise CorruptIndex(f"{self.name} has no pack name in the {length} bytes at {at}")
            if len(self._names) >= _MAX_NAMES:
                self._names.clear()
            name = self._names[(at, length)] = BlobId(raw.decode("ascii"))
        return name
