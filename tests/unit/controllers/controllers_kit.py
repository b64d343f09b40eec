"""A cluster in memory with agents on its nodes, in virtual time, and objects as the server makes them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Set
from contextlib import suppress
from dataclasses import dataclass, field

from agent.base.clock import Clock
from agent.controllers.context import Timing, nothing_to_check
from agent.controllers.controllers import ControllerOptions, Controllers, Exposers
from agent.controllers.data_upload import DataMovers
from agent.controllers.job import Job
from agent.controllers.sweep import Leftovers
from agent.exposers.leftovers import SweepReport
from agent.kube.agent_config import AgentLimits
from agent.kube.api import KubeApi
from agent.kube.codec import JsonObject, encode
from agent.kube.data_download import DataDownload, DataDownloadSpec, TargetVolume
from agent.kube.data_upload import CsiSnapshotSpec, DataUpload, DataUploadSpec
from agent.kube.job import Phase, PodReference
from agent.kube.meta import Key, ObjectMeta
from agent.kube.names import DATA_DOWNLOAD_LABEL, DATA_UPLOAD_LABEL
from agent.kube.pod_volume_backup import PodVolumeBackup, PodVolumeBackupSpec
from agent.kube.pod_volume_restore import PodVolumeRestore, PodVolumeRestoreSpec
from agent.kube.pods import (
    Container,
    ContainerState,
    ContainerStatus,
    Pod,
    PodPhase,
    PodSpec,
    PodStatus,
    Running,
)
from agent.kube.resource import (
    DATA_DOWNLOADS,
    DATA_UPLOADS,
    PERSISTENT_VOLUME_CLAIMS,
    POD_VOLUME_BACKUPS,
    POD_VOLUME_RESTORES,
    PODS,
    Resource,
)
from agent.kube.volumes import PersistentVolumeClaim, VolumeMode
from agent.movers.spec import BackupTree, JobSpec, RestoreTree, Secrets, UrlLocation
from agent.observe.tracing import Tracing
from agent.snapshots.model import Source
from agent.testing.clock import VirtualClock
from agent.testing.fake_exposer import ExposerWorld, ExposeScript, FakeExposer, FakeLeftovers
from agent.testing.fake_kube import FakeKube
from agent.testing.fake_movers import FakeMovers, FakeRunners, MoverWorld
from agent.testing.virtual_loop import LoopClock

NAMESPACE = "velero"
NODES = ("node-a", "node-b", "node-c")
SECRETS = Secrets(password="p")
ALL_RESOURCES = (DATA_UPLOADS, DATA_DOWNLOADS, POD_VOLUME_BACKUPS, POD_VOLUME_RESTORES)


@dataclass
class Server:
    """What the definitions of a Velero server know, by its minor version."""

    minor: int = 18

    def has_phase(self, plural: str, phase: Phase) -> bool:
        if plural in {"podvolumebackups", "podvolumerestores"} and self.minor < 17:
            return phase in {Phase.EMPTY, Phase.NEW, Phase.IN_PROGRESS, Phase.COMPLETED, Phase.FAILED}
        return True

    def has_field(self, plural: str, path: str) -> bool:
        since = {"spec.parentSnapshot": 19, "status.incrementalBytes": 18, "status.acceptedTimestamp": 16}
        if plural in {"podvolumebackups", "podvolumerestores"}:
            since |= {"spec.cancel": 17, "status.acceptedTimestamp": 17, "status.node": 17}
        if (plural, path) == ("podvolumebackups", "status.node"):
            return False
        return self.minor >= since.get(path, 0)


class Events:
    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []

    def emit(self, job: Job, reason: str, message: str, *, warning: bool = False) -> None:
        self.told.append((job.metadata.name, reason, message))


class Liveness:
    def __init__(self) -> None:
        self.dead: set[str] = set()
        self.nodes: Set[str] = {*NODES, *(f"node-{number}" for number in range(7))}

    def is_dead(self, node: str) -> bool:
        return node in self.dead

    def agents(self) -> Set[str]:
        return self.nodes


class Jobs:
    """Objects to jobs that only the fake movers understand."""

    def __init__(self, secrets: Callable[[], Secrets] = lambda: SECRETS) -> None:
        self._secrets = secrets

    async def data_upload(self, job: DataUpload, *, path: str, mode: VolumeMode) -> tuple[JobSpec, Secrets]:
        return self._backup(job, path)

    async def data_download(self, job: DataDownload, *, path: str, mode: VolumeMode) -> tuple[JobSpec, Secrets]:
        return self._restore(job, path, job.spec.snapshot_id)

    async def pod_volume_backup(self, job: PodVolumeBackup, *, path: str, mode: VolumeMode) -> tuple[JobSpec, Secrets]:
        return self._backup(job, path)

    async def pod_volume_restore(
        self, job: PodVolumeRestore, *, path: str, mode: VolumeMode
    ) -> tuple[JobSpec, Secrets]:
        return self._restore(job, path, job.spec.snapshot_id)

    def _backup(self, job: Job, path: str) -> tuple[JobSpec, Secrets]:
        source = Source(host="default", user="default", path="x")
        return self._spec(job, BackupTree(path=path, source=source))

    def _restore(self, job: Job, path: str, snapshot: str) -> tuple[JobSpec, Secrets]:
        return self._spec(job, RestoreTree(snapshot=snapshot, target=path))

    def _spec(self, job: Job, work: BackupTree | RestoreTree) -> tuple[JobSpec, Secrets]:
        spec = JobSpec(id=f"{job.kind}/{job.metadata.name}", work=work, location=UrlLocation(url="file:///x"))
        return spec, self._secrets()


class Sweeps:
    """Several as one."""

    def __init__(self, *sweeps: Leftovers) -> None:
        self._sweeps = sweeps

    async def sweep(self) -> SweepReport:
        return SweepReport(going=tuple([name for one in self._sweeps for name in (await one.sweep()).going]))


@dataclass
class Cluster:
    """Everything that is shared by the agents of one test."""

    rng: random.Random
    server: Server = field(default_factory=Server)
    clock: VirtualClock | LoopClock = field(default_factory=VirtualClock)
    timing: Timing = field(default_factory=Timing)
    concurrency: int = 2
    prepare_queue_length: int = 0
    movers: DataMovers = field(default_factory=DataMovers)
    limits: AgentLimits = field(default_factory=AgentLimits)
    check: Callable[[Job], Awaitable[None]] = nothing_to_check
    time_limit: Callable[[Job], float] = lambda _: 0.0
    tracing: Tracing = field(default_factory=Tracing)
    secrets: Secrets = SECRETS

    def __post_init__(self) -> None:
        self.kube = FakeKube(self.clock, self.rng)
        self.events = Events()
        self.liveness = Liveness()
        self.scripts: dict[Key, ExposeScript] = {}
        self.exposed = {
            kind: ExposerWorld(self._script) for kind in ("upload", "download", "pod-backup", "pod-restore")
        }
        self.moved = MoverWorld()
        self.agents: dict[str, asyncio.Task[None]] = {}
        self.controllers: dict[str, Controllers] = {}

    def _script(self, key: Key) -> ExposeScript:
        return self.scripts.get(key, ExposeScript(node=NODES[0]))

    def start_agent(self, node: str, api: KubeApi | None = None, clock: Clock | None = None) -> None:
        """With a way to the API server, and a clock, of its own, if they are given."""
        kube, clock, exposed = api or self.kube, clock or self.clock, self.exposed
        controllers = Controllers(
            kube,
            clock,
            random.Random(self.rng.random()),
            ControllerOptions(
                node=node,
                namespace=NAMESPACE,
                concurrency=self.concurrency,
                prepare_queue_length=self.prepare_queue_length,
                timing=self.timing,
                movers=self.movers,
                limits=self.limits,
                check=self.check,
                time_limit=self.time_limit,
            ),
            exposers=Exposers(
                data_upload=FakeExposer[DataUpload](exposed["upload"], kube, clock, DATA_UPLOAD_LABEL),
                data_download=FakeExposer[DataDownload](exposed["download"], kube, clock, DATA_DOWNLOAD_LABEL),
                pod_volume_backup=FakeExposer[PodVolumeBackup](exposed["pod-backup"], kube, clock, "x"),
                pod_volume_restore=FakeExposer[PodVolumeRestore](exposed["pod-restore"], kube, clock, "x"),
            ),
            runners=FakeRunners(FakeMovers(self.moved, clock)),
            jobs=Jobs(lambda: self.secrets),
            definitions=self.server,
            events=self.events,
            nodes=self.liveness,
            leftovers=self._leftovers(kube),
            tracing=self.tracing,
        )
        self.controllers[node] = controllers
        self.agents[node] = asyncio.create_task(controllers.run(), name=f"agent {node}")

    def _leftovers(self, kube: KubeApi) -> Leftovers:
        exposed = self.exposed
        return Sweeps(
            FakeLeftovers(exposed["upload"], kube, DATA_UPLOADS, NAMESPACE),
            FakeLeftovers(exposed["download"], kube, DATA_DOWNLOADS, NAMESPACE),
            FakeLeftovers(exposed["pod-backup"], kube, POD_VOLUME_BACKUPS, NAMESPACE),
            FakeLeftovers(exposed["pod-restore"], kube, POD_VOLUME_RESTORES, NAMESPACE),
        )

    async def kill_agent(self, node: str) -> None:
        task = self.agents.pop(node, None)
        if task is None:
            return
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def stop(self) -> None:
        for node in list(self.agents):
            task = self.agents[node]
            if task.done():
                task.result()
            await self.kill_agent(node)

    async def run(self, seconds: float) -> None:
        await self.clock.sleep(seconds)

    async def phase_of(self, resource: Resource, name: str) -> Phase:  # type: ignore[type-arg]
        phase = (await self.kube.get(resource, Key(NAMESPACE, name))).status.phase
        assert isinstance(phase, Phase)
        return phase

    async def patch(self, resource: Resource, name: str, patch: JsonObject) -> None:  # type: ignore[type-arg]
        await self.kube.patch(resource, Key(NAMESPACE, name), patch)

    # Objects as the server makes them

    async def upload(
        self, name: str, *, node: str = NODES[0], datamover: str = "", namespace: str = "app", **script: object
    ) -> DataUpload:
        self.scripts[Key(NAMESPACE, name)] = ExposeScript(node=node, **script)  # type: ignore[arg-type]
        spec = DataUploadSpec(
            snapshot_type="CSI",
            csi_snapshot=CsiSnapshotSpec(volume_snapshot="vs", storage_class="sc"),
            source_pvc="data",
            source_namespace=namespace,
            backup_storage_location="default",
            operation_timeout="10m0s",
            datamover=datamover,
        )
        new = DataUpload(api_version="velero.io/v2alpha1", kind="DataUpload", metadata=_metadata(name), spec=spec)
        return await self.kube.create(DATA_UPLOADS, new)

    async def download(
        self, name: str, *, node: str = NODES[0], snapshot: str = "s", claim: bool = True, **script: object
    ) -> DataDownload:
        self.scripts[Key(NAMESPACE, name)] = ExposeScript(node=node, **script)  # type: ignore[arg-type]
        if claim:
            await self.claim(name)
        spec = DataDownloadSpec(
            target_volume=TargetVolume(pvc=name, namespace="app"),
            backup_storage_location="default",
            snapshot_id=snapshot,
            source_namespace="app",
            operation_timeout="10m0s",
        )
        new = DataDownload(api_version="velero.io/v2alpha1", kind="DataDownload", metadata=_metadata(name), spec=spec)
        return await self.kube.create(DATA_DOWNLOADS, new)

    async def claim(self, name: str) -> None:
        metadata = ObjectMeta(name=name, namespace="app")
        claim = PersistentVolumeClaim(api_version="v1", kind="PersistentVolumeClaim", metadata=metadata)
        await self.kube.create(PERSISTENT_VOLUME_CLAIMS, claim)

    async def pod_backup(
        self, name: str, *, node: str = NODES[0], uploader: str = "kopia", **script: object
    ) -> PodVolumeBackup:
        self.scripts[Key(NAMESPACE, name)] = ExposeScript(node=node, **script)  # type: ignore[arg-type]
        spec = PodVolumeBackupSpec(
            node=node,
            pod=PodReference(kind="Pod", namespace="app", name="web", uid="u"),
            volume="data",
            backup_storage_location="default",
            uploader_type=uploader,
        )
        new = PodVolumeBackup(api_version="velero.io/v1", kind="PodVolumeBackup", metadata=_metadata(name), spec=spec)
        return await self.kube.create(POD_VOLUME_BACKUPS, new)

    async def pod_restore(
        self, name: str, *, node: str = NODES[0], state: ContainerState | None = None, **script: object
    ) -> PodVolumeRestore:
        """With its pod, whose init container waits."""
        self.scripts[Key(NAMESPACE, name)] = ExposeScript(node=node, **script)  # type: ignore[arg-type]
        waiting = ContainerStatus(name="restore-wait", state=state or ContainerState(running=Running()))
        pod = await self.kube.create(
            PODS,
            Pod(
                api_version="v1",
                kind="Pod",
                metadata=ObjectMeta(name=name, namespace="app"),
                spec=PodSpec(node_name=node, init_containers=(Container(name="restore-wait"),)),
            ),
        )
        status = PodStatus(phase=PodPhase.PENDING, init_container_statuses=(waiting,))
        value = self.kube.raw(PODS, pod.key)
        value["status"] = encode(status)
        self.kube.put_raw(PODS, value)
        spec = PodVolumeRestoreSpec(
            pod=PodReference(kind="Pod", namespace="app", name=name, uid=pod.metadata.uid),
            volume="data",
            backup_storage_location="default",
            uploader_type="kopia",
            snapshot_id="s",
            source_namespace="app",
        )
        new = PodVolumeRestore(api_version="velero.io/v1", kind="PodVolumeRestore", metadata=_metadata(name), spec=spec)
        return await self.kube.create(POD_VOLUME_RESTORES, new)


def _metadata(name: str) -> ObjectMeta:
    return ObjectMeta(name=name, namespace=NAMESPACE)
