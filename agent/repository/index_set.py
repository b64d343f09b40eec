"""All indexes in force as one: which blobs, kept fresh, searched together.

`refresh` runs on the loop and swaps an immutable `_Loaded`; look-ups read whatever is current, so threads never wait
for a refresh and never see half of one. Index blobs that this process committed are added at once (`add`) and stay
until a listing that began later decides about them.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import TypeVar

import msgspec

from agent.base.clock import Clock
from agent.base.errors import BlobNotFound, CorruptBlob, CorruptIndex
from agent.repository import epochs, legacy_index
from agent.repository.ids import ContentId
from agent.repository.index_cache import IndexCache
from agent.repository.index_entry import IndexEntry, winner
from agent.repository.index_read import MappedIndex
from agent.repository.sealer import BlobSealer
from agent.storage.base import BlobId, BlobMetadata, BlobStorage, Buffer

B = TypeVar("B", bound=Buffer)

MAX_AGE_SECONDS = 15 * 60.0
"""A client that runs longer refreshes at least this often (§5.1)."""

_ATTEMPTS = 10
_FIRST_DELAY = 0.1
_PARALLEL = 8
_BYTES_IN_FLIGHT = 256 << 20


class ActiveIndexes(msgspec.Struct, frozen=True):
    """Which index blobs are in force, and what they hide."""

    blobs: Sequence[BlobMetadata]
    watermark_s: int
    """Deleted entries of this unix second and before are as good as absent (§4.8)."""


class _Loaded(msgspec.Struct, frozen=True):
    indexes: Mapping[BlobId, MappedIndex]
    watermark_s: int


async def list_epoch_indexes(storage: BlobStorage) -> ActiveIndexes:
    """The index blobs in force in a repository with epochs (§5.1)."""
    selection = epochs.select_index_blobs([blob async for blob in storage.list(epochs.INDEX_PREFIX)])
    return ActiveIndexes(selection.blobs, selection.watermark_s)


async def list_legacy_indexes(storage: BlobStorage, sealer: BlobSealer) -> ActiveIndexes:
    """The index blobs in force in a repository without epochs (§5.4). Raises `CorruptIndex` for a damaged log."""
    blobs = [blob async for blob in storage.list(legacy_index.INDEX_PREFIX)]
    logs = []
    async for log in storage.list(legacy_index.COMPACTION_LOG_PREFIX):
        sealed = await storage.get(log.blob_id)
        plaintext = await asyncio.to_thread(_open, sealer.open, log.blob_id, sealed)
        logs.append(legacy_index.parse_compaction_log(plaintext, log.blob_id))
    return ActiveIndexes(legacy_index.select_legacy_index_blobs(blobs, logs), 0)


class IndexSet:
    """The merged index of a repository. Look-ups from any thread, `refresh` on the loop."""

    def __init__(
        self,
        storage: BlobStorage,
        sealer: BlobSealer,
        cache: IndexCache,
        list_active: Callable[[], Awaitable[ActiveIndexes]],
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._sealer = sealer
        self._cache = cache
        self._list_active = list_active
        self._clock = clock
        self._loaded = _Loaded({}, 0)
        self._refreshed_at: float | None = None
        self._lock = asyncio.Lock()
        self._own: dict[BlobId, MappedIndex] = {}
        self.generation = 0
        """Grows whenever look-ups may give other results than before."""

    @property
    def watermark_s(self) -> int:
        """Deleted entries of this unix second and before are not returned."""
        return self._loaded.watermark_s

    @property
    def blob_ids(self) -> Sequence[BlobId]:
        """The index blobs that are loaded, by name."""
        return sorted(self._loaded.indexes)

    def find(self, content: ContentId) -> IndexEntry | None:
        """The entry that counts for `content` (§4.8), which may be a deleted one; None when there is none."""
        loaded = self._loaded
        return _visible((index.find(content) for index in loaded.indexes.values()), loaded.watermark_s)

    def find_many(self, contents: Sequence[ContentId]) -> list[IndexEntry | None]:
        """`find` for each of `contents`, from one state of the index."""
        loaded = self._loaded
        columns = [index.find_many(contents) for index in loaded.indexes.values()]
        if not columns:
            return [None] * len(contents)
        return [_visible(rows, loaded.watermark_s) for rows in zip(*columns, strict=True)]

    def iterate(self, prefix: bytes = b"") -> Iterator[IndexEntry]:
        """Every entry that counts and whose key starts with `prefix`, by key, deleted ones included.

        One state of the index however long it takes; memory does not depend on the number of entries. Thread side for
        anything but a narrow prefix.
        """
        loaded = self._loaded
        rows = heapq.merge(*(index.entries(prefix) for index in loaded.indexes.values()), key=attrgetter("content"))
        current: IndexEntry | None = None
        for row in rows:
            if current is None or row.content != current.content:
                if current is not None and not _hidden(current, loaded.watermark_s):
                    yield current
                current = row
            else:
                current = winner(current, row)
        if current is not None and not _hidden(current, loaded.watermark_s):
            yield current

    def packs(self) -> set[BlobId]:
        """Every pack that an entry refers to, deleted but visible ones included. Thread side."""
        return {entry.pack for entry in self.iterate()}

    def add(self, blobs: Iterable[tuple[BlobId, Buffer]]) -> None:
        """Index blobs that this process has just committed, as plaintext. Loop side, small blobs."""
        added = {blob_id: self._cache.store(blob_id, plaintext) for blob_id, plaintext in blobs}
        self._own.update(added)
        self._swap({**self._loaded.indexes, **added}, self._loaded.watermark_s)

    async def refresh(self) -> None:
        """Load what is in force now; only blobs that are not here yet are fetched.

        Raises `CorruptIndex` for a damaged index blob: without it nobody knows what is missing.
        """
        async with self._lock:
            await self._refresh()

    async def refresh_if_older(self, seconds: float = MAX_AGE_SECONDS) -> bool:
        """Refresh unless the last one began less than `seconds` ago; whether it was done."""
        async with self._lock:
            if self._refreshed_at is not None and self._clock.monotonic() - self._refreshed_at < seconds:
                return False
            await self._refresh()
            return True

    async def _refresh(self) -> None:
        delay = _FIRST_DELAY
        for attempt in range(1, _ATTEMPTS + 1):
            began = self._clock.monotonic()
            own_before = set(self._own)
            active = await self._list_active()
            try:
                indexes = await self._load(active.blobs)
            except BlobNotFound as error:
                if attempt == _ATTEMPTS:
                    raise CorruptIndex(
                        f"index blobs in {self._storage.location} vanish while they are read, {attempt} times over",
                        hint="another client compacts indexes all the time, or a listing shows deleted blobs",
                    ) from error
                await self._clock.sleep(delay)
                delay *= 2
                continue
            for blob_id in own_before:
                self._own.pop(blob_id, None)
            self._refreshed_at = began
            self._swap({**indexes, **self._own}, active.watermark_s)
            return

    async def _load(self, blobs: Sequence[BlobMetadata]) -> dict[BlobId, MappedIndex]:
        """All of these, fetched side by side as far as they fit `_BYTES_IN_FLIGHT`."""
        known = self._loaded.indexes
        indexes = {blob.blob_id: known[blob.blob_id] for blob in blobs if blob.blob_id in known}
        missing = iter([blob for blob in blobs if blob.blob_id not in known])
        running: dict[asyncio.Task[MappedIndex], BlobMetadata] = {}
        in_flight = 0
        waiting = next(missing, None)
        try:
            while waiting is not None or running:
                while waiting is not None and (
                    not running or (len(running) < _PARALLEL and in_flight + waiting.length <= _BYTES_IN_FLIGHT)
                ):
                    running[asyncio.create_task(self._load_one(waiting))] = waiting
                    in_flight += waiting.length
                    waiting = next(missing, None)
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    blob = running.pop(task)
                    in_flight -= blob.length
                    indexes[blob.blob_id] = task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return indexes

    async def _load_one(self, blob: BlobMetadata) -> MappedIndex:
        cached = await asyncio.to_thread(self._cache.load, blob.blob_id)
        if cached is not None:
            return cached
        sealed = await self._storage.get(blob.blob_id)
        return await asyncio.to_thread(self._open_and_store, blob.blob_id, sealed)

    def _open_and_store(self, blob_id: BlobId, sealed: Buffer) -> MappedIndex:
        return self._cache.store(blob_id, _open(self._sealer.open_in_place, blob_id, sealed))

    def _swap(self, indexes: Mapping[BlobId, MappedIndex], watermark_s: int) -> None:
        if indexes.keys() != self._loaded.indexes.keys() or watermark_s != self._loaded.watermark_s:
            self._loaded = _Loaded(indexes, watermark_s)
            self.generation += 1


def _hidden(entry: IndexEntry, watermark_s: int) -> bool:
    return entry.deleted and entry.time_s <= watermark_s


def _visible(rows: Iterable[IndexEntry | None], watermark_s: int) -> IndexEntry | None:
    best: IndexEntry | None = None
    for row in rows:
        if row is not None:
            best = row if best is None else winner(best, row)
    return None if best is None or _hidden(best, watermark_s) else best


def _open(opening: Callable[[BlobId, Buffer], B], blob_id: BlobId, sealed: Buffer) -> B:
    try:
        return opening(blob_id, sealed)
    except CorruptBlob as error:
        raise CorruptIndex(
            f"an index is damaged: {error.message}",
            hint="`lighter repository repair-index` rebuilds indexes from packs",
        ) from error
