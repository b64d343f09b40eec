import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from agent.base.errors import (
    AccessDenied,
    BlobExists,
    BlobNotFound,
    ConnectionRefused,
    StorageError,
    StorageUnavailable,
)
from agent.base.hold import Hold
from agent.storage.base import BlobId, BlobMetadata
from agent.storage.retry import Retrier, RetryingStorage, RetryPolicy
from agent.testing.clock import VirtualClock
from agent.testing.faulty_storage import Faults, FaultyStorage
from agent.testing.memory_storage import MemoryStorage

PACK = BlobId("p3c92c8baa4cf86d6bb6c295f1e7b6f10-sc5b5ef52f1dcd742147")


class Failing(MemoryStorage):
    """Raises `errors` one after the other before gets work."""

    def __init__(self, *errors: StorageError) -> None:
        super().__init__()
        self.errors = list(errors)
        self.attempts = 0

    async def get(self, blob_id: BlobId, offset: int = 0, length: int | None = None) -> bytes:
        self.attempts += 1
        if self.errors:
            raise self.errors.pop(0)
        return b"data"


def retrying(inner: MemoryStorage | FaultyStorage, clock: VirtualClock, **policy: float) -> RetryingStorage:
    return RetryingStorage(inner, Retrier(RetryPolicy(**policy), clock, random.Random(1)))  # type: ignore[arg-type]


async def test_what_passes_is_tried_again_with_growing_jittered_waits() -> None:
    clock = VirtualClock()
    inner = Failing(*(StorageUnavailable("busy") for _ in range(5)))
    retrier = Retrier(RetryPolicy(), clock, random.Random(1))
    storage = RetryingStorage(inner, retrier)
    told: list[tuple[str, str]] = []
    retrier.on_retry = lambda operation, error: told.append((operation, error.code))
    assert await storage.get(PACK) == b"data"
    assert inner.attempts == 6
    assert told == [("get", "storage.unavailable")] * 5
    assert 0 < clock.monotonic() <= 0.2 * (1 + 2 + 4 + 8 + 16)


@pytest.mark.parametrize("error", [AccessDenied("no"), BlobNotFound("gone"), StorageError("odd")])
async def test_what_cannot_get_better_is_raised_at_once(error: StorageError) -> None:
    clock = VirtualClock()
    inner = Failing(error)
    with pytest.raises(type(error)):
        await retrying(inner, clock).get(PACK)
    assert inner.attempts == 1
    assert clock.monotonic() == 0


async def test_the_store_is_left_alone_as_long_as_it_asked() -> None:
    clock = VirtualClock()
    await retrying(Failing(StorageUnavailable("SlowDown", retry_after=17)), clock).get(PACK)
    assert 17 <= clock.monotonic() <= 17.2


async def test_attempts_are_bounded() -> None:
    inner = Failing(*(StorageUnavailable("busy") for _ in range(99)))
    with pytest.raises(StorageUnavailable):
        await retrying(inner, VirtualClock(), attempts=3).get(PACK)
    assert inner.attempts == 3


async def test_nobody_listening_is_given_up_sooner() -> None:
    inner = Failing(*(ConnectionRefused("no") for _ in range(99)))
    with pytest.raises(ConnectionRefused):
        await retrying(inner, VirtualClock()).get(PACK)
    assert inner.attempts == 4


async def test_a_store_that_has_answered_before_is_waited_for_when_nobody_listens() -> None:
    inner = Failing()
    storage = retrying(inner, VirtualClock())
    await storage.get(PACK)
    inner.errors = [ConnectionRefused("restarting") for _ in range(8)]
    assert await storage.get(PACK) == b"data"


async def test_a_store_that_never_answered_is_waited_for_where_its_address_is_known_to_be_right() -> None:
    inner = Failing(*(ConnectionRefused("restarting") for _ in range(8)))
    assert await retrying(inner, VirtualClock(), quick_attempts=10).get(PACK) == b"data"
    assert inner.attempts == 9


async def test_total_time_is_bounded() -> None:
    clock = VirtualClock()
    inner = Failing(*(StorageUnavailable("busy", retry_after=100) for _ in range(99)))
    with pytest.raises(StorageUnavailable):
        await retrying(inner, clock, attempts=99, total=350).get(PACK)
    assert inner.attempts == 4
    assert clock.monotonic() <= 350


async def test_a_put_whose_answer_was_lost_is_a_success() -> None:
    for if_absent in (False, True):
        memory = MemoryStorage()
        faulty = FaultyStorage(memory, faults=Faults(lost_response=1))
        storage = retrying(faulty, VirtualClock(), attempts=2)
        if if_absent:
            await storage.put(PACK, [b"a", b"b"], if_absent=True)
        else:
            with pytest.raises(StorageUnavailable):  # the second answer is lost as well
                await storage.put(PACK, [b"a", b"b"])
        assert memory.blobs == {PACK: b"ab"}


async def test_a_conditional_put_that_lost_to_somebody_else_says_so() -> None:
    memory = MemoryStorage()
    await memory.put(PACK, [b"theirs"])
    with pytest.raises(BlobExists):
        await retrying(FaultyStorage(memory, faults=Faults(lost_response=1)), VirtualClock()).put(
            PACK, [b"ours"], if_absent=True
        )

    class LosesThenShowsOther(MemoryStorage):
        async def put(self, blob_id: BlobId, data: object, **_: object) -> None:  # type: ignore[override]
            if not self.blobs:
                await super().put(blob_id, [b"theirs"])
                raise StorageUnavailable("connection lost")
            raise BlobExists("there")

    with pytest.raises(BlobExists):
        await retrying(LosesThenShowsOther(), VirtualClock()).put(PACK, [b"ours"], if_absent=True)


async def test_a_listing_that_breaks_goes_on_without_repeating() -> None:
    class Breaking(MemoryStorage):
        broken = 0

        async def list(self, prefix: str = "") -> AsyncIterator[BlobMetadata]:
            seen = 0
            async for blob in super().list(prefix):
                yield blob
                seen += 1
                if seen == 7 * (self.broken + 1) and self.broken < 3:
                    self.broken += 1
                    raise StorageUnavailable("connection lost")

    memory = Breaking()
    for i in range(30):
        await memory.put(BlobId(f"p{i:03}"), [b""])
    listed = [blob.blob_id async for blob in retrying(memory, VirtualClock()).list("p")]
    assert listed == sorted(memory.blobs)
    assert memory.broken == 3


@pytest.mark.parametrize("seed", range(10))
async def test_a_bad_store_looks_like_a_slow_good_one(seed: int) -> None:
    clock = VirtualClock()
    memory = MemoryStorage(clock)
    faults = Faults(throttled=0.3, lost_response=0.3, truncated=0.3, latency=0.5)
    storage = retrying(FaultyStorage(memory, faults=faults, seed=seed, clock=clock), clock, attempts=50)
    ids = [BlobId(f"p{i:03}") for i in range(20)]
    for blob_id in ids:
        await storage.put(blob_id, [blob_id.encode()], if_absent=True)
    assert [blob.blob_id async for blob in storage.list()] == ids
    for blob_id in ids:
        assert await storage.get(blob_id, 1) == blob_id[1:].encode()
    await storage.delete(ids)
    assert not memory.blobs


async def test_the_time_that_a_call_is_held_up_does_not_count() -> None:
    clock, hold = VirtualClock(), Hold()
    inner = Failing(*(StorageUnavailable("the connection was idle for too long") for _ in range(2)))
    storage = RetryingStorage(inner, Retrier(RetryPolicy(total=60, attempts=3), clock, random.Random(1), hold))
    hold.set(closed=True)
    call = asyncio.ensure_future(storage.get(PACK))
    await clock.sleep(3_600)
    assert inner.attempts == 0
    hold.set(closed=False)
    assert await call == b"data"
    assert inner.attempts == 3
