"""Objects: one content, or a list of objects one after the other, lists of lists included (§6.1, §6.2).

`extents` turns any object into a flat table of contents, the form that everything else works on: whole reads, streams,
ranges, and restores that write by position. A table costs about 35 bytes a content (a 1 TiB device has 200,000),
lists are checked while it is filled, and it has a largest size, so that no list can exhaust the memory.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import overload

import msgspec

from agent.base.errors import CorruptContent, CorruptObject
from agent.repository import gojson
from agent.repository.compression import decompress
from agent.repository.content_codec import MAX_CONTENT_LENGTH
from agent.repository.content_reader import ContentReader
from agent.repository.ids import ContentId, ObjectId, ParsedObjectId, content_text, parse_object_id
from agent.storage.base import Buffer

_MAX_LEVELS = 8
_MAX_ENTRIES = 8_000_000
_MAX_LIST_LENGTH = 1 << 30
_MAX_OBJECT_LENGTH = (1 << 63) - 1
_WINDOW_BYTES = 8 << 20
_WINDOW_EXTENTS = 1024


class Extent(msgspec.Struct, frozen=True):
    """A piece of an object that is one content."""

    offset: int
    """Bytes from the start of the object."""
    length: int
    """Bytes of the object; of the content's plaintext unless `compressed`."""
    content: ContentId
    compressed: bool
    """The content's plaintext is an object-level compressed stream (`Z`)."""


class ExtentTable(Sequence[Extent]):
    """All extents of an object by offset, gapless from 0, none of them empty."""

    __slots__ = ("_compressed", "_contents", "_ends", "_key_size")

    def __init__(self) -> None:
        self._ends = array("Q")
        self._contents = bytearray()
        self._compressed = bytearray()
        self._key_size = 0

    @property
    def length(self) -> int:
        """Bytes of the object."""
        return self._ends[-1] if self._ends else 0

    def __len__(self) -> int:
        """How many extents."""
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Extent: ...
    @overload
    def __getitem__(self, index: slice) -> list[Extent]: ...
    def __getitem__(self, index: int | slice) -> Extent | list[Extent]:
        """The extent number `index`, counted from either end, or a list of some."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(index)
        start = self._ends[number - 1] if number else 0
        content = ContentId(bytes(self._contents[number * self._key_size : (number + 1) * self._key_size]))
        return Extent(start, self._ends[number] - start, content, bool(self._compressed[number]))

    def number_at(self, offset: int) -> int:
        """The number of the extent that holds this byte; `len(self)` at the end of the object and beyond."""
        return bisect_right(self._ends, offset)

    def append(self, length: int, content: ContentId, compressed: bool) -> None:
        """Add an extent at the end; nothing for an empty one."""
        if not length:
            return
        if self._key_size not in (0, len(content)):
            raise CorruptObject(f"a list mixes hashes of different lengths: {content_text(content)}")
        self._key_size = len(content)
        self._ends.append(self.length + length)
        self._contents += content
        self._compressed.append(compressed)


class _ListEntry(msgspec.Struct, frozen=True, gc=False):
    o: str
    s: int = 0
    l: int = 0  # noqa: E741


class _List(msgspec.Struct, frozen=True):
    stream: str = ""
    entries: list[_ListEntry] | None = None


_LIST = msgspec.json.Decoder(_List)
_LIST_STREAM = "kopia:indirect"


class ObjectReader:
    """Objects of one repository. Loop side."""

    def __init__(self, contents: ContentReader) -> None:
        self._contents = contents

    async def read(self, oid: ObjectId, *, max_length: int | None = None) -> bytes:
        """All bytes of an object. Raises `CorruptObject` before reading more than `max_length` of them."""
        parsed = _parse(oid)
        if not parsed.indirection:
            data = await self._direct(parsed)
            _limit(oid, len(data), max_length)
            return bytes(data)
        table = await self.extents(oid)
        _limit(oid, table.length, max_length)
        return b"".join([chunk async for chunk in self._table_chunks(oid, table, 0, len(table))])

    async def chunks(self, oid: ObjectId) -> AsyncIterator[Buffer]:
        """An object as a stream of its contents, in order; one window of 8 MiB is read ahead of another."""
        parsed = _parse(oid)
        if not parsed.indirection:
            yield await self._direct(parsed)
            return
        table = await self.extents(oid)
        async with aclosing(self._table_chunks(oid, table, 0, len(table))) as chunks:
            async for chunk in chunks:
                yield chunk

    async def read_range(self, oid: ObjectId, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, fewer where the object ends."""
        parsed = _parse(oid)
        if not parsed.indirection:
            return bytes((await self._direct(parsed))[offset : offset + length])
        table = await self.extents(oid)
        end = min(offset + length, table.length)
        if offset >= end:
            return b""
        first, last = table.number_at(offset), table.number_at(end - 1)
        parts = [chunk async for chunk in self._table_chunks(oid, table, first, last + 1)]
        start = offset - table[first].offset
        return b"".join(parts)[start : start + end - offset]

    async def extents(self, oid: ObjectId) -> ExtentTable:
        """The contents that an object consists of. Lists are read, data is not (except a direct `Z` object's).

        Raises `CorruptObject` for lists that are no lists, overlap, leave gaps, or never end.
        """
        table = ExtentTable()
        parsed = _parse(oid)
        if parsed.indirection:
            await self._expand(oid, parsed, table, _Budget(), level=0)
        elif parsed.compressed:
            table.append(len(await self._direct(parsed)), parsed.content, True)
        else:
            entry = self._contents.find(parsed.content)
            length = len(await self._contents.get(parsed.content)) if entry is None else entry.original_length
            table.append(length, parsed.content, False)
        return table

    async def _expand(self, oid: str, parsed: ParsedObjectId, table: ExtentTable, budget: _Budget, level: int) -> None:
        """Append the extents of the list object `oid`."""
        if level >= _MAX_LEVELS or parsed.indirection > _MAX_LEVELS:
            raise CorruptObject(f"object {oid} has more than {_MAX_LEVELS} levels of lists")
        inner = ObjectId(oid[1:])
        entries = await asyncio.to_thread(_parse_list, oid, await self._read_list(inner, budget, level))
        budget.spend(oid, len(entries))
        start = table.length
        for entry in entries:
            if entry.s != table.length - start or entry.l < 0 or table.length + entry.l > _MAX_OBJECT_LENGTH:
                raise CorruptObject(
                    f"list of object {oid} has an entry of {entry.l} bytes at {entry.s}, not at {table.length - start}"
                )
            child = _parse(entry.o)
            if child.indirection:
                before = table.length
                await self._expand(entry.o, child, table, budget, level + 1)
                if table.length - before != entry.l:
                    raise CorruptObject(
                        f"list of object {oid} gives {entry.o} {entry.l} bytes, it has {table.length - before}"
                    )
            else:
                table.append(entry.l, child.content, child.compressed)

    async def _read_list(self, oid: ObjectId, budget: _Budget, level: int) -> bytes:
        parsed = _parse(oid)
        if not parsed.indirection:
            return bytes(await self._direct(parsed))
        table = ExtentTable()
        await self._expand(oid, parsed, table, budget, level + 1)
        _limit(oid, table.length, _MAX_LIST_LENGTH)
        return b"".join([chunk async for chunk in self._table_chunks(oid, table, 0, len(table))])

    async def _direct(self, parsed: ParsedObjectId) -> Buffer:
        data = await self._contents.get(parsed.content)
        return await asyncio.to_thread(expand_content, parsed.content, data) if parsed.compressed else data

    async def _table_chunks(self, oid: str, table: ExtentTable, first: int, end: int) -> AsyncGenerator[Buffer, None]:
        """The data of extents `first` to `end`, a window of them read while the one before is taken."""
        number = first
        held: dict[ContentId, Buffer] = {}
        ahead: asyncio.Task[dict[ContentId, Buffer]] | None = None
        window = _window(table, number, end)
        try:
            while window:
                held = await (ahead if ahead is not None else self._fetch_window(window, held))
                number += len(window)
                following = _window(table, number, end)
                ahead = asyncio.create_task(self._fetch_window(following, held)) if following else None
                for extent in window:
                    data = held[extent.content]
                    if len(data) != extent.length:
                        raise CorruptObject(
                            f"object {oid} has {extent.length} bytes of content {content_text(extent.content)} at"
                            f" {extent.offset}, the content has {len(data)}"
                        )
                    yield data
                window = following
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    async def _fetch_window(self, window: Sequence[Extent], held: dict[ContentId, Buffer]) -> dict[ContentId, Buffer]:
        """The plaintexts of a window; what the one before had already is not read again."""
        compressed = {extent.content for extent in window if extent.compressed}
        found = {extent.content: held[extent.content] for extent in window if extent.content in held}
        missing = [extent.content for extent in window if extent.content not in found]
        async with aclosing(self._contents.read_batches(missing)) as batches:
            async for batch in batches:
                for cid, data in batch:
                    found[cid] = await asyncio.to_thread(expand_content, cid, data) if cid in compressed else data
        return found


class _Budget:
    """How many list entries one object may still have, counted over all its lists."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = _MAX_ENTRIES

    def spend(self, oid: str, entries: int) -> None:
        self._left -= entries + 1
        if self._left < 0:
            raise CorruptObject(f"object {oid} has more than {_MAX_ENTRIES} entries in its lists")


def expand_content(cid: ContentId, data: Buffer) -> bytes:
    """The bytes of a `Z` object from the plaintext of its content. Raises `CorruptObject`. Thread side."""
    try:
        return decompress(data, MAX_CONTENT_LENGTH)
    except CorruptContent as error:
        raise CorruptObject(f"object Z{content_text(cid)} cannot be decompressed: {error.message}") from error


def _parse(oid: str) -> ParsedObjectId:
    """As `parse_object_id`, which kopia lets pass ids without a content (§13.5); nothing can be read there."""
    parsed = parse_object_id(oid)
    if len(parsed.content) < 2:
        raise CorruptObject(f"object id {oid!r} names no content")
    return parsed


def _window(table: ExtentTable, first: int, end: int) -> list[Extent]:
    window: list[Extent] = []
    size = 0
    for number in range(first, min(end, first + _WINDOW_EXTENTS)):
        extent = table[number]
        size += extent.length
        if window and size > _WINDOW_BYTES:
            break
        window.append(extent)
    return window


def _limit(oid: str, length: int, max_length: int | None) -> None:
    if max_length is not None and length > max_length:
        raise CorruptObject(f"object {oid} has {length} bytes, more than the {max_length} that make sense here")


def _parse_list(oid: str, data: bytes) -> Sequence[_ListEntry]:
    parsed = gojson.decode(_LIST, data, f"list of object {oid}", CorruptObject)
    if parsed.stream != _LIST_STREAM:
        raise CorruptObject(f"list of object {oid} is of kind {parsed.stream[:80]!r}, not {_LIST_STREAM!r}")
    return parsed.entries or ()
