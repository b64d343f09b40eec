"""The limits of a node, set while jobs run: measured at the storage layer, in virtual time."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import accumulate

import pytest
from msgspec.structs import replace

from agent.base.clock import Clock
from agent.control.contract import LimitChange
from agent.controllers.limits import share_rates
from agent.controllers.moving import Movings, Order
from agent.kube.agent_config import AgentLimits
from agent.kube.meta import Key
from agent.movers.spec import BackupTree, JobResult, JobSpec, Progress, RateLimits, Secrets, UrlLocation
from agent.movers.supervisor import JobCallbacks
from agent.server.capacity import Capacity
from agent.server.live_limits import LiveLimits
from agent.snapshots.model import Source
from agent.storage.base import BlobId
from agent.storage.limit import LimitedStorage, Limits
from agent.storage.pace import Pace, TokenBucket
from agent.testing.clock import VirtualClock
from agent.testing.memory_storage import MemoryStorage

MIB = 1 << 20
PACK = 20 * MIB
WINDOW = 5.0


class Journal(TokenBucket):
    """Notes when how many bytes passed."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(0, clock)
        self.passed: list[tuple[float, int]] = []

    async def allow(self, wanted: int) -> int:
        granted = await super().allow(wanted)
        self.passed.append((self._clock.monotonic(), granted))
        return granted


class Upload:
    """A job that puts pack after pack, two at once, as fast as its storage lets it: runner and running work in one."""

    def __init__(self, clock: Clock) -> None:
        pace = Pace(clock)
        self.journal = pace.upload = Journal(clock)
        self._clock = clock
        self._storage = LimitedStorage(MemoryStorage(clock, pace), Limits(), clock, pace)
        self.heard: list[RateLimits] = []

    @asynccontextmanager
    async def job(
        self, spec: JobSpec, secrets: Secrets, callbacks: JobCallbacks | None = None
    ) -> AsyncIterator[Upload]:
        await self._storage.set_limits(spec.limits.for_storage())
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._put(name)) for name in ("p1", "p2")]
            yield self
            for task in tasks:
                task.cancel()

    async def _put(self, name: str) -> None:
        data = bytes(PACK)
        while True:
            await self._storage.put(BlobId(name), [data])
            await self._clock.sleep(0.1)  # what a wire without a limit would take, and more

    async def updates(self) -> AsyncIterator[Progress]:
        while True:
            await self._clock.sleep(1)
            yield Progress()

    def cancel(self, reason: str = "") -> None:
        raise AssertionError("nobody cancels it")

    def set_limits(self, limits: RateLimits) -> None:
        self.heard.append(limits)
        self._setting = asyncio.ensure_future(self._storage.set_limits(limits.for_storage()))

    async def result(self) -> JobResult:
        raise AssertionError("it never ends")


class Node:
    """Limits and running uploads."""

    def __init__(self, limits: AgentLimits | None = None, concurrency: int = 4) -> None:
        self.clock = VirtualClock()
        self.capacity = Capacity(concurrency, limits or AgentLimits())
        self.changes = 0
        self.uploads: list[Upload] = []
        self.movings: Movings | None = None
        self.limits = LiveLimits(lambda: self.capacity, self._changed)

    def _changed(self) -> None:
        self.changes += 1
        self.share()

    def share(self) -> None:
        share_rates(self.limits.over(self.capacity).limits, self.movings or ())

    @asynccontextmanager
    async def running(self, count: int) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            self.movings = movings = Movings(group, self.share)
            works = []
            for number in range(count):
                self.uploads.append(Upload(self.clock))
                spec = JobSpec(
                    id=f"job-{number}",
                    work=BackupTree(path="/data", source=Source(user="u", host="h", path="/data")),
                    location=UrlLocation(url="file:///nowhere"),
                )
                order = Order(self.uploads[-1], spec, Secrets(password="p"))
                works.append(movings.start(("DataUpload", Key("velero", spec.id)), spec.id, order, lambda: None))
            yield
            for work in works:
                assert work._task is not None
                work._task.cancel()

    def passed(self, start: float, end: float) -> int:
        """Bytes of all uploads after `start` and until `end`."""
        total = 0
        for upload in self.uploads:
            times = [moment for moment, _ in upload.journal.passed]
            sums = [0, *accumulate(count for _, count in upload.journal.passed)]
            total += sums[bisect.bisect_right(times, end)] - sums[bisect.bisect_right(times, start)]
        return total


@pytest.mark.parametrize("jobs", [1, 3])
async def test_a_limit_set_on_running_uploads_is_kept_in_every_window_and_lifted_at_once(jobs: int) -> None:
    node = Node()
    async with node.running(jobs):
        await node.clock.sleep(10)
        assert node.passed(0, 10) > 50 * 10 * MIB, "nothing limits them yet"
        node.limits.set(LimitChange(upload_bytes_per_second=5 * MIB))
        start = node.clock.monotonic()
        await node.clock.sleep(60)
        end = node.clock.monotonic()
        node.limits.set(LimitChange(upload_bytes_per_second=0))
        await node.clock.sleep(3)
        lifted = node.passed(end + 1, end + 3)
    windows = [start + 0.25 * step for step in range(int((end - start - WINDOW) * 4))]
    rates = [node.passed(begin, begin + WINDOW) / WINDOW for begin in windows]
    assert len(rates) == 220
    assert max(rates) <= 5 * MIB * 1.1
    assert min(rates) >= 5 * MIB * 0.9
    assert lifted > 50 * 2 * MIB


def test_what_is_set_counts_over_the_configuration_until_it_is_reset() -> None:
    node = Node(AgentLimits(upload_bytes_per_second=10, memory_bytes=8, worker_memory_bytes=2), concurrency=3)
    node.limits.set(LimitChange(upload_bytes_per_second=0))
    node.limits.set(LimitChange(concurrency=9))
    assert node.limits.override == LimitChange(upload_bytes_per_second=0, concurrency=9)
    assert node.limits.in_force.upload_bytes_per_second == 0
    assert node.limits.in_force.concurrency == 4, "no more than there is memory for"
    limits = AgentLimits(upload_bytes_per_second=20, download_bytes_per_second=5)
    node.capacity = Capacity(3, limits)
    assert node.limits.over(node.capacity) == Capacity(9, replace(limits, upload_bytes_per_second=0))
    assert node.limits.in_force.download_bytes_per_second == 5
    node.limits.reset()
    assert node.limits.in_force == node.limits.configured
    assert node.limits.in_force.concurrency == 3
    assert node.changes == 3
