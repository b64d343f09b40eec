"""A `BlobStorage` that misbehaves on purpose, the same way for the same seed.

Wrap any storage in it, below the retry wrapper or right under the engine. `Faults` says how often what happens;
`kill_at` raises `Killed` at one operation, before or after its effect, and at every one after it: to the storage the
process is dead. A test that fails prints the seed (it is in `location`) and repeats the failure with it.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence

import msgspec
from msgspec.structs import replace

from agent.base.clock import Clock, SystemClock
from agent.base.errors import StorageUnavailable
from agent.storage.base import BlobId, BlobMetadata, BlobStorage, Buffer, Retention


class Killed(BaseException):
    """The process ended here. No `except Exception` of the code under test gets to see it."""


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """Probabilities from 0 to 1, per operation unless said otherwise."""

    throttled: float = 0.0
    """Refused with SlowDown, without an effect."""
    retry_after: float | None = None
    """Seconds that a refusal asks to wait."""
    lost_response: float = 0.0
    """Puts and deletes that take effect and then fail."""
    truncated: float = 0.0
    """Gets that break off after part of the body."""
    missing_entry: float = 0.0
    """Blobs that a listing leaves out."""
    stale_entry: float = 0.0
    """Deleted blobs that a listing still shows."""
    latency: float = 0.0
    """Upper bound, seconds; each operation waits a random part of it."""
    skew_ns: int = 0
    """Added to every timestamp."""
    jitter_ns: int = 0
    """Upper bound of a random shift of each timestamp, either way."""


class KillAt(msgspec.Struct, frozen=True):
    """The operation at which the process dies."""

    operation: int
    """Counted from 0; each get, put, stat, list and delete is one."""
    after_effect: bool = False


class FaultyStorage:
    """`BlobStorage` over `inner`, with faults. `operations` tells how many calls there were."""

    def __init__(
        self,
        inner: BlobStorage,
        *,
        faults: Faults | None = None,
        seed: int = 0,
        kill_at: KillAt | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._inner = inner
        self.faults = faults or Faults()
        self._seed = seed
        self._random = random.Random(seed)  # noqa: S311  # repeatable on purpose
        self._kill_at = kill_at
        self._clock = clock or SystemClock()
        self._deleted: dict[BlobId, BlobMetadata] = {}
        self.operations = 0
        self.log: list[str] = []
        """One line for each operation: `put p123…`."""

    @property
    def location(self) -> str:
        """Of `inner`, with the seed."""
        return f"{self._inner.location}#seed={self._seed}"

    @property
    def parallel_puts(self) -> int:
        """Of `inner`."""
        return self._inner.parallel_puts

    async def get(self, blob_id: BlobId, offset: int = 0, length: int | None = None) -> Buffer:
        """As `BlobStorage.get`, perhaps truncated."""
        number = await self._begin("get", blob_id)
        data = await self._inner.get(blob_id, offset, length)
        self._end(number)
        if self._happens(self.faults.truncated):
            cut = self._random.randrange(len(data) + 1)
            raise StorageUnavailable(f"cannot read blob {blob_id}: the answer ended after {cut} of {len(data)} bytes")
        return data

    async def put(
        self,
        blob_id: BlobId,
        data: Sequence[Buffer],
        *,
        if_absent: bool = False,
        retention: Retention | None = None,
    ) -> None:
        """As `BlobStorage.put`, perhaps without an answer."""
        number = await self._begin("put", blob_id)
        await self._inner.put(blob_id, data, if_absent=if_absent, retention=retention)
        self._deleted.pop(blob_id, None)
        self._end(number)
        self._lose_response(f"write blob {blob_id}")

    async def stat(self, blob_id: BlobId) -> BlobMetadata:
        """As `BlobStorage.stat`, in the storage's own time."""
        number = await self._begin("stat", blob_id)
        found = await self._inner.stat(blob_id)
        self._end(number)
        return self._shifted(found)

    async def list(self, prefix: str = "") -> AsyncIterator[BlobMetadata]:
        """As `BlobStorage.list`, perhaps with too many or too few blobs."""
        number = await self._begin("list", prefix)
        stale = [b for i, b in self._deleted.items() if i.startswith(prefix) and self._happens(self.faults.stale_entry)]
        for blob in stale:
            yield self._shifted(blob)
        async for blob in self._inner.list(prefix):
            if not self._happens(self.faults.missing_entry):
                yield self._shifted(blob)
        self._end(number)

    async def delete(self, blob_ids: Sequence[BlobId]) -> None:
        """As `BlobStorage.delete`, perhaps without an answer."""
        number = await self._begin("delete", ",".join(blob_ids))
        if self.faults.stale_entry:
            wanted = set(blob_ids)
            self._deleted |= {b.blob_id: b async for b in self._inner.list() if b.blob_id in wanted}
        await self._inner.delete(blob_ids)
        self._end(number)
        self._lose_response(f"delete {len(blob_ids)} blobs")

    async def close(self) -> None:
        """Close `inner`."""
        await self._inner.close()

    async def _begin(self, operation: str, what: str) -> int:
        number = self.operations
        self.operations += 1
        self.log.append(f"{operation} {what}")
        if self._kill_at is not None:
            at = self._kill_at.operation
            if number > at or (number == at and not self._kill_at.after_effect):
                raise Killed(f"at operation {number}: {operation} {what}")
        if self.faults.latency:
            await self._clock.sleep(self._random.uniform(0, self.faults.latency))
        if self._happens(self.faults.throttled):
            raise StorageUnavailable(
                f"cannot {operation} {what} in {self.location}: SlowDown", retry_after=self.faults.retry_after
            )
        return number

    def _end(self, number: int) -> None:
        if self._kill_at is not None and number >= self._kill_at.operation:
            raise Killed(f"after operation {number}: {self.log[number]}")

    def _lose_response(self, attempt: str) -> None:
        if self._happens(self.faults.lost_response):
            raise StorageUnavailable(f"cannot {attempt} in {self.location}: the connection was lost")

    def _happens(self, probability: float) -> bool:
        return probability > 0 and self._random.random() < probability

    def _shifted(self, blob: BlobMetadata) -> BlobMetadata:
        shift = self.faults.skew_ns
        if self.faults.jitter_ns:
            shift += self._random.randint(-self.faults.jitter_ns, self.faults.jitter_ns)
        return replace(blob, timestamp_ns=blob.timestamp_ns + shift)
