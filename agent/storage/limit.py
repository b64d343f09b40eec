"""Not more than a person allows: bytes and requests a second, requests at once. Adjustable while work runs.

Token buckets that hold at most one second's worth. Bytes are taken before a put and, because an answer's size is only
known then, paid back after a get: the next one waits. Large bodies wait as long as they take at the allowed rate.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agent.base.clock import Clock
from agent.storage.base import BlobId, BlobMetadata, BlobStorage, Buffer, Retention

_SHORTEST_WAIT = 0.001
_DUST = 1e-6
"""Less than this is a rounding error, not a byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Rates a second and requests at once; 0: no limit."""

    upload_bytes: float = 0
    download_bytes: float = 0
    requests: float = 0
    concurrency: int = 32


class TokenBucket:
    """Lets `rate` tokens a second pass, at most one second's worth of them at once. First come, first served."""

    def __init__(self, rate: float, clock: Clock) -> None:
        self._clock = clock
        self._rate = rate
        self._tokens = rate
        self._filled = clock.monotonic()
        self._turn = asyncio.Lock()

    def set_rate(self, rate: float) -> None:
        """From now on; who waits notices within a second."""
        self._fill()
        self._rate = rate
        self._tokens = min(self._tokens, rate)

    def owe(self, amount: float) -> None:
        """Take tokens after the fact; those who come next wait for it."""
        if self._rate > 0:
            self._fill()
            self._tokens -= amount

    async def take(self, amount: float) -> None:
        """Wait until `amount` tokens have come together."""
        if self._rate <= 0:
            return
        async with self._turn:
            while amount > _DUST and self._rate > 0:
                self._fill()
                if self._tokens > 0:
                    taken = min(amount, self._tokens)
                    self._tokens -= taken
                    amount -= taken
                else:
                    # in steps, so that a new rate counts soon
                    wanted = min(amount, self._rate) - self._tokens
                    await self._clock.sleep(min(max(wanted / self._rate, _SHORTEST_WAIT), 1.0))

    def _fill(self) -> None:
        now = self._clock.monotonic()
        self._tokens = min(self._tokens + (now - self._filled) * self._rate, self._rate)
        self._filled = now


class LimitedStorage:
    """`BlobStorage` that makes callers wait their turn."""

    def __init__(self, inner: BlobStorage, limits: Limits, clock: Clock) -> None:
        self._inner = inner
        self._upload = TokenBucket(limits.upload_bytes, clock)
        self._download = TokenBucket(limits.download_bytes, clock)
        self._requests = TokenBucket(limits.requests, clock)
        self._limits = limits
        self._running = 0
        self._room = asyncio.Condition()

    @property
    def limits(self) -> Limits:
        """In force now."""
        return self._limits

    async def set_limits(self, limits: Limits) -> None:
        """Change them; requests that run are not touched."""
        self._limits = limits
        self._upload.set_rate(limits.upload_bytes)
        self._download.set_rate(limits.download_bytes)
        self._requests.set_rate(limits.requests)
        async with self._room:
            self._room.notify_all()

    @property
    def location(self) -> str:
        """Of `inner`."""
        return self._inner.location

    async def get(self, blob_id: BlobId, offset: int = 0, length: int | None = None) -> Buffer:
        """As `BlobStorage.get`."""
        async with self._place():
            await self._download.take(length or 0)
            data = await self._inner.get(blob_id, offset, length)
            if length is None:
                self._download.owe(len(data))
            return data

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
            await self._upload.take(sum(map(len, data)))
            await self._inner.put(blob_id, data, if_absent=if_absent, retention=retention)

    async def stat(self, blob_id: BlobId) -> BlobMetadata:
        """As `BlobStorage.stat`."""
        async with self._place():
            return await self._inner.stat(blob_id)

    async def list(self, prefix: str = "") -> AsyncIterator[BlobMetadata]:
        """As `BlobStorage.list`; counts as one request, and holds no place while its reader works."""
        await self._requests.take(1)
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
            await self._requests.take(1)
            yield
        finally:
            self._running -= 1
            async with self._room:
                self._room.notify()
