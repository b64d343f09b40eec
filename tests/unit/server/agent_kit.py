"""A whole agent on a fake API server: its node is a folder, its bucket another, its workers are what a test gives."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import random
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from agent.base.clock import Clock
from agent.kube.backup_repository import BackupRepository, BackupRepositorySpec, BackupRepositoryStatus, RepositoryPhase
from agent.kube.backup_storage_location import BackupStorageLocation, BackupStorageLocationSpec, ObjectStorage
from agent.kube.cluster import Event, Secret
from agent.kube.codec import encode
from agent.kube.job import Phase, PodReference
from agent.kube.meta import Key, ObjectMeta
from agent.kube.names import REPOSITORY_TYPE_LABEL, STORAGE_LOCATION_LABEL, VOLUME_NAMESPACE_LABEL
from agent.kube.pod_volume_backup import PodVolumeBackup, PodVolumeBackupSpec
from agent.kube.pods import Container, ContainerState, ContainerStatus, Pod, PodPhase, PodSpec, PodStatus, Running
from agent.kube.resource import (
    BACKUP_REPOSITORIES,
    BACKUP_STORAGE_LOCATIONS,
    EVENTS,
    POD_VOLUME_BACKUPS,
    PODS,
    SECRETS,
)
from agent.kube.reviews import Reviewer
from agent.observe.log import Logging, LogOptions
from agent.observe.metrics import Metrics
from agent.server.app import WorkersFactory, run_agent
from agent.server.flags import AgentFlags
from agent.server.mounts import MountTable
from agent.server.parts import Basis
from agent.server.rights import RIGHTS
from agent.server.stopping import Stopping
from agent.testing.clock import VirtualClock
from tests.unit.server.server_kit import NAMESPACE, World

NODE = "node-a"
PASSWORD = "correct-horse-battery-staple"
POD_UID = "c070383e-5d0c-474d-aebe-a10f05f88e6d"


class AgentWorld(World):
    """One node with one pod that has one volume, and everything that Velero's server made."""

    def __init__(self, folder: Path, clock: Clock | None = None, **flags: object) -> None:
        super().__init__(clock)
        self.install()
        self.folder = folder
        self.host_pods = folder / "host_pods"
        self.volume = self.host_pods / POD_UID / "volumes" / "kubernetes.io~empty-dir" / "html"
        self.volume.mkdir(parents=True)
        (self.volume / "index.html").write_text("hello")
        self.logging = Logging(LogOptions(), io.StringIO())
        self.metrics = Metrics(NODE, self.clock)
        self.stopping = Stopping()
        self.reviewer: Reviewer | None = None
        given: dict[str, object] = {
            "node": NODE,
            "namespace": NAMESPACE,
            "metrics_address": "127.0.0.1:0",
            "host_pods": str(self.host_pods),
            "cache_dir": str(folder / "cache"),
        }
        self.flags = AgentFlags(**given | flags)  # type: ignore[arg-type]
        self._put_pod()
        self._put_storage()

    @asynccontextmanager
    async def agent(self, workers: WorkersFactory) -> AsyncIterator[asyncio.Task[None]]:
        """An agent that runs, and is told to end at the end of the block; its task is given."""
        basis = Basis(
            api=self.api,
            clock=self.clock,
            rng=random.Random(3),
            environ={},
            flags=self.flags,
            logging=self.logging,
            metrics=self.metrics,
            reviewer=self.reviewer,
        )
        if isinstance(self.clock, VirtualClock):
            asyncio.get_running_loop().set_default_executor(_Inline())
        with _log_level_kept():
            task = asyncio.ensure_future(
                run_agent(basis, self.stopping, workers, MountTable(self.folder / "no-mountinfo"))
            )
            try:
                yield task
                if not task.done():
                    self.stopping.ask()
                    await task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def unforeseen_requests(self) -> set[tuple[str, str]]:
        """Verbs and resources that were asked for and are in no right."""
        granted = {(verb, right.name) for right in RIGHTS for verb in right.verbs}
        return set(self.api.requests) - granted

    async def add_backup(self, name: str = "pvb-1") -> None:
        spec = PodVolumeBackupSpec(
            node=NODE,
            pod=PodReference(kind="Pod", namespace="app", name="web", uid=POD_UID),
            volume="html",
            backup_storage_location="default",
            uploader_type="kopia",
        )
        metadata = ObjectMeta(name=name, namespace=NAMESPACE)
        backup = PodVolumeBackup(api_version="velero.io/v1", kind="PodVolumeBackup", metadata=metadata, spec=spec)
        await self.api.create(POD_VOLUME_BACKUPS, backup)

    async def backup(self, name: str = "pvb-1") -> PodVolumeBackup:
        return await self.api.get(POD_VOLUME_BACKUPS, Key(NAMESPACE, name))

    def phase(self, name: str = "pvb-1") -> Phase:
        status = self.api.raw(POD_VOLUME_BACKUPS, Key(NAMESPACE, name)).get("status", {})
        assert isinstance(status, dict)
        return Phase(str(status.get("phase", "")))

    async def told(self) -> dict[str, Event]:
        return {event.reason: event for event in (await self.api.list(EVENTS)).items}

    async def configure(self, name: str, document: object, *, verb: str = "add") -> None:
        text = json.dumps(document)
        await (self.add_config(name, text) if verb == "add" else self.set_config(name, text))

    def _put_pod(self) -> None:
        state = ContainerStatus(name="web", state=ContainerState(running=Running()))
        pod = Pod(
            api_version="v1",
            kind="Pod",
            metadata=ObjectMeta(name="web", namespace="app", uid=POD_UID),
            spec=PodSpec(
                containers=(Container(name="web"),), volumes=({"name": "html", "emptyDir": {}},), node_name=NODE
            ),
            status=PodStatus(phase=PodPhase.RUNNING, container_statuses=(state,)),
        )
        self.api.put_raw(PODS, encode(pod))

    def _put_storage(self) -> None:
        location = BackupStorageLocation(
            api_version="velero.io/v1",
            kind="BackupStorageLocation",
            metadata=ObjectMeta(name="default", namespace=NAMESPACE, uid="bsl"),
            spec=BackupStorageLocationSpec(
                provider="fs",
                config={"fspath": str(self.folder / "bucket")},
                object_storage=ObjectStorage(bucket="backups"),
            ),
        )
        self.api.put_raw(BACKUP_STORAGE_LOCATIONS, encode(location))
        secret = Secret(
            api_version="v1",
            kind="Secret",
            metadata=ObjectMeta(name="velero-repo-credentials", namespace=NAMESPACE, uid="secret"),
            data={"repository-password": PASSWORD.encode()},
        )
        self.api.put_raw(SECRETS, encode(secret))
        repository = BackupRepository(
            api_version="velero.io/v1",
            kind="BackupRepository",
            metadata=ObjectMeta(
                name="app-default-kopia",
                namespace=NAMESPACE,
                uid="repository",
                labels={
                    VOLUME_NAMESPACE_LABEL: "app",
                    STORAGE_LOCATION_LABEL: "default",
                    REPOSITORY_TYPE_LABEL: "kopia",
                },
            ),
            spec=BackupRepositorySpec(
                volume_namespace="app",
                backup_storage_location="default",
                repository_type="kopia",
                maintenance_frequency="1h0m0s",
            ),
            status=BackupRepositoryStatus(phase=RepositoryPhase.READY),
        )
        self.api.put_raw(BACKUP_REPOSITORIES, encode(repository))


class _Inline(ThreadPoolExecutor):
    """No threads: virtual time would run away while one works."""

    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
        future: Future[object] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  # as an executor does
            future.set_exception(error)
        return future


@contextmanager
def _log_level_kept() -> Iterator[None]:
    level = logging.getLogger().level
    try:
        yield
    finally:
        logging.getLogger().setLevel(level)
