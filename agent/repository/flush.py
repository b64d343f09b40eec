"""The flush barrier: what was written before it becomes part of the repository, all or nothing (§9, §14.5).

    close the session → its last packs → its index blobs → its marker goes → its entries are forgotten

Contents that arrive meanwhile belong to the next session and do not wait. A flush that is canceled or fails leaves its
session closed; the next flush goes on with it, and puts again only what is not in force. Manifests are written as
contents of the session that the flush closes, and only after all sessions before it are committed, so that none
becomes visible before what it refers to.

`FlushSchedule` is the task that flushes contents, never manifests, when enough are pending or time has passed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Executor
from typing import Protocol, TypeVar

from agent.base.clock import Clock
from agent.base.errors import LighterageError
from agent.repository.content_writer import ContentWriter
from agent.repository.index_commit import IndexCommitter
from agent.repository.manifest_writer import ManifestWriter
from agent.repository.pack_upload import PackUploader
from agent.repository.write_session import SessionMarkers, WriteSession
from agent.storage.base import BlobId, Buffer

_T = TypeVar("_T")


class OwnIndexes(Protocol):
    """Where index blobs of our own become known without being downloaded."""

    def add(self, blobs: Iterable[tuple[BlobId, Buffer]]) -> None:
        """These index blobs, as plaintext, are in force."""
        ...


class Flusher:
    """The barrier of one writer. Loop side."""

    def __init__(
        self,
        contents: ContentWriter,
        manifests: ManifestWriter,
        uploader: PackUploader,
        markers: SessionMarkers,
        *,
        committer: IndexCommitter,
        indexes: OwnIndexes,
        check_format: Callable[[], Awaitable[None]],
        clock: Clock,
        threads: Executor,
    ) -> None:
        """`threads` is for nobody else: whoever writes may wait for a flush, which must never wait for him."""
        self._threads = threads
        self._contents = contents
        self._manifests = manifests
        self._uploader = uploader
        self._markers = markers
        self._committer = committer
        self._indexes = indexes
        self._check_format = check_format
        self._clock = clock
        self._lock = asyncio.Lock()
        self.last = clock.monotonic()
        """When the last flush ended, on the monotonic clock."""
        self.own_indexes: set[BlobId] = set()
        """What this writer committed."""

    async def flush(self, write_last: Callable[[], None] | None = None) -> None:
        """Everything written and every manifest put before this call is in the repository when it returns.

        `write_last` runs in a thread when nothing is left to commit, so that all it writes and deletes goes into force
        by one index.
        """
        async with self._lock:
            await self._commit_closed()
            written = await self._in_thread(self._manifests.write_pending)
            if write_last is not None:
                await self._in_thread(write_last)
            self._contents.begin_flush()
            await self._commit_closed()
            self._manifests.committed(written)

    async def flush_contents(self) -> None:
        """As `flush`, but manifests keep waiting for it."""
        async with self._lock:
            await self._commit_closed()
            self._contents.begin_flush()
            await self._commit_closed()

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _commit_closed(self) -> None:
        for session in self._contents.flushing():
            await self._commit(session)
        self.last = self._clock.monotonic()

    async def _commit(self, session: WriteSession) -> None:
        contents = self._contents
        await self._uploader.wait_until(lambda: contents.is_sealed(session))
        await self._in_thread(lambda: contents.close_packs(session))
        await self._uploader.wait_until(lambda: contents.is_uploaded(session))
        shards = await self._in_thread(lambda: contents.build_indexes(session))
        await self._check_format()
        await self._markers.ensure(session)
        blobs = await self._committer.commit(session.session_id, shards)
        await self._markers.remove(session)
        self._indexes.add(zip(blobs, shards, strict=True))
        self.own_indexes.update(blobs)
        contents.committed(session, len(blobs), sum(map(len, shards)))


class FlushSchedule:
    """Flushes contents when the uploader says so, and when `interval` seconds passed since the last flush."""

    def __init__(
        self, flusher: Flusher, contents: ContentWriter, uploader: PackUploader, clock: Clock, interval: float
    ) -> None:
        self._flusher = flusher
        self._contents = contents
        self._uploader = uploader
        self._clock = clock
        self._interval = interval

    async def run(self) -> None:
        """Until canceled, or until a flush fails: that poisons the writer."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tick())
            while True:
                await self._uploader.flush_wanted.wait()
                self._uploader.flush_wanted.clear()
                try:
                    await self._flusher.flush_contents()
                except LighterageError as error:
                    self._contents.fail(error)

    async def _tick(self) -> None:
        while True:
            remaining = self._flusher.last + self._interval - self._clock.monotonic()
            if remaining > 0:
                await self._clock.sleep(remaining)
            else:
                self._uploader.flush_due()
                await self._clock.sleep(self._interval)
