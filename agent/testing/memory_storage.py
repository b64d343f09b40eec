"""`BlobStorage` in a dict: the quickest honest store for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from agent.base.clock import Clock, SystemClock
from agent.base.errors import BlobExists, BlobNotFound, BlobTooShort, UsageError
from agent.storage.base import BlobId, BlobMetadata, Buffer, Retention, check_blob_id
from agent.storage.pace import Pace, TokenBucket


class MemoryStorage:
    """Blobs in `blobs`, their times from `clock`; both may be looked at and changed by tests."""

    def __init__(self, clock: Clock | None = None, pace: Pace | None = None) -> None:
        self._clock = clock or SystemClock()
        self._pace = pace or Pace(self._clock)
        self.blobs: dict[BlobId, bytes] = {}
        self.timestamps_ns: dict[BlobId, int] = {}
        self.retentions: dict[BlobId, Retention] = {}
        """What puts asked for; nothing is enforced."""

    @property
    def location(self) -> str:
        """`memory://` and a number that tells instances apart."""
        return f"memory://{id(self):x}"

    @property
    def parallel_puts(self) -> int:
        """Two, so that callers overlap them."""
        return 2

    async def get(self, blob_id: BlobId, offset: int = 0, length: int | None = None) -> Buffer:
        """The asked range."""
        await asyncio.sleep(0)
        data = self._find(blob_id)
        if offset < 0 or (length is not None and length < 0):
            raise UsageError(f"range {offset}+{length} of blob {blob_id} makes no sense")
        end = len(data) if length is None else offset + length
        if offset > len(data) or end > len(data):
            raise BlobTooShort(f"blob {blob_id} in {self.location} has {len(data)} bytes, {offset}..{end} were asked")
        await _pass(self._pace.download, end - offset)
        return data[offset:end]

    async def put(
        self,
        blob_id: BlobId,
        data: Sequence[Buffer],
        *,
        if_absent: bool = False,
        retention: Retention | None = None,
    ) -> None:
        """Keep a copy of the bytes."""
        check_blob_id(blob_id)
        await asyncio.sleep(0)
        body = b"".join(data)
        await _pass(self._pace.upload, len(body))
        if if_absent and blob_id in self.blobs:
            raise BlobExists(f"blob {blob_id} exists in {self.location}")
        self.blobs[blob_id] = body
        self.timestamps_ns[blob_id] = self._clock.now_ns()
        if retention is None:
            self.retentions.pop(blob_id, None)
        else:
            self.retentions[blob_id] = retention

    async def stat(self, blob_id: BlobId) -> BlobMetadata:
        """Length and time."""
        await asyncio.sleep(0)
        return BlobMetadata(blob_id, len(self._find(blob_id)), self.timestamps_ns[blob_id])

    async def list(self, prefix: str = "") -> AsyncIterator[BlobMetadata]:
        """Blobs by prefix, sorted."""
        await asyncio.sleep(0)
        found = [
            BlobMetadata(blob_id, len(data), self.timestamps_ns[blob_id])
            for blob_id, data in sorted(self.blobs.items())
            if blob_id.startswith(prefix)
        ]
        for blob in found:
            yield blob

    async def delete(self, blob_ids: Sequence[BlobId]) -> None:
        """Forget them."""
        for blob_id in blob_ids:
            check_blob_id(blob_id)
        await asyncio.sleep(0)
        for blob_id in blob_ids:
            self.blobs.pop(blob_id, None)
            self.timestamps_ns.pop(blob_id, None)
            self.retentions.pop(blob_id, None)

    async def close(self) -> None:
        """Nothing to release; the blobs stay."""

    def _find(self, blob_id: BlobId) -> bytes:
        check_blob_id(blob_id)
        try:
            return self.blobs[blob_id]
        except KeyError:
            raise BlobNotFound(f"no blob {blob_id} in {self.location}") from None


async def _pass(bucket: TokenBucket, amount: int) -> None:
    while amount:
        amount -= await bucket.allow(amount)
