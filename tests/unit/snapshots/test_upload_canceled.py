"""Backups that are canceled while the store hangs: they end in time, and the next one goes on."""

import asyncio
import threading

import pytest

from agent.base.errors import CanceledError
from agent.snapshots.model import INCOMPLETE_CANCELED
from agent.snapshots.progress import Cancellation
from agent.testing.clock import VirtualClock
from agent.testing.memory_storage import MemoryStorage
from tests.unit.snapshots.backup_kit import BIG, back_up, fill, snapshots, storage_with


class Hanging(MemoryStorage):
    """Stops answering for good at an operation on a blob of this kind, once the files were begun."""

    def __init__(self, blobs, operation, prefix, clock):
        super().__init__(clock)
        self.blobs.update(blobs)
        self.timestamps_ns.update(dict.fromkeys(blobs, clock.now_ns()))
        self._at = (operation, prefix)
        self.hangs = asyncio.Event()

    async def _pass(self, operation, name):
        if (operation, name[:1]) == self._at and any(blob[0] == "s" for blob in self.blobs):
            self.hangs.set()
        if self.hangs.is_set():
            await asyncio.Event().wait()

    async def get(self, blob_id, offset=0, length=None):
        await self._pass("get", blob_id)
        return await super().get(blob_id, offset, length)

    async def put(self, blob_id, data, *, if_absent=False, retention=None):
        await self._pass("put", blob_id)
        await super().put(blob_id, data, if_absent=if_absent, retention=retention)

    async def list(self, prefix=""):
        await self._pass("list", prefix)
        async for blob in super().list(prefix):
            yield blob

    async def delete(self, blob_ids):
        await self._pass("delete", blob_ids[0] if blob_ids else "")
        await super().delete(blob_ids)


async def settled():
    for _ in range(20):
        await asyncio.sleep(0)


MOMENTS = [("put", "p"), ("put", "q"), ("put", "x"), ("list", "x"), ("delete", "s")]


@pytest.fixture
def folder(tmp_path):
    fill(tmp_path / "data", {f"f{n}": BIG + b"%d" % n for n in range(16)})
    return tmp_path / "data"


@pytest.mark.parametrize("moment", MOMENTS, ids=" ".join)
async def test_a_canceled_run_waits_for_a_store_that_hangs_as_long_as_it_may(blobs, folder, moment):
    clock = VirtualClock(jump=False)
    storage, cancellation = Hanging(blobs, *moment, clock), Cancellation()
    run = asyncio.create_task(back_up(storage, folder, clock=clock, cancellation=cancellation, save_within=5))
    await asyncio.wait([run, asyncio.create_task(storage.hangs.wait())], return_when=asyncio.FIRST_COMPLETED)
    cancellation.cancel()
    await settled()
    clock.advance(4.9)
    await settled()
    assert not run.done()
    clock.advance(0.1)
    with pytest.raises(CanceledError, match="within 5 seconds"):
        await asyncio.wait_for(run, 60)
    assert clock.monotonic() == pytest.approx(5)
    for thread in threading.enumerate():
        if thread.name.startswith(("upload", "hash")):
            thread.join(60)
            assert not thread.is_alive(), thread
    again, _ = await back_up(storage_with(storage.blobs), folder)
    assert not again.snapshot.incomplete


@pytest.mark.parametrize("moment", [("put", "p"), ("put", "x")], ids=" ".join)
async def test_canceling_the_task_waits_for_no_store(blobs, folder, moment):
    clock = VirtualClock(jump=False)
    storage = Hanging(blobs, *moment, clock)
    run = asyncio.create_task(back_up(storage, folder, clock=clock))
    await storage.hangs.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(run, 60)
    assert clock.monotonic() == 0
    again, _ = await back_up(storage_with(storage.blobs), folder)
    assert not again.snapshot.incomplete


async def test_a_canceled_run_whose_store_answers_is_saved(storage, folder):
    cancellation = Cancellation()
    cancellation.cancel()
    result, _ = await back_up(storage, folder, cancellation=cancellation)
    assert result.snapshot.incomplete == INCOMPLETE_CANCELED
    assert [s.id for s in await snapshots(storage)] == [result.snapshot.id]
