"""Trying again where that can help: the innermost wrapper, right around a provider.

Full jitter between growing bounds, never sooner than the store asked for, at most so many attempts and so many seconds.
What cannot get better (access denied, a missing blob, a full disk) is raised at once. A lost answer to a put that took
effect counts as success: a repeated plain put writes the same bytes again; a repeated conditional one that finds the
blob there compares it.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec
from msgspec.structs import replace
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from agent.base.clock import Clock
from agent.base.errors import (
    BlobExists,
    BlobNotFound,
    ConnectionRefused,
    NameResolutionFailed,
    StorageError,
    StorageUnavailable,
)
from agent.base.hold import Hold
from agent.storage.base import BlobId, BlobMetadata, BlobStorage, Buffer, Retention

T = TypeVar("T")

_LIST_BATCH = 1000
_PART_ATTEMPTS = 4


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one call; times in seconds."""

    attempts: int = 10
    first_wait: float = 0.2
    """Upper bound of the first wait; it doubles each time."""
    longest_wait: float = 30.0
    total: float = 900.0
    """No attempt begins later than this after the call."""
    quick_attempts: int = 4
    """For what seldom passes within minutes, nobody listens or the name does not resolve, at a store that has never
    answered: most likely its address is wrong."""


class Retrier:
    """Repeats one call for as long as its policy says; the time that `hold` is closed does not count."""

    def __init__(self, policy: RetryPolicy, clock: Clock, randomness: random.Random, hold: Hold | None = None) -> None:
        self._policy = policy
        self._clock = clock
        self._random = randomness
        self._hold = hold or Hold()
        self._answered = False
        self.on_retry: Callable[[str, StorageError], None] | None = None
        """Told before each wait, with the operation that is repeated."""

    def for_parts(self) -> Retrier:
        """The same with fewer attempts, for parts of a call that is repeated as a whole."""
        few = replace(self._policy, attempts=min(self._policy.attempts, _PART_ATTEMPTS))
        parts = Retrier(few, self._clock, self._random, self._hold)
        parts.on_retry = lambda operation, error: self.on_retry(operation, error) if self.on_retry else None
        return parts

    async def call(self, operation: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt` returns, or the error of the last one. `operation` is what it is a part of, as in `meter`."""
        start = self._clock.monotonic()

        async def once() -> T:  # tenacity awaits only what is an async function itself
            nonlocal start
            if self._hold.is_closed:
                await self._hold.passed()
                start = self._clock.monotonic()
            result = await attempt()
            self._answered = True
            return result

        return await AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, StorageError) and error.retryable),
            stop=lambda state: self._is_last(state, start),
            wait=self._wait,
            sleep=self._clock.sleep,
            before_sleep=lambda state: self._tell(operation, state),
            reraise=True,
        )(once)

    def _is_last(self, state: RetryCallState, start: float) -> bool:
        if self._hold.is_closed:  # what stands still loses its connection sooner or later
            return False
        error = _failure(state)
        seldom_helps = not self._answered and isinstance(error, ConnectionRefused | NameResolutionFailed)
        attempts = min(self._policy.attempts, self._policy.quick_attempts) if seldom_helps else self._policy.attempts
        late = self._clock.monotonic() - start + _asked_wait(error) >= self._policy.total
        return state.attempt_number >= attempts or late

    def _wait(self, state: RetryCallState) -> float:
        """Full jitter, on top of what the store asked for."""
        bound = min(self._policy.first_wait * 2.0 ** (state.attempt_number - 1), self._policy.longest_wait)
        return _asked_wait(_failure(state)) + self._random.uniform(0, bound)

    def _tell(self, operation: str, state: RetryCallState) -> None:
        error = _failure(state)
        if self.on_retry is not None and isinstance(error, StorageError):
            self.on_retry(operation, error)


class RetryingStorage:
    """`BlobStorage` that repeats failed calls of `inner`."""

    def __init__(self, inner: BlobStorage, retrier: Retrier) -> None:
        self._inner = inner
        self._call = retrier.call

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
        return await self._call("get", lambda: self._inner.get(blob_id, offset, length))

    async def put(
        self,
        blob_id: BlobId,
        data: Sequence[Buffer],
        *,
        if_absent: bool = False,
        retention: Retention | None = None,
    ) -> None:
        """As `BlobStorage.put`."""
        perhaps_written = False

        async def attempt() -> None:
            nonlocal perhaps_written
            try:
                await self._inner.put(blob_id, data, if_absent=if_absent, retention=retention)
            except BlobExists:
                if not perhaps_written or not await self._holds(blob_id, data):
                    raise
            except StorageError as error:
                perhaps_written = perhaps_written or error.retryable
                raise

        await self._call("put", attempt)

    async def _holds(self, blob_id: BlobId, data: Sequence[Buffer]) -> bool:
        try:
            length = sum(memoryview(buffer).nbytes for buffer in data)
            if (await self._inner.stat(blob_id)).length != length:
                return False
            return bytes(await self._inner.get(blob_id)) == b"".join(data)
        except BlobNotFound:
            return False

    async def stat(self, blob_id: BlobId) -> BlobMetadata:
        """As `BlobStorage.stat`."""
        return await self._call("stat", lambda: self._inner.stat(blob_id))

    async def list(self, prefix: str = "") -> AsyncIterator[BlobMetadata]:
        """As `BlobStorage.list`; a listing that breaks starts over, and nothing is told twice."""
        told = array("q")  # hashes of ids: eight bytes a blob, however many there are
        blobs: AsyncIterator[BlobMetadata] | None = None

        async def next_batch() -> Sequence[BlobMetadata]:
            """Some more, none at the end."""
            nonlocal blobs
            batch: list[BlobMetadata] = []
            blobs = blobs or self._list_again(prefix, told)
            try:
                async for blob in blobs:
                    batch.append(blob)
                    if len(batch) == _LIST_BATCH:
                        break
            except StorageError:
                blobs = None
                if not batch:
                    raise
            told.extend(hash(blob.blob_id) for blob in batch)
            return batch

        while batch := await self._call("list", next_batch):
            for blob in batch:
                yield blob

    async def _list_again(self, prefix: str, told: array[int]) -> AsyncIterator[BlobMetadata]:
        known = set(told)
        async for blob in self._inner.list(prefix):
            if not known or hash(blob.blob_id) not in known:
                yield blob

    async def delete(self, blob_ids: Sequence[BlobId]) -> None:
        """As `BlobStorage.delete`."""
        await self._call("delete", lambda: self._inner.delete(blob_ids))

    async def close(self) -> None:
        """Close `inner`."""
        await self._inner.close()


def _failure(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _asked_wait(error: BaseException | None) -> float:
    """Seconds that the store wants to be left alone."""
    return (error.retry_after or 0.0) if isinstance(error, StorageUnavailable) else 0.0
