"""A storage that opens while its owner goes on."""

from __future__ import annotations

import asyncio
import gc

import pytest

from agent.base.errors import BucketNotFound
from agent.storage.base import BlobId, BlobStorage
from agent.storage.open import open_storage
from agent.storage.opening import OpeningStorage
from agent.testing.memory_storage import MemoryStorage

PACK = BlobId("p1")


class ClosedStorage(MemoryStorage):
    """Counts how often it is closed."""

    closed = 0

    async def close(self) -> None:
        self.closed += 1


class Opener:
    """Counts how often it is asked; fails as often as told."""

    def __init__(self, failures: int = 0) -> None:
        self.asked = 0
        self.failures = failures
        self.inner = ClosedStorage()

    async def __call__(self) -> BlobStorage:
        self.asked += 1
        await asyncio.sleep(0)
        if self.asked <= self.failures:
            raise BucketNotFound("there is no such bucket")
        return self.inner


async def test_what_is_known_is_known_before_it_is_open() -> None:
    opener = Opener()
    storage = OpeningStorage("s3://bucket/", 2, opener)
    assert (storage.location, storage.parallel_puts, opener.asked) == ("s3://bucket/", 2, 0)
    await storage.close()


@pytest.mark.parametrize("turns", [0, 1, 5])
async def test_what_nobody_asked_is_closed_however_far_it_has_come(turns: int) -> None:
    opener = Opener()
    storage = OpeningStorage("memory:", 1, opener)
    for _ in range(turns):
        await asyncio.sleep(0)
    await storage.close()
    assert opener.inner.closed == (turns == 5)


async def test_a_failure_that_nobody_asked_for_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    storage = OpeningStorage("memory:", 1, Opener(failures=1))
    for _ in range(5):
        await asyncio.sleep(0)
    await storage.close()
    del storage
    gc.collect()
    assert not caplog.records


async def test_a_call_that_is_cancelled_leaves_the_opening_to_the_next_one() -> None:
    opener = Opener()
    storage = OpeningStorage("memory:", 1, opener)
    call = asyncio.create_task(storage.put(PACK, [b"x"]))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await storage.put(PACK, [b"y"])
    assert opener.asked == 1
    assert bytes(await storage.get(PACK)) == b"y"


async def test_first_calls_at_once_open_once_and_all_calls_reach_what_was_opened() -> None:
    opener = Opener()
    storage = OpeningStorage("memory:", 1, opener)
    await asyncio.gather(*(storage.put(BlobId(f"p{n}"), [b"x", b"%d" % n]) for n in range(4)))
    assert opener.asked == 1
    assert bytes(await storage.get(PACK, 1)) == b"1"
    assert (await storage.stat(PACK)).length == 2
    await storage.delete([PACK])
    assert sorted([blob.blob_id async for blob in storage.list("p")]) == ["p0", "p2", "p3"]
    await storage.close()


async def test_an_opening_that_fails_fails_the_call_and_the_next_call_tries_again() -> None:
    opener = Opener(failures=1)
    storage = OpeningStorage("memory:", 1, opener)
    with pytest.raises(BucketNotFound):
        await storage.stat(PACK)
    await storage.put(PACK, [b"x"])
    assert bytes(await opener.inner.get(PACK)) == b"x"


async def test_a_bucket_is_named_and_closed_without_a_connection() -> None:
    storage = await open_storage("s3://bucket/below?endpoint=http://127.0.0.1:1&region=us-east-1")
    assert storage.location == "s3://bucket/below/?endpoint=http://127.0.0.1:1"
    assert storage.parallel_puts == 2
    await storage.close()
