"""DataUploads in whole agents: the state machine drives the real exposer, through deaths, cancels and deletions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from agent.controllers.controllers import ControllerOptions, Controllers, Exposers
from agent.exposers.csi_snapshot import CsiSnapshotExposer
from agent.kube.agent_config import LoadAffinity
from agent.kube.api import KubeApi
from agent.kube.data_download import DataDownload
from agent.kube.data_upload import DataUpload
from agent.kube.job import Phase
from agent.kube.pod_volume_backup import PodVolumeBackup
from agent.kube.pod_volume_restore import PodVolumeRestore
from agent.kube.resource import DATA_UPLOADS, PODS
from agent.kube.volumes import BindingMode, LabelSelector, ReclaimPolicy
from agent.testing.crashing_kube import FlakyKube
from agent.testing.fake_exposer import ExposerWorld, ExposeScript, FakeExposer
from agent.testing.fake_movers import FakeMovers, FakeRunners, MoverWorld
from tests.unit.controllers.controllers_kit import Events, Jobs, Liveness, Server
from tests.unit.exposers.csi_kit import JOB, NODES, VELERO, World

SEEDS = range(20)


class Agents:
    """One on each node, that can be killed and started again."""

    def __init__(self, world: World, *, loss: float = 0.0) -> None:
        self._world = world
        self._loss = loss
        self._moved = MoverWorld()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.liveness = Liveness()

    def start(self, node: str) -> None:
        world, clock = self._world, self._world.clock
        rng = random.Random(f"{node}{world.seed}")
        api: KubeApi = FlakyKube(world.kube, rng, self._loss) if self._loss else world.kube
        other = ExposerWorld(lambda _: ExposeScript(node=node))
        controllers = Controllers(
            world.kube,
            clock,
            rng,
            ControllerOptions(node=node, namespace=VELERO),
            exposers=Exposers(
                data_upload=CsiSnapshotExposer(world.settings(node, api)),
                data_download=FakeExposer[DataDownload](other, api, clock, "x"),
                pod_volume_backup=FakeExposer[PodVolumeBackup](other, api, clock, "x"),
                pod_volume_restore=FakeExposer[PodVolumeRestore](other, api, clock, "x"),
            ),
            runners=FakeRunners(FakeMovers(self._moved, clock)),
            jobs=Jobs(),
            definitions=Server(),
            events=Events(),
            nodes=self.liveness,
        )
        self._tasks[node] = asyncio.create_task(controllers.run())

    async def kill(self, node: str) -> None:
        task = self._tasks.pop(node)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def stop(self) -> None:
        for node in list(self._tasks):
            await self.kill(node)


@asynccontextmanager
async def _running(world: World, *, loss: float = 0.0) -> AsyncIterator[Agents]:
    """The cluster's own life, once a second, and agents on all nodes."""

    async def live() -> None:
        while True:
            await world.clock.sleep(1)
            await world.csi.step()

    agents = Agents(world, loss=loss)
    life = asyncio.create_task(live())
    for node in NODES:
        agents.start(node)
    try:
        yield agents
    finally:
        await agents.stop()
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)


async def _end_of(world: World, within: float) -> DataUpload:
    """The object when it is final and its finalizer is gone."""
    deadline = world.clock.monotonic() + within
    job = await world.job()
    while not (job.status.phase.is_final and not job.metadata.finalizers) and world.clock.monotonic() < deadline:
        await world.clock.sleep(1)
        job = await world.job()
    return job


@pytest.mark.parametrize("binding", list(BindingMode))
async def test_an_upload_completes_on_the_node_of_its_volume_and_leaves_nothing(binding: BindingMode) -> None:
    world = World(live=True, binding=binding)
    await world.build()
    async with _running(world):
        job = await _end_of(world, 120)
        assert (job.status.phase, job.status.node) == (
            Phase.COMPLETED,
            "node-a" if binding is BindingMode.IMMEDIATE else "node-b",
        )
        assert world.clock.monotonic() < 60
    assert await world.left() == []


def _image_is_missing(world: World) -> None:
    world.csi.nodes.faults.waiting = ("ErrImageNeverPull", 'Container image "lighterage:1" is not present')


def _snapshot_fails(world: World) -> None:
    world.csi.faults.snapshot = "rpc error: code = Internal desc = pool is offline"


def _volume_is_refused(world: World) -> None:
    world.csi.faults.provisioning = "rpc error: code = InvalidArgument desc = no pool is called gold"


def _no_node_is_allowed(world: World) -> None:
    world.configure(load_affinity=(LoadAffinity(LabelSelector(match_labels={"disk": "none-has-it"})),))


@pytest.mark.check(16)
@pytest.mark.parametrize(
    ("happen", "code", "words"),
    [
        (_image_is_missing, "expose.pod-failed", "is not present"),
        (_snapshot_fails, "expose.snapshot-failed", "pool is offline"),
        (_volume_is_refused, "expose.provisioning-failed", "no pool is called gold"),
        (_no_node_is_allowed, "expose.unschedulable", "didn't match Pod's node affinity"),
    ],
)
async def test_a_definite_cause_is_in_the_message_within_a_minute_and_nothing_is_left(
    happen: Callable[[World], None], code: str, words: str
) -> None:
    world = World(live=True)
    await world.build()
    happen(world)
    async with _running(world):
        job = await _end_of(world, 60)
    assert job.status.phase is Phase.FAILED
    assert job.status.message.startswith(f"{code}: ")
    assert words in job.status.message
    assert await world.left() == []


async def test_what_may_heal_is_in_the_message_when_the_time_is_up() -> None:
    world = World(live=True)
    await world.build()
    world.csi.faults.provisioning = "rpc error: code = ResourceExhausted desc = no space in pool"
    async with _running(world):
        await world.clock.sleep(1_700)
        assert (await world.job()).status.phase is Phase.ACCEPTED
        job = await _end_of(world, 200)
    assert job.status.phase is Phase.FAILED
    assert "no space in pool" in job.status.message
    assert await world.left() == []


@pytest.mark.parametrize("seed", SEEDS)
async def test_agents_that_die_at_any_moment_complete_it_once_they_are_back(seed: int) -> None:
    rng = random.Random(seed)
    world = World(
        live=True, seed=seed, reclaim=rng.choice(list(ReclaimPolicy)[:2]), binding=rng.choice(list(BindingMode))
    )
    await world.build()
    async with _running(world, loss=0.03) as agents:
        for _ in range(3):
            await world.clock.sleep(rng.uniform(0.1, 8))
            for node in NODES:
                await agents.kill(node)
            await world.clock.sleep(rng.uniform(0, 10))
            for node in NODES:
                agents.start(node)
        job = await _end_of(world, 600)
    assert job.status.phase is Phase.COMPLETED, job.status.message
    assert await world.left() == []


@pytest.mark.parametrize("seed", SEEDS)
async def test_an_upload_that_is_canceled_or_deleted_at_any_moment_leaves_nothing(seed: int) -> None:
    rng = random.Random(seed)
    world = World(live=True, seed=seed, reclaim=rng.choice(list(ReclaimPolicy)[:2]))
    await world.build()
    async with _running(world, loss=0.03) as agents:
        await world.clock.sleep(rng.uniform(0.1, 25))
        if seed % 2:
            await world.kube.patch(DATA_UPLOADS, JOB, {"spec": {"cancel": True}})
            await world.clock.sleep(rng.uniform(0, 3))
            await agents.kill("node-a")
            agents.start("node-a")
            job = await _end_of(world, 300)
            assert job.status.phase.is_final
        else:
            await world.kube.delete(DATA_UPLOADS, JOB)
            await world.clock.sleep(300)
            assert (await world.kube.list(DATA_UPLOADS)).items == ()
        await world.clock.sleep(30)
    assert await world.left() == []


@pytest.mark.parametrize("seconds", [0.5, 3, 6, 9])
async def test_what_a_dead_node_left_is_removed_by_another_agent(seconds: float) -> None:
    world = World(live=True)
    await world.build()
    async with _running(world) as agents:
        await world.clock.sleep(seconds)
        job = await world.job()
        node = job.status.node or job.status.accepted_by_node or "node-a"
        await agents.kill(node)
        agents.liveness.dead.add(node)
        job = await _end_of(world, 300)
    assert job.status.phase.is_final
    assert await world.left() == []
    assert (await world.kube.list(PODS)).items == ()
