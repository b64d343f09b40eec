"""A storage that opens while its owner goes on.

What a provider imports takes a quarter of a second. A repository whose format is cached derives its key meanwhile, on
another core, which takes as long.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from agent.storage.base import BlobId, BlobMetadata, BlobStorage, Buffer, Retention

_Opens = Callable[[], Coroutine[Any, Any, BlobStorage]]


class OpeningStorage:
    """`BlobStorage` that `opens` another for its calls. An opening that fails is tried again by the next call."""

    def __init__(
        self, location: str, parallel_puts: int, opens: Callable[[], Coroutine[Any, Any, BlobStorage]]
    ) -> None:
        """`location` and `parallel_puts` are those of what will be open. Begins at once, in the running loop."""
        self._location = location
        self._parallel_puts = parallel_puts
        self._opens = opens
        self._inner: BlobStorage | None = None
        self._attempt: asyncio.Task[BlobStorage] | None = asyncio.create_task(opens())
        self._turn = asyncio.Lock()

    @property
    def location(self) -> str:
        """As given."""
        return self._location

    @property
    def parallel_puts(self) -> int:
        """As given."""
        return self._parallel_puts

    async def get(self, blob_id: BlobId, offset: int = 0, length: int | None = None) -> Buffer:
        """As `BlobStorage.get`."""
        return await (await self._opened()).get(blob_id, offset, length)

    async def put(
        self,
        blob_id: BlobId,
        data: Sequence[Buffer],
        *,
        if_absent: bool = False,
        retention: Retention | None = None,
    ) -> None:
        """As `BlobStorage.put`."""
        await (await self._opened()).put(blob_id, data, if_absent=if_absent, retention=retention)

    async def stat(self, blob_id: BlobId) -> BlobMetadata:
        """As `BlobStorage.stat`."""
        return await (await self._opened()).stat(blob_id)

    async def list(self, prefix: str = "") -> AsyncIterator[BlobMetadata]:
        """As `BlobStorage.list`."""
        async for blob in (await self._opened()).list(prefix):
            yield blob

    async def delete(self, blob_ids: Sequence[BlobId]) -> None:
        """As `BlobStorage.delete`."""
        await (await self._opened()).delete(blob_ids)

    async def close(self) -> None:
        """Close what was opened, if anything was; end what is opening."""
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.cancel()
            await asyncio.wait([attempt])
            if not attempt.cancelled() and attempt.exception() is None:
                self._inner = attempt.result()
        if self._inner is not None:
            await self._inner.close()

    async def _opened(self) -> BlobStorage:
        if self._inner is None:
            async with self._turn:
                if self._inner is None:
                    self._inner = await self._awaited()
        return self._inner

    async def _awaited(self) -> BlobStorage:
        attempt = self._attempt = self._attempt or asyncio.create_task(self._opens())
        await asyncio.wait([attempt])  # goes on for the next call when this one is cancelled
        self._attempt = None
        return attempt.result()
