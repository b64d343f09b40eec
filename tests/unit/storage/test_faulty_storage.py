import asyncio

import pytest

from agent.base.errors import StorageUnavailable
from agent.storage.base import BlobId
from agent.testing.clock import VirtualClock
from agent.testing.faulty_storage import Faults, FaultyStorage, KillAt, Killed
from agent.testing.memory_storage import MemoryStorage

A = BlobId("a")


@pytest.mark.parametrize(("after_effect", "blobs"), [(False, ["p0", "p1"]), (True, ["p0", "p1", "p2"])])
async def test_killed_at_an_operation_nothing_happens_any_more(after_effect: bool, blobs: list[str]) -> None:
    memory = MemoryStorage()
    storage = FaultyStorage(memory, kill_at=KillAt(2, after_effect))
    await storage.put(BlobId("p0"), [b""])
    await storage.put(BlobId("p1"), [b""])
    for i in (2, 3):
        with pytest.raises(Killed):
            await storage.put(BlobId(f"p{i}"), [b""])
    assert sorted(memory.blobs) == blobs
    assert storage.operations == 4


async def test_the_same_seed_makes_the_same_faults() -> None:
    def outcomes(seed: int) -> list[bool]:
        async def run() -> list[bool]:
            storage = FaultyStorage(MemoryStorage(), faults=Faults(throttled=0.5), seed=seed)
            results = [storage.put(A, [b""]) for _ in range(40)]
            return [isinstance(r, StorageUnavailable) for r in await asyncio.gather(*results, return_exceptions=True)]

        return asyncio.new_event_loop().run_until_complete(run())

    first = await asyncio.to_thread(outcomes, 7)
    assert first == await asyncio.to_thread(outcomes, 7)
    assert first != await asyncio.to_thread(outcomes, 8)


async def test_listings_can_be_stale_and_incomplete_and_times_skewed() -> None:
    clock = VirtualClock()
    storage = FaultyStorage(MemoryStorage(clock), faults=Faults(stale_entry=1, skew_ns=5))
    await storage.put(A, [b"x"])
    await storage.put(BlobId("b"), [b"x"])
    await storage.delete([A])
    assert sorted([blob.blob_id async for blob in storage.list()]) == ["a", "b"]
    assert (await storage.stat(BlobId("b"))).timestamp_ns == clock.now_ns() + 5
    storage.faults = Faults(missing_entry=1)
    assert [blob async for blob in storage.list()] == []
