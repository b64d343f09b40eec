"""The row `agents`: what fifty agents and two thousand objects cost an API server. `make bench ROW=agents`.

etcd, kube-apiserver and kube-controller-manager are real, and so are the controllers of all agents, which share this
process; volumes and movers are played, so that the requests are what is measured. Counts are those of the clients;
watches and their server's own requests are the API server's. Seconds are wall, of one machine on one day.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.base.clock import SystemClock
from agent.kube.aio_api import AioKubeApi
from agent.kube.aio_transport import load_configuration
from agent.kube.cluster import Node
from agent.kube.codec import JsonObject
from agent.kube.data_upload import CsiSnapshotSpec, DataUpload, DataUploadSpec
from agent.kube.job import Phase, PodReference
from agent.kube.meta import ObjectMeta
from agent.kube.pod_volume_backup import PodVolumeBackup, PodVolumeBackupSpec
from agent.kube.resource import DATA_UPLOADS, NODES, POD_VOLUME_BACKUPS, Resource
from agent.testing.control_plane import ControlPlane
from agent.testing.control_plane_process import tool
from agent.testing.fake_exposer import ExposeScript
from agent.testing.fake_movers import Script
from agent.testing.flaky_kube import FlakyKube, Weather
from tests.unit.controllers.controllers_kit import NAMESPACE, Cluster

ROW: Final = "agents"
AGENTS: Final = 50
OBJECTS: Final = 2_000
_AT_ONCE = 4
"""Jobs of one agent."""
_JOB_SECONDS = 20.0
_BETWEEN_STARTS_SECONDS = 0.5
"""As pods of a DaemonSet begin; the lists of all at once would keep this one process from answering anybody."""
_MOST_SECONDS = 1_800.0
_QUIET_SECONDS = 60.0
_SETTLE_SECONDS = 15.0
_CREATORS = 20

Requests = dict[str, int]
"""How many by verb and kind: `get Pod`."""


@dataclass(frozen=True, slots=True)
class Result:
    """One run, as a line of the results file."""

    agents: int
    objects: int
    seconds: float
    """From the start of the agents to the last final object."""
    completed: int
    requests: Requests
    """Of all agents together by verb and kind, until then."""
    quiet: Requests
    """The same for a minute in which nothing happens."""
    watches: int
    """Open at once, of all agents."""
    cpu: dict[str, float]
    """Seconds by who spent them, until the last object was final."""
    doubled: int


class _Cpu:
    """Seconds of CPU that programs have used since it was made."""

    def __init__(self, plane: ControlPlane) -> None:
        self._pids = {
            "kube-apiserver": plane.api_server.pid,
            "etcd": plane.etcd.pid,
            "agents": os.getpid(),
        }
        self._before = self._used()

    def used(self) -> dict[str, float]:
        return {name: seconds - self._before[name] for name, seconds in self._used().items()}

    def _used(self) -> dict[str, float]:
        return {name: _seconds(pid) for name, pid in self._pids.items()}


def _seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(folder: Path, agents: int = AGENTS, objects: int = OBJECTS) -> Result:
    """Start a control plane in the folder, which is removed, and let the agents work until all objects are final."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with ControlPlane(folder, node_grace=round(2 * _MOST_SECONDS)) as plane:
            plane.install_definitions(tool("velero-crds-1.18"))
            plane.kubectl("create", "namespace", NAMESPACE)
            return asyncio.run(_run(plane, agents, objects))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _run(plane: ControlPlane, agents: int, objects: int) -> Result:
    cluster = Cluster(random.Random(1), concurrency=_AT_ONCE)
    cluster.moved.script = lambda _: Script(seconds=_JOB_SECONDS)
    nodes = [f"node-{number}" for number in range(agents)]
    cluster.liveness.nodes = frozenset(nodes)
    async with _clients(plane, agents + 1) as (maker, *apis):
        for node in nodes:
            await _make_node(maker, node)
        await _make_objects(cluster, maker, nodes, objects)
        cpu, started = _Cpu(plane), time.monotonic()
        ways = [FlakyKube(api, SystemClock(), random.Random(0), Weather(latency=0.0)) for api in apis]
        for node, way in zip(nodes, ways, strict=True):
            cluster.start_agent(node, way, SystemClock())
            await asyncio.sleep(_BETWEEN_STARTS_SECONDS)
        completed = await _wait_final(maker, objects, started)
        seconds, spent = time.monotonic() - started, cpu.used()
        requests = _sum(ways)
        watches = await asyncio.to_thread(_open_watches, plane)
        await asyncio.sleep(_SETTLE_SECONDS)
        settled = _sum(ways)
        await asyncio.sleep(_QUIET_SECONDS)
        quiet = _sum(ways) - settled
        await cluster.stop()
        await asyncio.sleep(_SETTLE_SECONDS)
        watches -= await asyncio.to_thread(_open_watches, plane)
    doubled = len(cluster.moved.doubled)
    return Result(agents, objects, seconds, completed, _named(requests), _named(quiet), watches, spent, doubled)


@asynccontextmanager
async def _clients(plane: ControlPlane, count: int) -> AsyncIterator[list[AioKubeApi]]:
    async with AsyncExitStack() as stack:
        configuration = await load_configuration(str(plane.kubeconfig))
        yield [
            await stack.enter_async_context(AioKubeApi(configuration, user_agent="lighterage-bench"))
            for _ in range(count)
        ]


async def _make_node(api: AioKubeApi, name: str) -> None:
    """One that is ready: pods of nodes that are not there would be removed."""
    node = Node(api_version="v1", kind="Node", metadata=ObjectMeta(name=name))
    await api.create(NODES, node)
    ready: JsonObject = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
    await api.patch(NODES, node.key, {"status": {"conditions": [ready]}}, status=True)


async def _make_objects(cluster: Cluster, api: AioKubeApi, nodes: list[str], objects: int) -> None:
    """A quarter are pod volumes of a node, the rest uploads, each with its volume on a node."""
    turns = iter(range(objects))

    async def make() -> None:
        for number in turns:
            node = nodes[number % len(nodes)]
            if number % 4 == 3:
                backup = _backup(f"b{number}", node)
                cluster.scripts[backup.key] = ExposeScript(node=node)
                await api.create(POD_VOLUME_BACKUPS, backup)
            else:
                upload = _upload(f"u{number}")
                cluster.scripts[upload.key] = ExposeScript(node=node)
                await api.create(DATA_UPLOADS, upload)

    await asyncio.gather(*(make() for _ in range(_CREATORS)))


def _upload(name: str) -> DataUpload:
    return DataUpload(
        api_version=DATA_UPLOADS.api_version,
        kind="DataUpload",
        metadata=ObjectMeta(name=name, namespace=NAMESPACE),
        spec=DataUploadSpec(
            snapshot_type="CSI",
            csi_snapshot=CsiSnapshotSpec(volume_snapshot="vs", storage_class="sc"),
            source_pvc="data",
            source_namespace="app",
            backup_storage_location="default",
            operation_timeout="10m0s",
        ),
    )


def _backup(name: str, node: str) -> PodVolumeBackup:
    return PodVolumeBackup(
        api_version=POD_VOLUME_BACKUPS.api_version,
        kind="PodVolumeBackup",
        metadata=ObjectMeta(name=name, namespace=NAMESPACE),
        spec=PodVolumeBackupSpec(
            node=node,
            pod=PodReference(kind="Pod", namespace="app", name="web", uid="u"),
            volume="data",
            repo_identifier="none",
            backup_storage_location="default",
            uploader_type="kopia",
        ),
    )


async def _wait_final(api: AioKubeApi, objects: int, started: float) -> int:
    """Wait until all objects are final; how many were completed. Asks with a client that is not counted."""
    while True:
        phases = [phase async for phase in _phases(api)]
        if len(phases) == objects and all(phase.is_final for phase in phases):
            return phases.count(Phase.COMPLETED)
        if time.monotonic() - started > _MOST_SECONDS:
            counted = dict(Counter(phases))
            raise SystemExit(f"bench: after {_MOST_SECONDS:.0f} s not all objects are final: {counted}")
        await asyncio.sleep(2.0)


async def _phases(api: AioKubeApi) -> AsyncIterator[Phase]:
    kinds: tuple[Resource[Any], ...] = (DATA_UPLOADS, POD_VOLUME_BACKUPS)
    for resource in kinds:
        token = ""
        while True:
            page = await api.list(resource, NAMESPACE, continue_token=token)
            for one in page.items:
                yield one.status.phase
            token = page.continue_token
            if not token:
                break


def _open_watches(plane: ControlPlane) -> int:
    """Which the API server holds open right now, its controllers' included."""
    lines = plane.kubectl("get", "--raw", "/metrics").splitlines()
    gauge = "apiserver_longrunning_requests{"
    return round(sum(float(line.split()[-1]) for line in lines if line.startswith(gauge) and 'verb="WATCH"' in line))


def _sum(ways: list[FlakyKube]) -> Counter[tuple[str, str]]:
    return sum((way.requests for way in ways), Counter[tuple[str, str]]())


def _named(asked: Counter[tuple[str, str]]) -> Requests:
    return {" ".join(verb_and_kind): count for verb_and_kind, count in asked.items()}


def keep(result: Result, results: Path) -> None:
    """Append the run to the file."""
    with results.open("ab") as out:
        out.write(msgspec.json.encode(result) + b"\n")


def table(results: Path) -> str:
    """Markdown for `docs/benchmarks.md`: the last run in the file."""
    *_, last = results.read_bytes().splitlines()
    return "\n".join(_lines(msgspec.json.decode(last, type=Result)))


def _lines(result: Result) -> Iterator[str]:
    every, quiet, agents = sum(result.requests.values()), sum(result.quiet.values()), result.agents
    jobs = f"{_AT_ONCE} jobs of {_JOB_SECONDS:.0f} s at once in each"
    yield f"{result.objects:,} objects, {result.agents} agents, {jobs}."
    yield f"Completed: {result.completed:,}. Done twice: {result.doubled}."
    yield ""
    yield "| requests of all agents | per object | in a quiet minute, per agent |"
    yield "|---|---|---|"
    for asked in sorted(result.requests | result.quiet, key=lambda asked: -result.requests.get(asked, 0)):
        count, idle = result.requests.get(asked, 0), result.quiet.get(asked, 0)
        yield f"| {asked} | {count / result.objects:.2f} | {idle / agents:.1f} |"
    yield f"| **all** | **{every / result.objects:.2f}** | **{quiet / agents:.1f}** |"
    yield ""
    spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.cpu.items())
    yield f"Watches open: {result.watches / agents:.1f} per agent. CPU: {spent}."
    yield f"All final after {result.seconds:.0f} s (wall)."
