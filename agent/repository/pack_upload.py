"""Packs from the threads that fill them to the store: the loop side of `content_writer`.

Threads leave finished packs here and go on; a task each puts them, at most `parallel_uploads` at once, the session's
marker first. The tasks belong to the writer's task group. A put that fails poisons the content writer; the error
reaches whoever writes or flushes next, so that nothing waits for a pack that never arrives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from agent.base.errors import CanceledError, LighterageError
from agent.repository.content_writer import ContentWriter
from agent.repository.pack_writer import SealedPack
from agent.repository.write_session import SessionMarkers, WriteSession
from agent.storage.base import BlobStorage


class PackUploader:
    """The `PackSink` of one content writer; its uploads are tasks of `tasks`."""

    def __init__(
        self,
        storage: BlobStorage,
        markers: SessionMarkers,
        check_format: Callable[[], Awaitable[None]],
        tasks: asyncio.TaskGroup,
        parallel_uploads: int,
    ) -> None:
        self._storage = storage
        self._check_format = check_format
        self._markers = markers
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._slots = asyncio.Semaphore(parallel_uploads)
        self._running: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self.flush_wanted = asyncio.Event()
        """Set when so many entries are pending that an index ought to be written."""

    def upload(self, writer: ContentWriter, session: WriteSession, pack: SealedPack) -> None:
        """Put this pack soon, then tell `writer`. Either side."""
        try:
            self._loop.call_soon_threadsafe(self._start, writer, session, pack)
        except RuntimeError:
            writer.fail(_ended())

    def session_changed(self) -> None:
        """Have `wait_until` look again. Either side."""
        self._wake(self._changed)

    def flush_due(self) -> None:
        """Set `flush_wanted`. Either side."""
        self._wake(self.flush_wanted)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return once `condition()` holds; it is asked again after each `session_changed`. One caller at a time."""
        while True:
            self._changed.clear()
            if condition():
                return
            await self._changed.wait()

    def cancel(self) -> None:
        """End the uploads that are under way. Loop side."""
        for task in self._running:
            task.cancel()

    def _wake(self, event: asyncio.Event) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(event.set)

    def _start(self, writer: ContentWriter, session: WriteSession, pack: SealedPack) -> None:
        put = self._put(writer, session, pack)
        try:
            task = self._tasks.create_task(put, name=f"put {pack.blob_id}")
        except RuntimeError:  # the group is shutting down
            put.close()
            writer.fail(_ended())
            return
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _put(self, writer: ContentWriter, session: WriteSession, pack: SealedPack) -> None:
        try:
            async with self._slots:
                writer.check()
                await self._check_format()
                await self._markers.ensure(session)
                await self._storage.put(pack.blob_id, [pack.body, *pack.tail])
        except LighterageError as error:
            writer.fail(error)
        except asyncio.CancelledError:
            writer.fail(_ended())
            raise
        except BaseException as error:
            writer.fail(error)
            raise
        else:
            writer.uploaded(session, pack)


def _ended() -> CanceledError:
    return CanceledError("the repository writer has ended, nothing can be written any more")
