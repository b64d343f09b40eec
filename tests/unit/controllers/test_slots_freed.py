"""A slot that is freed is taken at once by the next object that can start, whatever became of those before it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from agent.base.errors import KubeUnavailable
from agent.kube.job import Phase
from agent.kube.meta import Key
from agent.kube.resource import DATA_UPLOADS, PODS
from agent.testing.fake_exposer import ExposeScript
from agent.testing.fake_movers import Script
from tests.unit.controllers.controllers_kit import NAMESPACE, NODES, Cluster

RUNNING, FIRST, SECOND = "running", "first", "second"
AT_ONCE_SECONDS = 6.0
"""To end the one, to clean up after it, and to look at the volume of the next."""


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """One slot, taken for good, and two that wait for it, in this order and for long."""
    cluster = Cluster(random.Random(1), concurrency=1)
    cluster.moved.script = lambda _: Script(seconds=1e6)
    for name in (RUNNING, FIRST, SECOND):
        await cluster.upload(name)
        if name == RUNNING:
            cluster.start_agent(NODES[0])
        await cluster.run(40)
    assert await phases_of(cluster, RUNNING, FIRST, SECOND) == [Phase.IN_PROGRESS, Phase.PREPARED, Phase.PREPARED]
    yield cluster
    await cluster.stop()


async def phases_of(cluster: Cluster, *names: str) -> list[Phase]:
    return [await cluster.phase_of(DATA_UPLOADS, name) for name in names]


async def cancel(cluster: Cluster, name: str) -> None:
    await cluster.patch(DATA_UPLOADS, name, {"spec": {"cancel": True}})


async def delete(cluster: Cluster, name: str) -> None:
    await cluster.kube.delete(DATA_UPLOADS, Key(NAMESPACE, name))


async def vanish(cluster: Cluster, name: str) -> None:
    """Somebody takes the finalizer away, too."""
    await delete(cluster, name)
    await cluster.patch(DATA_UPLOADS, name, {"metadata": {"finalizers": None}})


async def crash(cluster: Cluster, name: str) -> None:
    (work,) = cluster.controllers[NODES[0]].works()
    work.kill("the worker was killed")


async def spoil(cluster: Cluster, name: str) -> None:
    """Nobody can read it any more."""
    value = cluster.kube.raw(DATA_UPLOADS, Key(NAMESPACE, name))
    cluster.kube.put_raw(DATA_UPLOADS, {**value, "status": {"phase": "Dreaming"}})


async def lose_pod(cluster: Cluster, name: str) -> None:
    await cluster.kube.delete(PODS, Key(NAMESPACE, f"dataupload-{name}"))


async def lose_volume(cluster: Cluster, name: str) -> None:
    uid = (await cluster.kube.get(DATA_UPLOADS, Key(NAMESPACE, name))).metadata.uid
    del cluster.exposed["upload"].volumes[uid]


async def end_elsewhere(cluster: Cluster, name: str) -> None:
    """Another agent was faster, or took this one for dead."""
    await cluster.patch(DATA_UPLOADS, name, {"status": {"phase": "Failed", "message": "node.lost: so it seemed"}})


Happening = Callable[[Cluster, str], Awaitable[None]]


@pytest.mark.parametrize("happening", [cancel, delete, vanish, crash, end_elsewhere])
async def test_however_a_running_object_ends_the_one_that_waited_longest_begins(
    cluster: Cluster, happening: Happening
) -> None:
    await happening(cluster, RUNNING)
    await cluster.run(AT_ONCE_SECONDS)
    assert await phases_of(cluster, FIRST, SECOND) == [Phase.IN_PROGRESS, Phase.PREPARED]


@pytest.mark.parametrize("happening", [cancel, delete, vanish, spoil, lose_pod, lose_volume, end_elsewhere])
async def test_whatever_becomes_of_who_is_next_the_other_begins(cluster: Cluster, happening: Happening) -> None:
    cluster.scripts[Key(NAMESPACE, FIRST)] = ExposeScript(node=NODES[0], clean_up_seconds=50.0)
    await happening(cluster, FIRST)
    await cluster.run(0.2)
    await crash(cluster, RUNNING)
    await cluster.run(AT_ONCE_SECONDS)
    assert await phases_of(cluster, SECOND) == [Phase.IN_PROGRESS]


async def test_a_volume_that_cannot_be_looked_at_does_not_keep_the_slot_from_others(cluster: Cluster) -> None:
    cluster.kube.fail("get", "pods", KubeUnavailable("the API server is busy"), times=1)
    await crash(cluster, RUNNING)
    await cluster.run(AT_ONCE_SECONDS)
    assert Phase.IN_PROGRESS in await phases_of(cluster, FIRST, SECOND)
    assert not cluster.moved.doubled


async def test_an_api_server_that_is_away_when_a_slot_is_freed_costs_no_more_than_its_own_absence(
    cluster: Cluster,
) -> None:
    cluster.kube.outage(True)
    await crash(cluster, RUNNING)
    await cluster.run(120)
    cluster.kube.outage(False)
    await cluster.run(25 + AT_ONCE_SECONDS)
    assert Phase.IN_PROGRESS in await phases_of(cluster, FIRST, SECOND)


async def test_more_slots_are_taken_at_once(cluster: Cluster) -> None:
    cluster.controllers[NODES[0]].set_concurrency(3)
    await cluster.run(AT_ONCE_SECONDS)
    assert await phases_of(cluster, RUNNING, FIRST, SECOND) == [Phase.IN_PROGRESS] * 3


async def test_who_hands_over_and_cleans_up_for_long_needs_no_slot_for_that(cluster: Cluster) -> None:
    cluster.scripts[Key(NAMESPACE, RUNNING)] = ExposeScript(node=NODES[0], clean_up_seconds=50.0)
    await cancel(cluster, RUNNING)
    await cluster.run(AT_ONCE_SECONDS)
    assert await phases_of(cluster, RUNNING, FIRST) == [Phase.CANCELING, Phase.IN_PROGRESS]
