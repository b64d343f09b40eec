"""DataDownloads in whole agents: the state machine drives the real exposer, through deaths and cancels."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from agent.controllers.controllers import ControllerOptions, Controllers, Exposers
from agent.exposers.csi_snapshot import CsiSnapshotExposer
from agent.exposers.pod_volume import PodVolumeBackupExposer, PodVolumeRestoreExposer
from agent.kube.data_download import DataDownload
from agent.kube.job import Phase
from agent.kube.resource import DATA_DOWNLOADS, PERSISTENT_VOLUME_CLAIMS
from agent.kube.volumes import BindingMode, ReclaimPolicy
from agent.testing.fake_movers import FakeMovers, FakeRunners, MoverWorld
from tests.unit.controllers.controllers_kit import Events, Jobs, Liveness, Server
from tests.unit.exposers.restore_kit import JOB, NAMESPACE, NODES, TARGET, RestoreCluster
from tests.unit.exposers.test_restore import assert_handed_over, assert_nothing_left

POLICIES = (ReclaimPolicy.DELETE, ReclaimPolicy.RETAIN)


class Agents:
    """One on each node, that can be killed and started again."""

    def __init__(self, cluster: RestoreCluster) -> None:
        self._cluster = cluster
        self._moved = MoverWorld()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, node: str) -> None:
        cluster, settings = self._cluster, self._cluster.settings(node=node)
        controllers = Controllers(
            cluster.kube,
            cluster.clock,
            random.Random(node),
            ControllerOptions(node=node, namespace=NAMESPACE),
            exposers=Exposers(
                data_upload=CsiSnapshotExposer(settings),
                data_download=cluster.exposer(node=node),
                pod_volume_backup=PodVolumeBackupExposer(settings),
                pod_volume_restore=PodVolumeRestoreExposer(settings),
            ),
            runners=FakeRunners(FakeMovers(self._moved, cluster.clock)),
            jobs=Jobs(),
            definitions=Server(),
            events=Events(),
            nodes=Liveness(),
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
async def running(cluster: RestoreCluster) -> AsyncIterator[Agents]:
    """The cluster's own life, once a second, and agents on all nodes."""

    async def live() -> None:
        while True:
            await cluster.clock.sleep(1)
            await cluster.step()

    agents = Agents(cluster)
    life = asyncio.create_task(live())
    for node in NODES:
        agents.start(node)
    try:
        yield agents
    finally:
        await agents.stop()
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)


async def ended(cluster: RestoreCluster, within: float) -> DataDownload:
    """The object when it is final and its finalizer is gone."""
    deadline = cluster.clock.monotonic() + within
    job = await cluster.kube.get(DATA_DOWNLOADS, JOB)
    while not (job.status.phase.is_final and not job.metadata.finalizers) and cluster.clock.monotonic() < deadline:
        await cluster.clock.sleep(1)
        job = await cluster.kube.get(DATA_DOWNLOADS, JOB)
    return job


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_download_completes_with_the_users_claim_bound(policy: ReclaimPolicy) -> None:
    cluster = RestoreCluster(reclaim_policy=policy, binding=BindingMode.WAIT_FOR_FIRST_CONSUMER)
    await cluster.begin()
    async with running(cluster):
        await cluster.clock.sleep(60)
        assert (await cluster.kube.get(DATA_DOWNLOADS, JOB)).status.phase is Phase.ACCEPTED
        await cluster.select_node("node-b")
        job = await ended(cluster, 120)
    assert (job.status.phase, job.status.node) == (Phase.COMPLETED, "node-b")
    await assert_handed_over(cluster, policy)


@pytest.mark.parametrize("seed", range(20))
async def test_agents_that_die_at_any_moment_complete_it_once_they_are_back(seed: int) -> None:
    rng = random.Random(seed)
    cluster = RestoreCluster(reclaim_policy=rng.choice(POLICIES))
    await cluster.begin()
    async with running(cluster) as agents:
        for _ in range(3):
            await cluster.clock.sleep(rng.uniform(0.1, 8))
            for node in NODES:
                await agents.kill(node)
            await cluster.clock.sleep(rng.uniform(0, 10))
            for node in NODES:
                agents.start(node)
        job = await ended(cluster, 300)
    assert job.status.phase is Phase.COMPLETED, job.status.message
    await assert_handed_over(cluster, cluster.reclaim_policy)


@pytest.mark.parametrize("seed", range(20))
async def test_a_download_that_is_canceled_at_any_moment_leaves_one_or_the_other(seed: int) -> None:
    rng = random.Random(seed)
    cluster = RestoreCluster(reclaim_policy=rng.choice(POLICIES))
    await cluster.begin()
    async with running(cluster) as agents:
        await cluster.clock.sleep(rng.uniform(0.1, 25))
        await cluster.kube.patch(DATA_DOWNLOADS, JOB, {"spec": {"cancel": True}})
        if seed % 2:
            await cluster.clock.sleep(rng.uniform(0, 3))
            await agents.kill(NODES[0])
            agents.start(NODES[0])
        job = await ended(cluster, 300)
        await cluster.clock.sleep(10)
    assert job.status.phase.is_final
    bound = (await cluster.kube.get(PERSISTENT_VOLUME_CLAIMS, TARGET)).spec.volume_name
    if bound:
        await assert_handed_over(cluster, cluster.reclaim_policy)
    else:
        assert job.status.phase is Phase.CANCELED
        await assert_nothing_left(cluster)
