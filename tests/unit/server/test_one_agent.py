"""A node has one agent at a time: of two, the second waits until the first gives its lease back or is silent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agent.base.errors import AgentSuperseded, KubeUnavailable
from agent.kube.api import KubeApi
from agent.kube.meta import Key
from agent.kube.resource import LEASES
from agent.server.liveness import LeaseLiveness, lease_name
from agent.testing.crashing_kube import CrashingKube, InterceptedKube
from tests.unit.server.server_kit import NAMESPACE, World

NODE = "node-a"
SILENCE = 60.0
RENEWAL = 11.0
"""Seconds between two looks at the lease, at most."""


class CutWire(InterceptedKube):
    """Of one agent that does not reach the API server while `is_cut`."""

    is_cut = False

    def before(self) -> None:
        if self.is_cut:
            raise KubeUnavailable("the wire is cut")


class Agent:
    """One pod's liveness, and whether its controllers would run."""

    def __init__(self, world: World, pod: str, api: KubeApi | None = None) -> None:
        self._world = world
        nodes = world.nodes()
        self.liveness = LeaseLiveness(
            api or world.api, world.clock, random.Random(pod), nodes, node=NODE, namespace=NAMESPACE, pod=pod
        )
        self.task = asyncio.ensure_future(self.liveness.run())
        self._waiting = asyncio.ensure_future(self.liveness.wait_alone())

    @property
    def works(self) -> bool:
        return self._waiting.done() and not self.task.done()

    async def end(self) -> None:
        for task in (self.task, self._waiting):
            task.cancel()
        await asyncio.gather(self.task, self._waiting, return_exceptions=True)

    async def stop(self) -> None:
        """As a pod that is told to end does."""
        await self.end()
        await self.liveness.give_back()


@asynccontextmanager
async def _agents(world: World, *pods: str) -> AsyncIterator[list[Agent]]:
    agents = [Agent(world, pod) for pod in pods]
    try:
        yield agents
    finally:
        for agent in agents:
            await agent.end()


async def test_of_two_agents_that_begin_at_once_one_works() -> None:
    world = World()
    async with _agents(world, "pod-a", "pod-b", "pod-c") as agents:
        for _ in range(60):
            await world.clock.sleep(5)
            assert sum(agent.works for agent in agents) == 1


async def test_a_rolling_update_costs_no_wait() -> None:
    world = World()
    async with _agents(world, "pod-a", "pod-b") as (first, second):
        await world.clock.sleep(25)
        assert (first.works, second.works) == (True, False)
        await first.stop()
        await world.clock.sleep(0.5)
        assert second.works
    async with _agents(world, "pod-c") as (third,):
        await second.stop()
        await world.clock.sleep(0.5)
        assert third.works


class LostAnswers(InterceptedKube):
    """Of one agent whose requests take effect, while it does not hear of that."""

    are_lost = False

    def after(self) -> None:
        if self.are_lost:
            raise KubeUnavailable("the answer is lost")


async def test_an_agent_that_did_not_hear_of_its_last_renewal_gives_its_lease_back() -> None:
    world = World()
    wire = LostAnswers(world.api)
    first = Agent(world, "pod-a", wire)
    await world.clock.sleep(25)
    wire.are_lost = True
    await world.clock.sleep(RENEWAL)
    await first.end()
    wire.are_lost = False
    await first.liveness.give_back()
    async with _agents(world, "pod-b") as (second,):
        await world.clock.sleep(0.5)
        assert second.works


async def test_an_agent_that_was_killed_is_waited_for_and_no_longer() -> None:
    world = World()
    async with _agents(world, "pod-a") as (first,):
        await world.clock.sleep(25)
        await first.end()
        async with _agents(world, "pod-b") as (second,):
            await world.clock.sleep(SILENCE - RENEWAL)
            assert not second.works
            await world.clock.sleep(3 * RENEWAL)
            assert second.works


async def test_a_container_that_is_started_again_in_its_pod_does_not_wait() -> None:
    world = World()
    async with _agents(world, "pod-a") as (first,):
        await world.clock.sleep(25)
        await first.end()
        async with _agents(world, "pod-a") as (again,):
            await world.clock.sleep(0.5)
            assert again.works


async def test_an_agent_that_was_stopped_for_long_finds_its_lease_taken_and_ends() -> None:
    world = World()
    wire = CutWire(world.api)
    first = Agent(world, "pod-a", wire)
    await world.clock.sleep(25)
    wire.is_cut = True
    async with _agents(world, "pod-b") as (second,):
        await world.until(lambda: second.works, within=SILENCE + 3 * RENEWAL)
        wire.is_cut = False
        await world.until(first.task.done, within=2 * RENEWAL)
        error = first.task.exception()
        assert isinstance(error, ExceptionGroup)
        assert error.subgroup(AgentSuperseded) is not None
        await first.stop()
        await world.clock.sleep(2 * RENEWAL)
        assert second.works, "what is another's is not given back"


async def test_an_outage_of_the_api_server_lets_nobody_take_over() -> None:
    world = World()
    async with _agents(world, "pod-a", "pod-b") as (first, second):
        await world.clock.sleep(25)
        world.api.outage(True)
        await world.clock.sleep(1_000)
        world.api.outage(False)
        for _ in range(100):
            await world.clock.sleep(1)
            assert (first.works, second.works) == (True, False)


async def test_where_leases_are_forbidden_nobody_waits() -> None:
    world = World()
    world.api.denied |= {("get", LEASES.name), ("create", LEASES.name)}
    async with _agents(world, "pod-a") as (only,):
        await world.clock.sleep(0.5)
        assert only.works


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(1, 8))
async def test_wherever_the_first_dies_the_second_works_soon_after(at: int, after: bool) -> None:
    world = World()
    crashing = CrashingKube(world.api, at, after=after)
    first = Agent(world, "pod-a", crashing)
    await world.clock.sleep(2 * RENEWAL)
    died = first.task.done()
    assert not died or isinstance(first.task.exception(), BaseExceptionGroup)
    await first.end()
    async with _agents(world, "pod-b") as (second,):
        await world.until(lambda: second.works, within=SILENCE + 3 * RENEWAL)
        lease = await world.api.get(LEASES, Key(NAMESPACE, lease_name(NODE)))
        assert lease.spec.holder_identity == "node-a/pod-b"
