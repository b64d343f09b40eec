"""One random history of a cluster: agents, objects of all kinds, and everything that may happen to them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass

from agent.base.errors import MoverCrashed, ProvisioningFailed, RebindFailed
from agent.kube.codec import JsonObject
from agent.kube.job import Phase
from agent.kube.meta import Key
from agent.kube.resource import DATA_DOWNLOADS, DATA_UPLOADS, POD_VOLUME_BACKUPS, POD_VOLUME_RESTORES, Resource
from agent.kube.times import time_from_ns
from agent.movers.spec import JobSpec
from agent.testing.fake_movers import Script
from agent.testing.flaky_kube import FlakyKube, Weather
from agent.testing.virtual_loop import LoopClock, VirtualLoop
from tests.unit.controllers.controllers_kit import ALL_RESOURCES, NAMESPACE, NODES, Cluster, Server

LEASE_SECONDS = 40.0
"""After which an agent that nobody hears of counts as dead."""
EVENTS_SECONDS = 120.0
BOUND_SECONDS = 5400.0
"""From the last event to the end of the last object: the time limit for volumes, others' patience, two sweeps."""
MAX_PATCHES = 40
"""For one object, by all agents together."""
FINAL = {"Completed", "Failed", "Canceled"}
PHASES = ("", "Accepted", "Prepared", "InProgress", "Canceling", "Completed")
EVENTS = (
    "cancel",
    "delete",
    "make anew",
    "other writers",
    "kill the agent",
    "end the agent",
    "cut off the agent",
    "lose the node",
    "kill the API server",
    "cut watches",
    "forget versions",
    "set the clock",
)
Event = Callable[[], Coroutine[None, None, None]]
KINDS = {
    "upload": DATA_UPLOADS,
    "download": DATA_DOWNLOADS,
    "pod_backup": POD_VOLUME_BACKUPS,
    "pod_restore": POD_VOLUME_RESTORES,
}
RESOURCES = {resource.name: resource for resource in ALL_RESOURCES}


@dataclass
class Fate:
    """An object, and what was done to it that excuses its end."""

    resource: Resource  # type: ignore[type-arg]
    name: str
    node: str
    spec: JsonObject
    canceled: bool = False
    deleted: bool = False
    broken: bool = False
    """Whether its volume or worker is to fail."""

    @property
    def key(self) -> Key:
        return Key(NAMESPACE, self.name)


class Schedule:
    """Everything of one seed."""

    def __init__(self, seed: int, loop: VirtualLoop, server: Server | None = None) -> None:
        self.rng = rng = random.Random(seed)
        self.clock: LoopClock = loop.clock
        self.cluster = Cluster(
            rng,
            server=server or Server(rng.choice([16, 17, 18, 19])),
            clock=loop.clock,
            concurrency=rng.choice([1, 2, 3]),
            prepare_queue_length=rng.choice([0, 0, 2, 5]),
        )
        self.cluster.liveness.nodes = frozenset(NODES)
        self.cluster.moved.script = self._work
        self.cluster.kube.observers.append(self._observe)
        self.fates: list[Fate] = []
        self.clocks = {node: loop.new_clock() for node in NODES}
        self.ways: dict[str, FlakyKube] = {}
        self.gone: set[str] = set()
        """Nodes without an agent, for good."""
        self.suspect: set[str] = set()
        """Nodes that counted as dead at some time."""
        self.log: list[str] = []
        self.wrong: list[str] = []
        self._patches: Counter[tuple[str, str]] = Counter()
        self._on_phase: dict[tuple[str, str, str], Event] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """A random history, from the first agent to the last object."""
        rng = self.rng
        agents = rng.choice([1, 2, 3, 3])
        self.gone = set(NODES[agents:])
        for node in NODES[:agents]:
            self._start(node)
        for number in range(rng.randint(1, 6)):
            await self._make(rng.choice(list(KINDS)), number)
        for _ in range(rng.randint(1, 10)):
            self._plan()
        await self._see_it_through()

    async def run_case(self, kind: str, phase: str, event: str) -> bool:
        """One object of a kind, and one event as soon as it is in a phase; whether it came to that."""
        self.cluster.moved.script = lambda _: Script(seconds=25.0)
        for node in NODES:
            self._start(node)
        await self._make(kind, 0, broken=False)
        (fate,) = self.fates
        happens = self._events(fate, fate.node, 60.0)
        self._when(fate, phase, event, happens[event])
        if phase == "Canceling":
            self._when(fate, "InProgress", "cancel", happens["cancel"])
        await self._see_it_through()
        return not self._on_phase

    async def _see_it_through(self) -> None:
        await self.clock.sleep(LEASE_SECONDS)
        for node in sorted(self.gone):
            self._declare_dead(node)
        await self.clock.sleep(EVENTS_SECONDS)
        await asyncio.gather(*self._tasks)
        for way in self.ways.values():
            way.weather.loss = 0.0
        deadline = self.clock.monotonic() + BOUND_SECONDS
        while self.clock.monotonic() < deadline and any(True for _ in self._unsettled()):
            await self.clock.sleep(10.0)
        self._judge()
        await self.cluster.stop()

    # ---- what there is ----

    def _start(self, node: str) -> None:
        if node in self.gone or node in self.cluster.agents:
            return
        rng = self.rng
        weather = Weather(latency=rng.choice([0.01, 0.3]), loss=rng.choice([0.0, 0.0, 0.02, 0.1]))
        self.ways[node] = FlakyKube(self.cluster.kube, self.clock, random.Random(rng.random()), weather)
        self.cluster.start_agent(node, self.ways[node], self.clocks[node])
        self.cluster.liveness.dead.discard(node)

    async def _make(self, kind: str, number: int, *, broken: bool | None = None) -> None:
        """Something is wrong with it in one of seven cases, unless it is said."""
        rng, cluster, name = self.rng, self.cluster, f"{kind.replace('_', '-')}-{number}"
        node, broken = rng.choice(NODES), rng.random() < 0.15 if broken is None else broken
        script: dict[str, object] = {
            "seconds": rng.choice([0.0, 2.0, 8.0, 30.0]),
            "clean_up_seconds": rng.choice([0.0, 3.0]),
        }
        if broken:
            script.update(
                rng.choice(
                    [
                        {"error": ProvisioningFailed("the storage says no")},
                        {"finish_error": RebindFailed("the claim is gone")},
                        {"seconds": 1e9},
                    ]
                )
            )
        make = {
            "upload": cluster.upload,
            "download": cluster.download,
            "pod_backup": cluster.pod_backup,
            "pod_restore": cluster.pod_restore,
        }[kind]
        await make(name, node=node, **script)  # type: ignore[operator]
        spec = cluster.kube.raw(KINDS[kind], Key(NAMESPACE, name))["spec"]
        assert isinstance(spec, dict)
        self.fates.append(Fate(KINDS[kind], name, node, spec, broken=broken))

    def _work(self, spec: JobSpec) -> Script:
        kind, _, name = spec.id.partition("/")
        fate = next(one for one in self.fates if (one.resource.view.__name__, one.name) == (kind, name))
        rng = random.Random(f"{spec.id} {self.log[:1]}")
        error = MoverCrashed("the worker was killed") if rng.random() < 0.1 else None
        fate.broken |= error is not None
        return Script(
            seconds=rng.choice([0.5, 5.0, 25.0, 70.0]),
            error=error,
            cancel_seconds=rng.choice([0.1, 3.0]),
            deaf=rng.random() < 0.05,
        )

    # ---- what happens ----

    def _plan(self) -> None:
        """One event: at some time, or as soon as some object is in some phase."""
        rng = self.rng
        fate, node, seconds = rng.choice(self.fates), rng.choice(NODES), rng.choice([1.0, 5.0, 30.0, 60.0, 90.0])
        event, happens = rng.choice(list(self._events(fate, node, seconds).items()))
        name = f"{event}: {fate.name}, {node}, {seconds:.0f} s"
        if rng.random() < 0.6:
            self._when(fate, rng.choice(PHASES), name, happens)
        else:
            at = rng.random() * EVENTS_SECONDS
            self.log.append(f"{name} at {at:.1f}")
            self._tasks.append(asyncio.create_task(self._at(at, self._told(name, happens))))

    def _events(self, fate: Fate, node: str, seconds: float) -> dict[str, Event]:
        """All that may happen, to an object, to an agent, or to all of them; `EVENTS` has their names."""
        happens: tuple[Event, ...] = (
            lambda: self._cancel(fate),
            lambda: self._delete(fate),
            lambda: self._make_anew(fate),
            lambda: self._touch(fate),
            lambda: self._kill(node, seconds),
            lambda: self._drain(node),
            lambda: self._cut_off(node, seconds),
            lambda: self._lose(node),
            lambda: self._outage(seconds),
            self._cut_watches,
            self._compact,
            lambda: self._step(node),
        )
        return dict(zip(EVENTS, happens, strict=True))

    def _when(self, fate: Fate, phase: str, name: str, event: Event) -> None:
        """Have it happen as soon as the object is in the phase, which it may be already."""
        self.log.append(f"{name} when {fate.name} is {phase or 'new'}")
        told = self._told(name, event)
        if _part(self._value(fate), "status").get("phase", "") == phase:
            self._tasks.append(asyncio.create_task(told()))
        else:
            self._on_phase[fate.resource.name, fate.name, phase] = told

    def _told(self, name: str, event: Event) -> Event:
        async def run() -> None:
            self.log.append(f"{self.clock.monotonic():.2f}: {name}")
            await event()

        return run

    async def _at(self, seconds: float, event: Event) -> None:
        await self.clock.sleep(seconds)
        await event()

    async def _cancel(self, fate: Fate) -> None:
        pod_volume = fate.resource in {POD_VOLUME_BACKUPS, POD_VOLUME_RESTORES}
        if pod_volume and self.cluster.server.minor < 17:
            await self._delete(fate)  # there is no other way
            return
        fate.canceled = True
        self._change(fate, "spec", {"cancel": True})

    async def _delete(self, fate: Fate) -> None:
        fate.deleted = True
        self.cluster.kube.remove(fate.resource, fate.key)

    async def _make_anew(self, fate: Fate) -> None:
        """Delete it, and make another one of its name as soon as it is gone."""
        uid = _part(self._value(fate), "metadata").get("uid")
        await self._delete(fate)
        while (value := self._value(fate)) is not None:
            if _part(value, "metadata").get("uid") != uid:
                return  # somebody else made it anew
            await self.clock.sleep(0.05)
        metadata: JsonObject = {
            "name": fate.name,
            "namespace": NAMESPACE,
            "uid": f"anew-{self.rng.getrandbits(64):x}",
            "generation": 1,
            "creationTimestamp": time_from_ns(self.clock.now_ns()).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        kind = {"apiVersion": fate.resource.api_version, "kind": fate.resource.view.__name__}
        self.cluster.kube.put_raw(fate.resource, {**kind, "metadata": metadata, "spec": fate.spec})

    async def _touch(self, fate: Fate) -> None:
        """Somebody else changes the object again and again."""
        for number in range(20):
            self._change(fate, "metadata", {"labels": {"touched": str(number)}})
            await self.clock.sleep(self.rng.random() * 0.5)

    async def _kill(self, node: str, seconds: float) -> None:
        """The agent is killed without a chance to do anything, and is back after a while."""
        if node not in self.cluster.agents:
            return
        self.ways[node].weather.cut = True
        await self.cluster.kill_agent(node)
        await self._absence(node, seconds)
        self._start(node)

    async def _drain(self, node: str) -> None:
        """The agent is asked to end, and another one takes its place."""
        if node not in self.cluster.agents:
            return
        controllers = self.cluster.controllers[node]
        await controllers.drain(5.0)
        if node in self.cluster.agents and self.cluster.controllers[node] is controllers:
            await self._kill(node, 3.0)

    async def _cut_off(self, node: str, seconds: float) -> None:
        """The agent runs on, but reaches nothing."""
        if node not in self.cluster.agents:
            return
        way = self.ways[node]
        way.weather.cut = True
        await self._absence(node, seconds)
        way.weather.cut = False
        if node not in self.gone:
            self.cluster.liveness.dead.discard(node)

    async def _absence(self, node: str, seconds: float) -> None:
        await self.clock.sleep(min(seconds, LEASE_SECONDS))
        if seconds > LEASE_SECONDS:
            self._declare_dead(node)
            await self.clock.sleep(seconds - LEASE_SECONDS)

    async def _lose(self, node: str) -> None:
        """The node is gone for good, unless it is the last one."""
        if node not in self.cluster.agents or len(self.gone) >= len(NODES) - 1:
            return
        self.gone.add(node)
        self.ways[node].weather.cut = True
        await self.cluster.kill_agent(node)
        await self.clock.sleep(LEASE_SECONDS)
        self._declare_dead(node)

    def _declare_dead(self, node: str) -> None:
        self.suspect.add(node)
        self.cluster.liveness.dead.add(node)

    async def _outage(self, seconds: float) -> None:
        self.cluster.kube.outage(True)
        await self.clock.sleep(seconds)
        self.cluster.kube.outage(False)

    async def _cut_watches(self) -> None:
        self.cluster.kube.cut_watches()

    async def _compact(self) -> None:
        self.cluster.kube.compact()
        self.cluster.kube.cut_watches()

    async def _step(self, node: str) -> None:
        self.clocks[node].step(self.rng.choice([-7200.0, -60.0, 60.0, 7200.0]))

    def _change(self, fate: Fate, part: str, fields: JsonObject) -> None:
        value = self._value(fate)
        if value is not None:
            self.cluster.kube.put_raw(fate.resource, {**value, part: {**_part(value, part), **fields}})

    def _value(self, fate: Fate) -> JsonObject | None:
        try:
            return self.cluster.kube.raw(fate.resource, fate.key)
        except KeyError:
            return None

    # ---- what may never happen, and how it has to end ----

    def _observe(self, name: str, before: JsonObject | None, after: JsonObject | None) -> None:
        resource = RESOURCES.get(name)
        if resource is None or after is None:
            return
        metadata, status = _part(after, "metadata"), _part(after, "status")
        old = _part(before, "status")
        what, phase = f"{resource.view.__name__} {metadata['name']}", str(status.get("phase", ""))
        if old.get("phase") in FINAL and old != status:
            self.wrong.append(f"{what} was final and changed: {old} -> {status}")
        if not self.cluster.server.has_phase(resource.plural, Phase(phase)):
            self.wrong.append(f"{what} is in the phase {phase}, which the server does not know")
        for field in status:
            if not self.cluster.server.has_field(resource.plural, f"status.{field}"):
                self.wrong.append(f"{what} has the field {field}, which the server does not know")
        if phase in {"Failed", "Canceled"} and not status.get("message"):
            self.wrong.append(f"{what} is {phase} and does not say why")
        if status != old:
            self._patches[name, str(metadata["uid"])] += 1
        if before is None or phase != str(old.get("phase", "")):
            self.log.append(f"{self.clock.monotonic():.2f}: {what} is {phase or 'new'} {status.get('message', '')}")
            event = self._on_phase.pop((name, str(metadata["name"]), phase), None)
            if event is not None:
                self._tasks.append(asyncio.get_running_loop().create_task(event()))

    def _unsettled(self) -> Iterator[str]:
        """What is not as it has to be in the end."""
        cluster = self.cluster
        for fate in self.fates:
            value = self._value(fate)
            if value is None:
                continue
            metadata, status = _part(value, "metadata"), _part(value, "status")
            what = f"{fate.resource.view.__name__} {fate.name}"
            if status.get("phase") not in FINAL:
                yield f"{what} is {status.get('phase', 'new')}"
            if metadata.get("finalizers"):
                yield f"{what} is kept by a finalizer"
        for kind, world in cluster.exposed.items():
            if world.left:
                yield f"volumes of {kind} are left: {sorted(world.left)}"
        for node in cluster.agents:
            slots = cluster.controllers[node].slots
            if slots.running or slots.waiting:
                yield f"{node} has {slots.running} slots taken and {slots.waiting} waiting"
            if list(cluster.controllers[node].works()):
                yield f"{node} still works"

    def _judge(self) -> None:
        cluster = self.cluster
        self.wrong += self._unsettled()
        for node, task in cluster.agents.items():
            if task.done():
                self.wrong.append(f"the agent of {node} has ended: {task}")
        if cluster.moved.doubled:
            self.wrong.append(f"two workers at once for {cluster.moved.doubled}")
        for fate in self.fates:
            value = self._value(fate)
            excused = fate.canceled or fate.deleted or fate.broken or fate.node in self.suspect | self.gone
            phase = _part(value, "status").get("phase")
            if not excused and phase != "Completed":
                self.wrong.append(f"{fate.name} ended {phase} for no reason")
        for (name, uid), count in self._patches.items():
            if count > MAX_PATCHES:
                self.wrong.append(f"the status of a {name} ({uid}) was written {count} times")


def _part(value: JsonObject | None, name: str) -> JsonObject:
    part = (value or {}).get(name)
    return part if isinstance(part, dict) else {}
