"""Two thousand objects and fifty agents: what each costs the API server, and that no namespace waits for another."""

from __future__ import annotations

import random
import statistics
from collections import Counter, defaultdict

import pytest

from agent.kube.api import PAGE_SIZE
from agent.kube.codec import JsonObject
from agent.kube.meta import Key
from agent.kube.resource import DATA_UPLOADS, POD_VOLUME_BACKUPS, POD_VOLUME_RESTORES, PODS
from agent.testing.fake_movers import Script
from agent.testing.flaky_kube import FlakyKube
from agent.testing.virtual_loop import VirtualLoop
from tests.unit.controllers.controllers_kit import Cluster

SECONDS = 240.0
JOB_SECONDS = 20.0
NAMESPACES = 20
BIG = "big"


class Scale:
    """The cluster, and what is seen of it."""

    def __init__(self, loop: VirtualLoop, agents: int, objects: int) -> None:
        self.loop = loop
        self.rng = random.Random(1)
        self.cluster = Cluster(self.rng, clock=loop.clock, concurrency=4)
        self.cluster.moved.script = lambda _: Script(seconds=JOB_SECONDS)
        self.nodes = [f"node-{number}" for number in range(agents)]
        self.cluster.liveness.nodes = frozenset(self.nodes)
        self.objects = objects
        self.ways: list[FlakyKube] = []
        self.phases: Counter[str] = Counter()
        self.started: dict[str, list[float]] = defaultdict(list)
        self.cluster.kube.observers.append(self._observe)

    def _observe(self, name: str, before: JsonObject | None, after: JsonObject | None) -> None:
        if name not in {DATA_UPLOADS.name, POD_VOLUME_BACKUPS.name, POD_VOLUME_RESTORES.name}:
            return
        old, new = str(_status(before).get("phase", "")), str(_status(after).get("phase", ""))
        if before is not None:
            self.phases -= Counter([old])
        self.phases[new] += 1
        if new == "InProgress" and old != new:
            spec = (after or {}).get("spec")
            assert isinstance(spec, dict)
            self.started[str(spec.get("sourceNamespace", "pods"))].append(self.loop.time())

    def requests(self) -> Counter[tuple[str, str]]:
        """Of all agents together."""
        return sum((way.requests for way in self.ways), Counter[tuple[str, str]]())

    async def run(self, seconds: float) -> None:
        for number in range(self.objects):
            node = self.nodes[number % len(self.nodes)]
            if number % 4 == 3:
                await self.cluster.pod_backup(f"b{number}", node=node)
            else:
                await self.cluster.upload(f"u{number}", node=node, namespace=_namespace(number, self.objects))
        await self._run_agents(seconds)

    async def run_unscheduled(self, seconds: float) -> None:
        """Restores whose pods are on no node for so long."""
        for number in range(self.objects):
            await self.cluster.pod_restore(f"r{number}", node="")
        await self._run_agents(seconds)

    async def delete_pods(self, seconds: float) -> None:
        """Those of the restores, and give agents so long to see it."""
        for number in range(self.objects):
            await self.cluster.kube.delete(PODS, Key("app", f"r{number}"))
        await self.loop.clock.sleep(seconds)

    async def _run_agents(self, seconds: float) -> None:
        for node in self.nodes:
            way = FlakyKube(self.cluster.kube, self.loop.clock, random.Random(self.rng.random()))
            self.ways.append(way)
            self.cluster.start_agent(node, way)
        await self.loop.clock.sleep(seconds)


def _namespace(number: int, objects: int) -> str:
    """One namespace has half of all objects, and they come first."""
    return BIG if number < objects // 2 else f"app-{number % NAMESPACES}"


def _status(value: JsonObject | None) -> JsonObject:
    status = (value or {}).get("status")
    return status if isinstance(status, dict) else {}


@pytest.mark.parametrize(
    ("agents", "objects"), [(20, 400), pytest.param(50, 2_000, marks=pytest.mark.slow)], ids=["small", "full"]
)
def test_each_object_costs_a_bounded_number_of_requests_however_many_agents_see_it(agents: int, objects: int) -> None:
    with VirtualLoop() as loop:
        scale = Scale(loop, agents, objects)
        loop.run_until_complete(scale.run(SECONDS))
        asked = scale.requests()
        assert scale.phases == {"Completed": objects}
        patches = sum(count for (verb, _), count in asked.items() if verb == "patch")
        assert patches / objects <= 8
        assert asked["create", "pods"] == asked["delete", "pods"] == objects
        assert sum(asked.values()) / objects <= 20
        listed = sum(count for (verb, _), count in asked.items() if verb in {"list", "watch"})
        pages = 1 + objects // PAGE_SIZE
        assert listed / agents <= 5 * (1 + pages) + 4 * pages  # five informers, and what looks for leftovers
        assert not scale.cluster.moved.doubled
        small = [time for name, times in scale.started.items() if name not in {BIG, "pods"} for time in times]
        big = statistics.median(scale.started[BIG])
        assert statistics.median(small) <= big + JOB_SECONDS / 4  # although all of the big one's came first
        loop.run_until_complete(scale.cluster.stop())


@pytest.mark.parametrize(
    ("agents", "objects"), [(20, 100), pytest.param(50, 400, marks=pytest.mark.slow)], ids=["small", "full"]
)
def test_restores_whose_pods_wait_for_a_node_cost_few_requests_and_end_soon_after_their_pods(
    agents: int, objects: int
) -> None:
    with VirtualLoop() as loop:
        scale = Scale(loop, agents, objects)
        loop.run_until_complete(scale.run_unscheduled(SECONDS))
        asked = scale.requests()
        assert scale.phases == {"": objects}
        assert asked["get", "pods"] / objects <= 10
        assert sum(asked.values()) / objects <= 20
        loop.run_until_complete(scale.delete_pods(120))
        assert scale.phases == {"Failed": objects}
        loop.run_until_complete(scale.cluster.stop())
