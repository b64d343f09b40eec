"""Events: never an error, never a wait, and one object for the same thing told often."""

from __future__ import annotations

from agent.base.errors import KubeForbidden, KubeUnavailable
from agent.kube.cluster import Event
from agent.kube.resource import EVENTS
from agent.server.events import Events
from tests.unit.server.server_kit import NAMESPACE, World, upload


def _events(world: World) -> Events:
    return Events(world.api, world.clock, world.rng, namespace=NAMESPACE, node="node-a")


async def _written(world: World) -> tuple[Event, ...]:
    return (await world.api.list(EVENTS)).items


async def test_an_event_names_the_object_the_node_and_what_happened() -> None:
    world = World()
    events = _events(world)
    async with world.running(events.run()):
        events.emit(upload(), "Failed", "InProgress -> Failed: no room", warning=True)
        await events.flush()
    (event,) = await _written(world)
    assert (event.involved_object.kind, event.involved_object.uid) == ("DataUpload", "uid-of-backup-1")
    assert (event.type, event.reason, event.source.host) == ("Warning", "Failed", "node-a")
    assert event.metadata.namespace == NAMESPACE


async def test_the_same_again_raises_the_count() -> None:
    world = World()
    events = _events(world)
    async with world.running(events.run()):
        events.emit(upload(), "Waiting", "for a volume")
        await world.clock.sleep(60)
        events.emit(upload(), "Waiting", "for a volume")
        events.emit(upload(), "Waiting", "for a pod")
        await events.flush()
    by_message = {event.message: event for event in await _written(world)}
    assert by_message["for a volume"].count == 2
    assert by_message["for a pod"].count == 1
    first, last = by_message["for a volume"].first_timestamp, by_message["for a volume"].last_timestamp
    assert first is not None
    assert last is not None
    assert (last - first).total_seconds() == 60


async def test_an_event_that_expired_is_made_anew() -> None:
    world = World()
    events = _events(world)
    async with world.running(events.run()):
        events.emit(upload(), "Waiting", "for a volume")
        await events.flush()
        (event,) = await _written(world)
        await world.api.delete(EVENTS, event.key)
        events.emit(upload(), "Waiting", "for a volume")
        await events.flush()
    (event,) = await _written(world)
    assert event.count == 1


async def test_an_api_server_that_refuses_costs_the_event_and_nothing_else() -> None:
    world = World()
    events = _events(world)
    world.api.fail("create", EVENTS.name, KubeForbidden("no"))
    world.api.fail("create", EVENTS.name, KubeUnavailable("down"))
    async with world.running(events.run()):
        for name in ("a", "b", "c"):
            events.emit(upload(name), "Accepted", "New -> Accepted")
        await events.flush()
    assert [event.involved_object.name for event in await _written(world)] == ["c"]
    assert events.dropped == 2


async def test_while_nobody_writes_the_queue_stays_bounded() -> None:
    world = World()
    events = _events(world)
    for number in range(1_500):
        events.emit(upload(f"u{number}"), "Accepted", "New -> Accepted")
    assert events.dropped == 500


async def test_a_message_is_cut_to_what_the_api_server_takes() -> None:
    world = World()
    events = _events(world)
    async with world.running(events.run()):
        events.emit(upload(), "Failed", "ä" * 5_000)
        await events.flush()
    (event,) = await _written(world)
    assert len(event.message.encode()) <= 1_024
    assert event.message.endswith("ä…")


async def test_what_the_agent_says_of_itself_is_about_its_daemonset() -> None:
    world = World()
    events = _events(world)
    events.is_about("uid-of-the-set")
    async with world.running(events.run()):
        events.tell("ConfigurationChanged", "limits.uploadBytesPerSecond: 0 -> 1")
        await events.flush()
    (event,) = await _written(world)
    assert (event.involved_object.kind, event.involved_object.name) == ("DaemonSet", "node-agent")
    assert event.involved_object.uid == "uid-of-the-set"
