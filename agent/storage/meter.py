"""Counting what the store is asked: requests, bytes and time by operation and outcome. The outermost wrapper.

Counts calls as the engine makes them; repeated attempts below are counted by `retries`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

import msgspec

from agent.base.clock import Clock
from agent.base.errors import StorageError
from agent.storage.base import BlobId, BlobMetadata, BlobStorage, Buffer, Retention

OK = "ok"
CANCELED = "canceled"

LATENCY_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the latency histogram, seconds; one more bucket counts what is slower."""


class OperationTotals(msgspec.Struct, frozen=True):
    """Of one operation with one outcome."""

    count: int = 0
    bytes: int = 0
    """Of blobs read or written."""
    seconds: float = 0.0
    latency: tuple[int, ...] = (0,) * (len(LATENCY_BOUNDS) + 1)
    """Calls by latency, one number for each bound and one for the rest; not cumulative."""


class RequestTotals(msgspec.Struct, frozen=True):
    """What a storage was asked so far."""

    operations: Mapping[tuple[str, str], OperationTotals]
    """By (operation, outcome): `get`, `put`, `stat`, `list`, `delete`; `ok`, `canceled` or the code of an error."""
    retries: Mapping[tuple[str, str], int]
    """Attempts that were repeated, by operation and the code of their error."""

    def count(self, operation: str) -> int:
        """Calls of `operation`, whatever their outcome."""
        return sum(t.count for (name, _), t in self.operations.items() if name == operation)

    def bytes(self, operation: str) -> int:
        """Bytes that `operation` moved successfully."""
        return self.operations.get((operation, OK), OperationTotals()).bytes


class _Counter(msgspec.Struct):
    count: int = 0
    bytes: int = 0
    seconds: float = 0.0
    latency: list[int] = msgspec.field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))


class MeteredStorage:
    """`BlobStorage` that counts calls of `inner`."""

    def __init__(self, inner: BlobStorage, clock: Clock) -> None:
        self._inner = inner
        self._clock = clock
        self._counters: dict[tuple[str, str], _Counter] = {}
        self._retries: dict[tuple[str, str], int] = {}

    def snapshot(self) -> RequestTotals:
        """The totals as they are now."""
        operations = {
            key: OperationTotals(c.count, c.bytes, c.seconds, tuple(c.latency))
            for key, c in sorted(self._counters.items())
        }
        return RequestTotals(MappingProxyType(operations), MappingProxyType(dict(sorted(self._retries.items()))))

    def count_retry(self, operation: str, error: StorageError) -> None:
        """One attempt that is going to be repeated."""
        key = operation, error.code
        self._retries[key] = self._retries.get(key, 0) + 1

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
        with self._measured("get") as done:
            data = await self._inner.get(blob_id, offset, length)
            done.bytes = len(data)
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
        with self._measured("put") as done:
            done.bytes = sum(map(len, data))
            await self._inner.put(blob_id, data, if_absent=if_absent, retention=retention)

    async def stat(self, blob_id: BlobId) -> BlobMetadata:
        """As `BlobStorage.stat`."""
        with self._measured("stat"):
            return await self._inner.stat(blob_id)

    async def list(self, prefix: str = "") -> AsyncIterator[BlobMetadata]:
        """As `BlobStorage.list`; one call, its time includes its reader's."""
        with self._measured("list"):
            async for blob in self._inner.list(prefix):
                yield blob

    async def delete(self, blob_ids: Sequence[BlobId]) -> None:
        """As `BlobStorage.delete`."""
        with self._measured("delete"):
            await self._inner.delete(blob_ids)

    async def close(self) -> None:
        """Close `inner`."""
        await self._inner.close()

    @contextmanager
    def _measured(self, operation: str) -> Iterator[_Counter]:
        done = _Counter()
        start = self._clock.monotonic()
        outcome = CANCELED
        try:
            yield done
            outcome = OK
        except GeneratorExit:  # a listing left early
            outcome = OK
            raise
        except StorageError as error:
            outcome = error.code
            raise
        finally:
            seconds = self._clock.monotonic() - start
            total = self._counters.setdefault((operation, outcome), _Counter())
            total.count += 1
            total.bytes += done.bytes
            total.seconds += seconds
            total.latency[sum(seconds > bound for bound in LATENCY_BOUNDS)] += 1
