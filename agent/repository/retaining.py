"""Object lock on what a writer puts (§9): the retention of `kopia.blobcfg` goes along with every blob that has to last.

A storage like any other around the real one, so that no writer can forget it. Session markers and logs are left out:
they have to be deleted soon.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from agent.base.clock import Clock
from agent.repository.format_blob import ObjectLock
from agent.storage.base import BlobId, BlobMetadata, BlobStorage, Buffer, Retention

LOCKED_PREFIXES = ("p", "q", "n", "x", "kopia.repository", "kopia.blobcfg")


class RetainingStorage:
    """Adds what `object_lock()` asks for, if anything, to puts of blobs named with one of `LOCKED_PREFIXES`."""

    def __init__(self, storage: BlobStorage, object_lock: Callable[[], ObjectLock | None], clock: Clock) -> None:
        self._storage = storage
        self._object_lock = object_lock
        self._clock = clock

    @property
    def location(self) -> str:
        """Where the blobs are."""
        return self._storage.location

    @property
    def parallel_puts(self) -> int:
        """The storage's own."""
        return self._storage.parallel_puts

    async def get(self, blob_id: BlobId, offset: int = 0, length: int | None = None) -> Buffer:
        """As the storage itself."""
        return await self._storage.get(blob_id, offset, length)

    async def put(
        self,
        blob_id: BlobId,
        data: Sequence[Buffer],
        *,
        if_absent: bool = False,
        retention: Retention | None = None,
    ) -> None:
        """Put with the retention that the blob's name calls for, unless one is given."""
        lock = self._object_lock()
        if retention is None and lock is not None and blob_id.startswith(LOCKED_PREFIXES):
            retention = lock.retention(self._clock.now_ns())
        await self._storage.put(blob_id, data, if_absent=if_absent, retention=retention)

    async def stat(self, blob_id: BlobId) -> BlobMetadata:
        """As the storage itself."""
        return await self._storage.stat(blob_id)

    def list(self, prefix: str = "") -> AsyncIterator[BlobMetadata]:
        """As the storage itself."""
        return self._storage.list(prefix)

    async def delete(self, blob_ids: Sequence[BlobId]) -> None:
        """As the storage itself."""
        await self._storage.delete(blob_ids)

    async def close(self) -> None:
        """The wrapped storage belongs to its opener; nothing to release here."""
