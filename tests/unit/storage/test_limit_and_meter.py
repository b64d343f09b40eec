import asyncio

import pytest

from agent.base.errors import BlobNotFound
from agent.storage.base import BlobId
from agent.storage.limit import LimitedStorage, Limits
from agent.storage.meter import LATENCY_BOUNDS, MeteredStorage
from agent.storage.open import StorageOptions, StorageStack
from agent.storage.pace import Pace
from agent.testing.clock import VirtualClock
from agent.testing.faulty_storage import Faults, FaultyStorage
from agent.testing.memory_storage import MemoryStorage

A = BlobId("a")


async def test_requests_keep_to_their_rate() -> None:
    clock = VirtualClock()
    storage = LimitedStorage(MemoryStorage(clock), Limits(requests=10), clock, Pace(clock))
    for _ in range(30):
        await storage.delete([A])
    assert [blob async for blob in storage.list()] == []
    assert clock.monotonic() == pytest.approx(2.6, abs=0.01)


async def test_no_more_run_at_once_than_allowed_also_after_cancelation() -> None:
    clock = VirtualClock()
    memory = MemoryStorage(clock)
    running = most = 0

    class Watched(FaultyStorage):
        async def delete(self, blob_ids: object) -> None:  # type: ignore[override]
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                await clock.sleep(1)
            finally:
                running -= 1

    storage = LimitedStorage(Watched(memory), Limits(concurrency=3), clock, Pace(clock))
    tasks = [asyncio.ensure_future(storage.delete([A])) for _ in range(12)]
    await asyncio.sleep(0)
    for task in tasks[::4]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert most == 3
    assert running == 0
    await storage.delete([A])


async def test_totals_tell_operations_outcomes_bytes_and_latency() -> None:
    clock = VirtualClock()
    storage = MeteredStorage(FaultyStorage(MemoryStorage(clock), faults=Faults(latency=0.002), clock=clock), clock)
    await storage.put(A, [b"12", b"345"])
    await storage.get(A, 1, 2)
    await storage.stat(A)
    with pytest.raises(BlobNotFound):
        await storage.get(BlobId("b"))
    async for _ in storage.list():
        break
    task = asyncio.ensure_future(storage.get(A))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0)
    totals = storage.snapshot()
    assert {key: (t.count, t.bytes) for key, t in totals.operations.items()} == {
        ("get", "canceled"): (1, 0),
        ("get", "ok"): (1, 2),
        ("get", "storage.blob-not-found"): (1, 0),
        ("list", "ok"): (1, 0),
        ("put", "ok"): (1, 5),
        ("stat", "ok"): (1, 0),
    }
    assert totals.count("get") == 3
    assert totals.bytes("put") == 5
    put = totals.operations["put", "ok"]
    assert 0 < put.seconds <= 0.002
    assert put.latency == (1,) + (0,) * len(LATENCY_BOUNDS)


async def test_the_stack_counts_calls_and_retries_apart() -> None:
    clock = VirtualClock()
    faulty = FaultyStorage(MemoryStorage(clock), faults=Faults(throttled=0.5), seed=3, clock=clock)
    options = StorageOptions(clock=clock)
    storage = StorageStack(faulty, options.retrier(), Pace(clock), options)
    for i in range(10):
        await storage.put(BlobId(f"p{i}"), [b"x"])
    totals = storage.snapshot()
    assert totals.count("put") == 10
    assert totals.retries == {("put", "storage.unavailable"): faulty.operations - 10}
