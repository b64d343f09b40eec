"""What the jobs of a node share: slots, memory, rates; and the objects of a namespace: the prepare queue."""

from __future__ import annotations

import asyncio
import random

import pytest

from agent.controllers.limits import jobs_at_once, share_rates
from agent.controllers.moving import Movings, Order
from agent.controllers.prepare_queue import PrepareQueue
from agent.controllers.slots import Slots
from agent.kube.agent_config import AgentLimits
from agent.kube.job import Phase
from agent.kube.meta import Key
from agent.kube.resource import DATA_UPLOADS, POD_VOLUME_BACKUPS
from agent.movers.spec import BackupTree, JobSpec, RateLimits, RestoreTree, Secrets, UrlLocation
from agent.snapshots.model import Source
from agent.testing.clock import VirtualClock
from agent.testing.fake_movers import FakeMovers, MoverWorld, Script
from tests.unit.controllers.controllers_kit import NODES, Cluster


def spec(name: str, *, backup: bool, own: RateLimits | None = None) -> JobSpec:
    source = Source(host="default", user="default", path="x")
    work = BackupTree(path="/x", source=source) if backup else RestoreTree(snapshot="s", target="/x")
    return JobSpec(id=name, work=work, location=UrlLocation(url="file:///x"), limits=own or RateLimits())


@pytest.mark.parametrize(
    ("concurrency", "limits", "jobs"),
    [
        (4, AgentLimits(), 4),
        (4, AgentLimits(memory_bytes=3 << 30, worker_memory_bytes=1 << 30), 3),
        (4, AgentLimits(memory_bytes=1 << 20, worker_memory_bytes=1 << 30), 1),
        (4, AgentLimits(memory_bytes=3 << 30), 4),
        (0, AgentLimits(), 1),
    ],
)
def test_as_many_jobs_run_as_are_configured_and_have_memory(concurrency: int, limits: AgentLimits, jobs: int) -> None:
    assert jobs_at_once(concurrency, limits) == jobs


async def test_a_limit_of_the_node_is_shared_by_the_jobs_that_need_it_and_shared_anew_when_one_ends() -> None:
    clock = VirtualClock()
    world = MoverWorld(script=lambda spec: Script(seconds=10.0 if spec.id == "short" else 100.0))
    own = RateLimits(upload_bytes=800)
    movers, limits = FakeMovers(world, clock), AgentLimits(upload_bytes_per_second=900, download_bytes_per_second=300)
    async with asyncio.TaskGroup() as group:
        movings = Movings(group, lambda: share_rates(limits, movings))
        works = {
            name: movings.start(("x", Key("", name)), name, order, lambda: None)
            for name, order in {
                "short": Order(movers, spec("short", backup=True), Secrets(password="p")),
                "long": Order(movers, spec("long", backup=True, own=own), Secrets(password="p")),
                "restore": Order(movers, spec("restore", backup=False), Secrets(password="p")),
            }.items()
        }
        await clock.sleep(5)
        assert [works[name].limits.upload_bytes for name in ("short", "long")] == [450, 450]
        assert {work.limits.download_bytes for work in works.values()} == {100}
        await clock.sleep(20)
        assert works["long"].limits.upload_bytes == 800  # its own limit is lower than the node's
        assert {works[name].limits.download_bytes for name in ("long", "restore")} == {150}


def test_of_two_that_wait_the_higher_priority_goes_first_then_the_namespace_with_fewer_jobs() -> None:
    slots, woken = Slots(2), []
    assert slots.acquire("a1", "a", lambda: None)
    assert slots.acquire("b1", "b", lambda: None)
    for key, namespace, priority in (("a2", "a", 0), ("b2", "b", 0), ("hook", "a", 1)):
        assert not slots.acquire(key, namespace, lambda key=key: woken.append(key), priority=priority)
    slots.release("b1")
    assert woken == ["hook"]
    assert slots.is_next("hook") and not slots.is_next("b2")
    assert slots.acquire("hook", "a", lambda: None)
    slots.release("a1")
    assert woken[-1] == "b2"


def test_who_waits_but_cannot_start_holds_up_nobody() -> None:
    slots, woken = Slots(1), []
    assert slots.acquire("running", "a", lambda: None)
    assert not slots.acquire("stuck", "a", lambda: woken.append("stuck"))
    assert not slots.acquire("next", "a", lambda: woken.append("next"))
    slots.withdraw("stuck")
    slots.release("running")
    assert woken[-1] == "next"
    assert slots.acquire("next", "a", lambda: None)
    assert (slots.running, slots.waiting) == (1, 0)


def test_the_prepare_queue_lets_the_namespace_with_the_fewest_go_first() -> None:
    clock = VirtualClock()
    labeled = {("DataUpload", Key("velero", f"a{number}")): "a" for number in range(2)}
    queue = PrepareQueue(3, clock, labeled.items)
    big, small = ("DataUpload", Key("velero", "a9")), ("DataUpload", Key("velero", "b0"))
    full = PrepareQueue(2, clock, labeled.items)
    assert not full.admit(big, "a")
    assert not full.admit(small, "b")
    labeled.popitem()
    assert not full.admit(big, "a")  # the other one asked too, and has none
    assert full.admit(small, "b")
    assert queue.admit(big, "a")


async def test_a_hooks_pod_volume_backup_starts_before_uploads_that_waited_longer() -> None:
    cluster = Cluster(random.Random(1), concurrency=1)
    cluster.moved.script = lambda _: Script(seconds=60)
    for number in range(3):
        await cluster.upload(f"u{number}")
    cluster.start_agent(NODES[0])
    await cluster.run(30)
    await cluster.pod_backup("b")
    await cluster.run(60)
    assert await cluster.phase_of(POD_VOLUME_BACKUPS, "b") is Phase.IN_PROGRESS
    waiting = [await cluster.phase_of(DATA_UPLOADS, f"u{number}") for number in range(3)]
    assert sorted(waiting) == [Phase.COMPLETED, Phase.PREPARED, Phase.PREPARED]
    await cluster.stop()
