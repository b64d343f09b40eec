"""From the thread of a backup to the event loop and back: where it asks for what only the loop may fetch.

A thread that waits here still sees a cancellation within a moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from agent.repository.ids import ContentId, ObjectId, content_text, parse_object_id
from agent.repository.repository import Repository
from agent.snapshots.progress import Cancellation
from agent.storage.base import Buffer

_T = TypeVar("_T")
_POLL = 0.2


class Bridge:
    """Calls from one thread to the loop that was running when this was made."""

    def __init__(self, cancellation: Cancellation) -> None:
        self._loop = asyncio.get_running_loop()
        self._cancellation = cancellation

    def call(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run this on the loop and wait. Raises what it raises, `CanceledError` when the backup is canceled."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            while True:
                try:
                    return future.result(_POLL)
                except TimeoutError:
                    if future.done():
                        raise
                    self._cancellation.check()
        except BaseException:
            future.cancel()
            raise


def object_reader(repo: Repository, bridge: Bridge) -> Callable[[ObjectId], Iterator[Buffer]]:
    """Thread side: the bytes of an object, content by content, from local caches where they have it."""

    def content(cid: ContentId) -> Buffer:
        data = repo.contents.get_cached(cid)
        return bridge.call(repo.contents.get(cid)) if data is None else data

    def read(obj: ObjectId) -> Iterator[Buffer]:
        parsed = parse_object_id(obj)
        if not parsed.indirection:
            yield bridge.call(repo.objects.read(obj)) if parsed.compressed else content(parsed.content)
            return
        for extent in bridge.call(repo.objects.extents(obj)):
            if extent.compressed:
                yield bridge.call(repo.objects.read(ObjectId("Z" + content_text(extent.content))))
            else:
                yield content(extent.content)

    return read
