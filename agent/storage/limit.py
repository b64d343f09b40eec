"""Not more than a person allows: bytes and requests a second, requests at once. Adjustable while work runs.

Requests wait here, also while the `Hold` of the pace is closed. Bytes wait in the provider, piece by piece, at the
`Pace` that was handed to it when it was made and whose rates are set here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from agent.base.clock import Clock
from agent.storage.base import BlobId, BlobMetadata, BlobStorage, Buffer, Retention
from agent.storage.pace import Pace, TokenBucket


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Rates a second and requests at once; 0: no limit."""

    upload_bytes: float = 0
    download_bytes: float = 0
    requests: float = 0
    concurrency: int = 32


class LimitedStorage:
    """`BlobStorage` that makes callers wait their turn. `pace` is the one that the provider asks."""

    def __init__(self, inner: BlobStorage, limits: Limits, clock: Clock, pace: Pace) -> None:
        self._inner = inner
        self._pace = pace
        pace.set_rates(upload_bytes=limits.upload_bytes, download_bytes=limits.download_bytes)
        self._requests = TokenBucket(limits.requests, clock, pace.hold)
        self._limits = limits
        self._running = 0
        self._room = asyncio.Condition()

    @property
    def limits(self) -> Limits:
        """In force now."""
        return self._limits

    async def set_limits(self, limits: Limits) -> None:
        """Change them, also for bodies on their way; no running request is stopped."""
        self._limits = limits
        self._pace.set_rates(upload_bytes=limits.upload_bytes, download_bytes=limits.download_bytes)
        self._requests.set_rate(limits.requests)
        async with self._room:
            self._room.notify_all()

    @property
    def location(self) -> str:
        """Of `inner`."""
        return self._inner.location

    @property
    def parallel_puts(self) -> int:
        """Of `inner`."""
        return self._inner.parallel_puts

    async def get(self, blob_id: BlobId, offset: int = 0, length: int | None = None) -> Buffer:
        """As `BlobStorage.get`."""
        async with self._place():
            return await self._inner.get(blob_id, offset, length)

    async def put(
        self,
        blob_id: BlobId,
        data: Sequence[Buffer],
        *,
        if_absent: bool = False,
        retention: Retention | None = None,
    ) -> None:
        """As `BlobStorage.put`."""
        async with self._place():
            await self._inner.put(blob_id, data, if_absent=if_absent, retention=retention)

    async def stat(self, blob_id: BlobId) -> BlobMetadata:
        """As `BlobStorage.stat`."""
        async with self._place():
            return await self._inner.stat(blob_id)

    async def list(self, prefix: str = "") -> AsyncIterator[BlobMetadata]:
        """As `BlobStorage.list`; counts as one request, and holds no place while its reader works."""
        await self._requests.allow(1)
        async for blob in self._inner.list(prefix):
            yield blob

    async def delete(self, blob_ids: Sequence[BlobId]) -> None:
        """As `BlobStorage.delete`; a batch counts as one request."""
        async with self._place():
            await self._inner.delete(blob_ids)

    async def close(self) -> None:
        """Close `inner`."""
        await self._inner.close()

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        async with self._room:
            await self._room.wait_for(lambda: not self._limits.concurrency or self._running < self._limits.concurrency)
            self._running += 1
        try:
            await self._requests.allow(1)
            yield
        finally:
            self._running -= 1
            async with self._room:
                self._room.notify()
