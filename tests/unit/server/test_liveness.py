"""Which agents are dead: those that are silent while we can see (contract §2.5), by our own clock alone."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agent.kube.meta import Key
from agent.kube.resource import LEASES, NODES
from agent.server.liveness import AGENT_LABELS, LeaseLiveness, lease_name
from tests.unit.server.server_kit import NAMESPACE, World


@asynccontextmanager
async def _agent(world: World, node: str) -> AsyncIterator[LeaseLiveness]:
    nodes = world.nodes()
    liveness = LeaseLiveness(world.api, world.clock, random.Random(node), nodes, node=node, namespace=NAMESPACE)
    async with world.running(nodes.run(), liveness.run()):
        await nodes.wait_synced()
        yield liveness


@asynccontextmanager
async def _cluster() -> AsyncIterator[tuple[World, LeaseLiveness]]:
    """Two nodes, and the agent of the first of them."""
    world = World()
    await world.add_node("node-a")
    await world.add_node("node-b")
    async with _agent(world, "node-a") as liveness:
        yield world, liveness


async def test_agents_that_renew_are_alive() -> None:
    async with _cluster() as (world, liveness), _agent(world, "node-b"):
        await world.clock.sleep(1_000)
        assert not liveness.is_dead("node-b")
        assert not liveness.is_dead("node-a")


async def test_an_agent_that_stops_is_dead_after_two_minutes_and_alive_when_it_is_back() -> None:
    async with _cluster() as (world, liveness):
        async with _agent(world, "node-b"):
            await world.clock.sleep(60)
        await world.clock.sleep(100)
        assert not liveness.is_dead("node-b")
        await world.clock.sleep(35)
        assert liveness.is_dead("node-b")
        async with _agent(world, "node-b"):
            await world.clock.sleep(1)
            assert not liveness.is_dead("node-b")


async def test_a_restarted_agent_gives_the_others_their_time() -> None:
    world = World()
    await world.add_node("node-a")
    await world.add_node("node-b")
    async with _agent(world, "node-b"):
        await world.clock.sleep(5)
    await world.clock.sleep(10_000)
    async with _agent(world, "node-a") as liveness:
        await world.clock.sleep(60)
        assert not liveness.is_dead("node-b")
        await world.clock.sleep(90)
        assert liveness.is_dead("node-b")


async def test_an_outage_of_the_api_server_kills_nobody() -> None:
    async with _cluster() as (world, liveness), _agent(world, "node-b"):
        await world.clock.sleep(60)
        world.api.outage(True)
        await world.clock.sleep(1_000)
        assert not liveness.is_dead("node-b")
        world.api.outage(False)
        for _ in range(300):
            await world.clock.sleep(0.5)
            assert not liveness.is_dead("node-b")


async def test_a_watch_that_hangs_without_an_error_kills_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _cluster() as (world, liveness), _agent(world, "node-b"):
        await world.clock.sleep(60)
        monkeypatch.setattr(liveness._leases, "_apply", lambda event: None)
        await world.clock.sleep(300)
        assert not liveness.is_dead("node-b")


async def test_a_node_that_is_gone_is_dead_once_its_agent_is_silent() -> None:
    async with _cluster() as (world, liveness):
        async with _agent(world, "node-b"):
            await world.clock.sleep(60)
            await world.api.delete(NODES, Key("", "node-b"))
            await world.clock.sleep(5)
            assert not liveness.is_dead("node-b"), "its agent still renews"
        await world.clock.sleep(45)
        assert liveness.is_dead("node-b")
        assert liveness.is_dead("never-there")


async def test_an_agent_without_a_lease_is_as_alive_as_its_node_is_ready() -> None:
    async with _cluster() as (world, liveness):
        await world.add_running_pod("stock", "node-b", namespace=NAMESPACE, labels=AGENT_LABELS)
        await world.clock.sleep(500)
        assert not liveness.is_dead("node-b")
        await world.set_ready("node-b", False)
        await world.clock.sleep(100)
        assert not liveness.is_dead("node-b")
        await world.clock.sleep(30)
        assert liveness.is_dead("node-b")
        await world.set_ready("node-b", True)
        await world.clock.sleep(1)
        assert not liveness.is_dead("node-b")


async def test_a_node_without_any_agent_is_dead_although_it_is_ready() -> None:
    async with _cluster() as (world, liveness):
        await world.clock.sleep(1)
        assert not liveness.is_dead("node-b")
        await world.clock.sleep(100)
        assert not liveness.is_dead("node-b")
        await world.clock.sleep(30)
        assert liveness.is_dead("node-b")
        await world.add_running_pod("stock", "node-b", namespace=NAMESPACE, labels=AGENT_LABELS)
        await world.clock.sleep(1)
        assert not liveness.is_dead("node-b")


async def test_agents_are_seen_by_their_running_pods_and_each_sees_itself() -> None:
    async with _cluster() as (world, liveness):
        await world.clock.sleep(1)
        assert liveness.agents() == {"node-a"}
        for name in ("one", "rolled-out-anew"):
            await world.add_running_pod(name, "node-b", namespace=NAMESPACE, labels=AGENT_LABELS)
        await world.add_running_pod("another", "node-c", namespace=NAMESPACE, labels={"role": "web"})
        await world.clock.sleep(1)
        assert liveness.agents() == {"node-a", "node-b"}


async def test_without_the_right_to_leases_readiness_has_to_do() -> None:
    world = World()
    world.api.denied |= {("get", LEASES.name), ("create", LEASES.name), ("list", LEASES.name)}
    await world.add_node("node-a")
    await world.add_node("node-b", ready=False)
    async with _agent(world, "node-a") as liveness:
        await world.clock.sleep(5)
        assert liveness.has_leases, "an API server that has just begun refuses everything"
        await world.clock.sleep(55)
        assert not liveness.has_leases
        assert not liveness.is_dead("node-b")
        await world.clock.sleep(100)
        assert liveness.is_dead("node-b")
        world.api.denied.clear()
        await world.until(lambda: liveness.has_leases, within=400)


async def test_a_lease_says_whose_it_is_and_goes_with_its_node() -> None:
    async with _cluster() as (world, _):
        await world.clock.sleep(30)
        lease = await world.api.get(LEASES, Key(NAMESPACE, lease_name("node-a")))
        assert lease.spec.holder_identity == "node-a/"
        assert lease.spec.renew_time == "2026-01-01T00:00:" + (lease.spec.renew_time or "")[17:]
        assert [owner.kind for owner in lease.metadata.owner_references] == ["Node"]


async def test_one_agent_asks_little() -> None:
    async with _cluster() as (world, _):
        before = len(world.api.requests)
        await world.clock.sleep(600)
        assert len(world.api.requests) - before < 80


def test_a_lease_of_a_node_with_a_long_name_has_a_valid_name() -> None:
    assert lease_name("node-a") == "lighterage-node-a"
    assert len(lease_name("n" * 253)) <= 253
