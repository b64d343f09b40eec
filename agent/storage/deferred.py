"""A storage that is opened by its first call: what its provider imports is not in memory before.

A repository whose format is cached derives its key first, which takes several MiB for a moment. They are not needed at
the same time as botocore and its models.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from agent.storage.base import BlobId, BlobMetadata, BlobStorage, Buffer, Retention


class DeferredStorage:
    """`BlobStorage` that `opens` another when it is called first. An opening that fails is tried again by the next."""

    def __init__(self, location: str, parallel_puts: int, opens: Callable[[], Awaitable[BlobStorage]]) -> None:
        """`location` and `parallel_puts` are those of what will be opened."""
        self._location = location
        self._parallel_puts = parallel_puts
        self._opens = opens
        self._inner: BlobStorage | None = None
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
        """Close what was opened, if anything was."""
        if self._inner is not None:
            await self._inner.close()

    async def _opened(self) -> BlobStorage:
        if self._inner is None:
            async with self._turn:
                if self._inner is None:
                    self._inner = await self._opens()
        return self._inner
