"""Agents that die at any request of a restore, and those that go on after them.

Whatever happens, the user's claim has the volume with its policy as it was, or nothing of ours is left: never both,
never a volume that nobody knows of.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from agent.exposers.contract import Done
from agent.exposers.restore import GenericRestoreExposer
from agent.kube.data_download import DataDownload
from agent.kube.resource import PERSISTENT_VOLUME_CLAIMS
from agent.kube.volumes import ReclaimPolicy
from agent.testing.crashing_kube import CrashingKube, Died
from tests.unit.exposers.restore_kit import TARGET, RestoreCluster
from tests.unit.exposers.test_restore import (
    assert_handed_over,
    assert_nothing_left,
    until_clean,
    until_finished,
    until_ready,
)

POLICIES = (ReclaimPolicy.DELETE, ReclaimPolicy.RETAIN)


@dataclass
class Memory:
    """What the DataDownload remembers: that its data was moved."""

    moved: bool = False


Life = Callable[[RestoreCluster, GenericRestoreExposer, DataDownload, Memory], Awaitable[None]]


async def complete(cluster: RestoreCluster, exposer: GenericRestoreExposer, job: DataDownload, memory: Memory) -> None:
    if not memory.moved:
        await until_ready(cluster, exposer, job)
        memory.moved = True
    assert await until_finished(cluster, exposer, job) == Done()
    await until_clean(cluster, exposer, job)


async def fail(cluster: RestoreCluster, exposer: GenericRestoreExposer, job: DataDownload, memory: Memory) -> None:
    if not memory.moved:
        await until_ready(cluster, exposer, job)
    memory.moved = True
    await until_clean(cluster, exposer, job)


async def requests_of(life: Life, policy: ReclaimPolicy) -> int:
    cluster = RestoreCluster(reclaim_policy=policy)
    job, api = await cluster.begin(), CrashingKube(cluster.kube)
    await life(cluster, cluster.exposer(api), job, Memory())
    return api.requests


async def died(
    life: Life, policy: ReclaimPolicy, at: int, *, after: bool
) -> tuple[RestoreCluster, DataDownload, Memory]:
    """A cluster in which an agent has died at a request, and which has gone on for a while without it."""
    cluster, memory = RestoreCluster(reclaim_policy=policy), Memory()
    job = await cluster.begin()
    with contextlib.suppress(Died):  # with `after`, a request that is refused kills nobody
        await life(cluster, cluster.exposer(CrashingKube(cluster.kube, at, after=after)), job, memory)
    await cluster.step(random.Random(at).randrange(4))
    return cluster, job, memory


async def assert_one_or_the_other(cluster: RestoreCluster, policy: ReclaimPolicy) -> None:
    await cluster.step(10)
    if (await cluster.kube.get(PERSISTENT_VOLUME_CLAIMS, TARGET)).spec.volume_name:
        await assert_handed_over(cluster, policy)
    else:
        await assert_nothing_left(cluster)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("after", [False, True], ids=["before the request", "after it"])
async def test_the_next_agent_completes_what_one_that_died_began(policy: ReclaimPolicy, after: bool) -> None:
    last = await requests_of(complete, policy)
    assert last > 20
    for at in range(1, last + 1):
        cluster, job, memory = await died(complete, policy, at, after=after)
        await complete(cluster, cluster.exposer(), job, memory)
        await assert_handed_over(cluster, policy)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("after", [False, True], ids=["before the request", "after it"])
async def test_a_restore_that_is_canceled_after_its_agent_died_leaves_one_or_the_other(
    policy: ReclaimPolicy, after: bool
) -> None:
    outcomes = set()
    for at in range(1, await requests_of(complete, policy) + 1):
        cluster, job, _ = await died(complete, policy, at, after=after)
        await until_clean(cluster, cluster.exposer(), job)
        await assert_one_or_the_other(cluster, policy)
        outcomes.add(bool(cluster.csi.storage.volumes))
    assert outcomes == {True, False}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("after", [False, True], ids=["before the request", "after it"])
async def test_cleaning_up_is_gone_on_with_wherever_an_agent_died(policy: ReclaimPolicy, after: bool) -> None:
    for at in range(1, await requests_of(fail, policy) + 1):
        cluster, job, _ = await died(fail, policy, at, after=after)
        await until_clean(cluster, cluster.exposer(), job)
        await assert_nothing_left(cluster)


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_hand_over_after_an_interrupted_clean_up_never_gives_away_a_volume_that_is_being_deleted(
    policy: ReclaimPolicy,
) -> None:
    for at in range(1, await requests_of(fail, policy) + 1):
        cluster, job, memory = await died(fail, policy, at, after=True)
        exposer = cluster.exposer()
        if memory.moved:
            await until_finished(cluster, exposer, job)
        await until_clean(cluster, exposer, job)
        await assert_one_or_the_other(cluster, policy)


async def test_two_deaths_in_a_row_are_survived() -> None:
    last = await requests_of(complete, ReclaimPolicy.RETAIN)
    rng = random.Random(11)
    for _ in range(60):
        cluster, job, memory = await died(
            complete, ReclaimPolicy.RETAIN, rng.randint(1, last), after=bool(rng.getrandbits(1))
        )
        second = cluster.exposer(CrashingKube(cluster.kube, rng.randint(1, last), after=bool(rng.getrandbits(1))))
        try:
            await complete(cluster, second, job, memory)
        except Died:
            await complete(cluster, cluster.exposer(), job, memory)
        await assert_handed_over(cluster, ReclaimPolicy.RETAIN)
