"""Contents by id: find them in the index, fetch their ranges, hand out what was verified.

    read_batches  cids -> entries -> plan_ranges -> fetch ahead, bounded by bytes -> open a range's contents in a thread

Single contents and batches go the same way. When a pack is gone, maintenance may have rewritten its contents since the
index was loaded: the index is refreshed once and what moved is read from its new place. When a range turns out
damaged, its contents are read one by one, so that an error names the content and its neighbours still come out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import TypeVar

import msgspec

from agent.base.errors import BlobNotFound, BlobTooShort, ContentNotFound, CorruptContent, RepositoryError
from agent.repository.content_cache import PackCache
from agent.repository.content_codec import MAX_CONTENT_LENGTH, MAX_PACKED_LENGTH, ContentCodec, describe
from agent.repository.ids import ContentId, content_text
from agent.repository.index_entry import IndexEntry
from agent.repository.index_set import IndexSet
from agent.repository.range_plan import PackRange, plan_ranges
from agent.storage.base import BlobId, BlobStorage, Buffer

T = TypeVar("T")
Batch = list[tuple[ContentId, Buffer]]
OnError = Callable[[ContentId, RepositoryError], None]
Opening = Callable[[Sequence[IndexEntry], Sequence[memoryview]], list[T]]

_WINDOW = 16384


class ReadLimits(msgspec.Struct, frozen=True):
    """Bounds of what a batched read keeps in memory."""

    parallel: int = 8
    """Ranges in flight."""
    bytes_ahead: int = 20 << 20
    """Ranges and their plaintexts, fetched and not yet taken, of all reads together; at least one range each."""


class ContentReader:
    """Verified contents of one repository."""

    def __init__(
        self,
        storage: BlobStorage,
        index: IndexSet,
        codec: ContentCodec,
        packs: PackCache,
        limits: ReadLimits | None = None,
    ) -> None:
        self._storage = storage
        self._codec = codec
        self._packs = packs
        self._limits = limits or ReadLimits()
        self._ahead = 0
        self._gone: set[BlobId] = set()
        self._gone_lock = asyncio.Lock()
        self.index = index

    def find(self, cid: ContentId) -> IndexEntry | None:
        """The entry in force, a deleted one included; no I/O beyond mapped files. Either side."""
        return self.index.find(cid)

    def find_many(self, cids: Sequence[ContentId]) -> list[IndexEntry | None]:
        """`find` for each, from one state of the index. Either side."""
        return self.index.find_many(cids)

    async def get(self, cid: ContentId) -> Buffer:
        """One content, verified by its hash.

        Raises `ContentNotFound` when no index names it or its pack is gone, `CorruptContent` when it is damaged.
        """
        entry = self._entry(cid)
        try:
            return await self._read_one(entry)
        except BlobNotFound as error:
            return await self._read_moved(entry, error)

    def get_cached(self, cid: ContentId) -> Buffer | None:
        """The content when its pack is cached locally and undamaged there, else None. Thread side."""
        entry = self.index.find(cid)
        if entry is None or not self._packs.keeps(entry.pack):
            return None
        pack = self._packs.get(entry.pack)
        if pack is None or entry.offset + entry.packed_length > len(pack):
            return None
        try:
            return self._codec.open(entry, pack[entry.offset : entry.offset + entry.packed_length])
        except CorruptContent:
            self._packs.discard(entry.pack)
            return None

    def matches(self, cid: ContentId, data: Buffer) -> bool:
        """Whether `data` is what this content decompresses to. Thread side."""
        return self._codec.matches(cid, data)

    async def read_many(
        self, cids: Sequence[ContentId], *, on_error: OnError | None = None
    ) -> AsyncIterator[tuple[ContentId, Buffer]]:
        """Each of the distinct `cids` once, by pack and offset rather than in the order asked.

        A missing or damaged content raises, as `get` does; others that were asked for may not have come by then.
        With `on_error` it is reported there instead and the others all come. Storage failures always raise.
        """
        async with aclosing(self.read_batches(cids, on_error=on_error)) as batches:
            async for batch in batches:
                for item in batch:
                    yield item

    async def read_batches(
        self, cids: Sequence[ContentId], *, on_error: OnError | None = None
    ) -> AsyncGenerator[Batch, None]:
        """As `read_many`, a range of a pack at a time: fewer hops where a thread takes them over."""
        async with aclosing(self._read(cids, on_error, self._codec.open_all, in_place=False)) as batches:
            async for batch in batches:
                yield batch

    async def read_views(
        self, cids: Sequence[ContentId], *, on_error: OnError | None = None
    ) -> AsyncGenerator[list[tuple[ContentId, Buffer]], None]:
        """As `read_batches` without copies: large contents are parts of the range that was fetched.

        A range is in memory as long as one of its contents is.
        """
        async with aclosing(self._read(cids, on_error, self._codec.open_all_in_place, in_place=True)) as batches:
            async for batch in batches:
                yield batch

    async def _read(
        self,
        cids: Sequence[ContentId],
        on_error: OnError | None,
        opening: Opening[T],
        *,
        in_place: bool,
    ) -> AsyncGenerator[list[tuple[ContentId, T | Buffer]], None]:
        ranges = self._plan(cids, on_error)
        running: deque[tuple[asyncio.Task[list[tuple[ContentId, T | Buffer]]], int]] = deque()
        waiting = next(ranges, None)
        try:
            while waiting is not None or running:
                while waiting is not None and self._room(len(running), cost := waiting.cost(in_place=in_place)):
                    running.append((asyncio.create_task(self._read_range(waiting, on_error, opening)), cost))
                    self._ahead += cost
                    waiting = next(ranges, None)
                task, cost = running[0]
                yield await task
                del task
                running.popleft()
                self._ahead -= cost
        finally:
            self._ahead -= sum(cost for _, cost in running)
            for task, _ in running:
                task.cancel()
            await asyncio.gather(*(task for task, _ in running), return_exceptions=True)

    def _room(self, running: int, cost: int) -> bool:
        return not running or (running < self._limits.parallel and self._ahead + cost <= self._limits.bytes_ahead)

    def _plan(self, cids: Sequence[ContentId], on_error: OnError | None) -> Iterator[PackRange]:
        """Ranges for a window of contents after the other, so that the plan of a huge object stays small."""
        for start in range(0, len(cids), _WINDOW):
            wanted = list(dict.fromkeys(cids[start : start + _WINDOW]))
            entries = []
            failure: RepositoryError | None = None
            for cid, entry in zip(wanted, self.index.find_many(wanted), strict=True):
                try:
                    entries.append(_checked(cid, entry))
                except RepositoryError as error:
                    if on_error is None:
                        failure = failure or error
                    else:
                        on_error(cid, error)
            yield from plan_ranges(entries)
            if failure is not None:
                raise failure

    def _entry(self, cid: ContentId) -> IndexEntry:
        return _checked(cid, self.index.find(cid))

    async def _read_range(
        self, plan: PackRange, on_error: OnError | None, opening: Opening[T]
    ) -> list[tuple[ContentId, T | Buffer]]:
        try:
            if self._packs.keeps(plan.pack):
                data: Buffer = await self._packs.fetch(plan.pack)
                start = 0
            else:
                data = await self._storage.get(plan.pack, plan.offset, plan.length)
                start = plan.offset
            return await asyncio.to_thread(_open_all, plan, data, start, opening)
        except BlobNotFound as error:
            cause = error
            return await self._read_singly(plan, on_error, lambda entry: self._read_moved(entry, cause))
        except (BlobTooShort, CorruptContent):
            return await self._read_singly(plan, on_error, lambda entry: self.get(entry.content))

    @staticmethod
    async def _read_singly(
        plan: PackRange, on_error: OnError | None, read: Callable[[IndexEntry], Awaitable[Buffer]]
    ) -> list[tuple[ContentId, T | Buffer]]:
        batch: list[tuple[ContentId, T | Buffer]] = []
        for entry in plan.entries:
            try:
                batch.append((entry.content, await read(entry)))
            except RepositoryError as error:
                if on_error is None:
                    raise
                on_error(entry.content, error)
        return batch

    async def _read_one(self, entry: IndexEntry) -> Buffer:
        """One content where its entry says; what a cached pack gets wrong the storage may know better."""
        if self._packs.keeps(entry.pack):
            pack = await self._packs.fetch(entry.pack)
            try:
                return await asyncio.to_thread(self._open_one, entry, pack, 0)
            except CorruptContent:
                await asyncio.to_thread(self._packs.discard, entry.pack)
        try:
            sealed = await self._storage.get(entry.pack, entry.offset, entry.packed_length)
        except BlobTooShort as error:
            raise CorruptContent(f"{describe(entry)} lies beyond the end of its pack: {error.message}") from error
        return await asyncio.to_thread(self._open_one, entry, sealed, entry.offset)

    async def _read_moved(self, old: IndexEntry, cause: BlobNotFound) -> Buffer:
        """A content whose pack is gone, where an index refreshed since then says that it is now.

        Pack names are never used again, so one refresh for each lost pack tells all there is to know.
        """
        async with self._gone_lock:
            if old.pack not in self._gone:
                await self.index.refresh()
                self._gone.add(old.pack)
        entry = self.index.find(old.content)
        if entry is not None and entry.pack != old.pack:
            try:
                return await self._read_one(_checked(old.content, entry))
            except BlobNotFound as error:
                cause, old = error, entry
        raise ContentNotFound(f"{describe(old)} cannot be read, its pack is gone from {self._storage.location}") from (
            cause
        )

    def _open_one(self, entry: IndexEntry, data: Buffer, start: int) -> Buffer:
        return self._codec.open(entry, _sealed(entry, data, start))


def _open_all(plan: PackRange, data: Buffer, start: int, opening: Opening[T]) -> list[tuple[ContentId, T | Buffer]]:
    opened = opening(plan.entries, [_sealed(entry, data, start) for entry in plan.entries])
    return [(entry.content, each) for entry, each in zip(plan.entries, opened, strict=True)]


def _sealed(entry: IndexEntry, data: Buffer, start: int) -> memoryview:
    sealed = memoryview(data)[entry.offset - start : entry.offset - start + entry.packed_length]
    if len(sealed) != entry.packed_length:
        raise CorruptContent(f"{describe(entry)} lies beyond the end of its pack of {len(data)} bytes")
    return sealed


def _checked(cid: ContentId, entry: IndexEntry | None) -> IndexEntry:
    if entry is None:
        raise ContentNotFound(
            f"content {content_text(cid)} is in no index",
            hint="it was collected as unreferenced, or an index is lost: try `lighter repository repair-index`",
        )
    if entry.packed_length > MAX_PACKED_LENGTH or entry.original_length > MAX_CONTENT_LENGTH:
        raise CorruptContent(f"{describe(entry)} is larger than a content can be")
    return entry
