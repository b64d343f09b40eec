"""A cluster in memory with a volume, its snapshot as the server took it, and a DataUpload of it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from agent.exposers.contract import Broken, Done, Ready, Waiting
from agent.exposers.csi_snapshot import CsiSnapshotExposer
from agent.exposers.settings import ExposerSettings
from agent.kube.agent_config import AgentConfig
from agent.kube.api import KubeApi
from agent.kube.backup_storage_location import BackupStorageLocation, BackupStorageLocationSpec, SecretKey
from agent.kube.cluster import Secret
from agent.kube.data_upload import CsiSnapshotSpec, DataUpload, DataUploadSpec
from agent.kube.meta import ConfigMap, Key, KubeObject, ObjectMeta
from agent.kube.pods import Container, DaemonSet, DaemonSetSpec, PodSpec, PodTemplate
from agent.kube.resource import (
    BACKUP_STORAGE_LOCATIONS,
    CONFIG_MAPS,
    DAEMON_SETS,
    DATA_UPLOADS,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    SECRETS,
    VOLUME_SNAPSHOT_CONTENTS,
    VOLUME_SNAPSHOTS,
)
from agent.kube.snapshots import VolumeSnapshot, VolumeSnapshotSource, VolumeSnapshotSpec
from agent.kube.volumes import (
    BindingMode,
    PersistentVolumeClaim,
    PersistentVolumeClaimSpec,
    ReclaimPolicy,
    ResourceRequests,
    VolumeMode,
)
from agent.testing.clock import VirtualClock
from agent.testing.fake_csi import ZONE_LABEL, FakeCsi
from agent.testing.fake_kube import FakeKube
from agent.testing.fake_nodes import FakeNodeVolumes

VELERO = "velero"
NAME = "backup-x7k2p"
JOB = Key(VELERO, NAME)
SOURCE_CLAIM = Key("app", "data")
SOURCE_SNAPSHOT = Key("app", "velero-data-abcde")
NODES = {"node-a": "zone-a", "node-b": "zone-b"}
SECONDS_PER_LOOK = 5.0


@dataclass
class World:
    mode: VolumeMode = VolumeMode.FILESYSTEM
    binding: BindingMode = BindingMode.IMMEDIATE
    reclaim: ReclaimPolicy = ReclaimPolicy.DELETE
    config: AgentConfig = field(default_factory=AgentConfig)
    sees_host_pods: bool = True
    seed: int = 1
    live: bool = False
    """Whether time goes on by itself, as agents need it."""

    def __post_init__(self) -> None:
        self.clock = VirtualClock(jump=self.live)
        self.kube = FakeKube(self.clock, random.Random(self.seed))
        self.csi = FakeCsi(self.kube, self.clock)
        self.volumes = {node: FakeNodeVolumes(self.kube, node) for node in NODES}
        self.kept: set[str] = set()

    async def build(self) -> DataUpload:
        for name, zone in NODES.items():
            await self.csi.nodes.add(name, **{ZONE_LABEL: zone})
        await self.csi.add_class("dir", binding=self.binding, reclaim=self.reclaim)
        await self._velero()
        await self._source()
        self.kept = set(self.csi.storage.volumes)
        spec = DataUploadSpec(
            snapshot_type="CSI",
            csi_snapshot=CsiSnapshotSpec(
                volume_snapshot=SOURCE_SNAPSHOT.name, storage_class="dir", snapshot_class="snaps"
            ),
            source_pvc=SOURCE_CLAIM.name,
            source_namespace=SOURCE_CLAIM.namespace,
            backup_storage_location="default",
            operation_timeout="10m0s",
        )
        meta = ObjectMeta(name=NAME, namespace=VELERO, labels={"velero.io/backup-name": "backup"})
        return await self.kube.create(
            DATA_UPLOADS,
            DataUpload(api_version=DATA_UPLOADS.api_version, kind="DataUpload", metadata=meta, spec=spec),
        )

    async def _velero(self) -> None:
        agent = Container(name="node-agent", image="lighterage:1", env=({"name": "NODE_NAME", "value": "n"},))
        template = PodTemplate(spec=PodSpec(containers=(agent,), service_account_name="velero"))
        meta = ObjectMeta(name="node-agent", namespace=VELERO)
        await self.kube.create(
            DAEMON_SETS,
            DaemonSet(api_version="apps/v1", kind="DaemonSet", metadata=meta, spec=DaemonSetSpec(template=template)),
        )
        await self.secret(Key(VELERO, "velero-repo-credentials"), "repository-password")
        await self.secret(Key(VELERO, "cloud"), "key")
        await self.kube.create(
            BACKUP_STORAGE_LOCATIONS,
            BackupStorageLocation(
                api_version="velero.io/v1",
                kind="BackupStorageLocation",
                metadata=ObjectMeta(name="default", namespace=VELERO),
                spec=BackupStorageLocationSpec(provider="aws", credential=SecretKey(name="cloud", key="key")),
            ),
        )

    async def _source(self) -> None:
        claim = PersistentVolumeClaim(
            api_version="v1",
            kind="PersistentVolumeClaim",
            metadata=ObjectMeta(
                name=SOURCE_CLAIM.name,
                namespace=SOURCE_CLAIM.namespace,
                annotations={"volume.kubernetes.io/selected-node": "node-b"},
            ),
            spec=PersistentVolumeClaimSpec(
                access_modes=("ReadWriteOnce",),
                storage_class_name="dir",
                volume_mode=self.mode,
                resources=ResourceRequests(requests={"storage": "1Gi"}),
            ),
        )
        await self.kube.create(PERSISTENT_VOLUME_CLAIMS, claim)
        await self.csi.step()
        await self.snapshot(SOURCE_SNAPSHOT)

    async def snapshot(self, key: Key) -> None:
        """As the server takes one of the user's volume."""
        snapshot = VolumeSnapshot(
            api_version=VOLUME_SNAPSHOTS.api_version,
            kind="VolumeSnapshot",
            metadata=ObjectMeta(name=key.name, namespace=key.namespace, annotations={"note": "kept"}),
            spec=VolumeSnapshotSpec(
                source=VolumeSnapshotSource(persistent_volume_claim_name=SOURCE_CLAIM.name),
                volume_snapshot_class_name="snaps",
            ),
        )
        await self.kube.create(VOLUME_SNAPSHOTS, snapshot)
        await self.csi.step(2)

    async def secret(self, key: Key, field_name: str, value: bytes = b"secret") -> None:
        meta = ObjectMeta(name=key.name, namespace=key.namespace)
        await self.kube.create(
            SECRETS, Secret(api_version="v1", kind="Secret", metadata=meta, data={field_name: value})
        )

    async def config_map(self, key: Key) -> None:
        meta = ObjectMeta(name=key.name, namespace=key.namespace)
        await self.kube.create(
            CONFIG_MAPS, ConfigMap(api_version="v1", kind="ConfigMap", metadata=meta, data={"k": "v"})
        )

    def settings(self, node: str = "node-a", api: KubeApi | None = None) -> ExposerSettings:
        return ExposerSettings(
            api=api or self.kube,
            clock=self.clock,
            node=node,
            namespace=VELERO,
            config=lambda: self.config,
            volumes=self.volumes[node],
            sees_host_pods=self.sees_host_pods,
        )

    def exposer(self, node: str = "node-a", api: KubeApi | None = None) -> CsiSnapshotExposer:
        return CsiSnapshotExposer(self.settings(node, api))

    def configure(self, **changes: object) -> None:
        self.config = replace(self.config, **changes)  # type: ignore[arg-type]

    async def job(self) -> DataUpload:
        return await self.kube.get(DATA_UPLOADS, JOB)

    async def expose(self, exposer: CsiSnapshotExposer | None = None, *, looks: int = 12) -> Waiting | Ready | Broken:
        """Look as a controller does, until there is more to say than `Waiting`, at most `looks` times."""
        exposer = exposer or self.exposer()
        state: Waiting | Ready | Broken = Waiting("not looked at")
        for _ in range(looks):
            state = await exposer.advance(await self.job())
            if not isinstance(state, Waiting):
                return state
            await self.csi.step()
            self.clock.advance(SECONDS_PER_LOOK)
        return state

    async def clean_up(self, exposer: CsiSnapshotExposer | None = None, *, looks: int = 20) -> Waiting | Done:
        exposer = exposer or self.exposer()
        state: Waiting | Done = Waiting("not looked at")
        for _ in range(looks):
            state = await exposer.clean_up(await self.job())
            if isinstance(state, Done):
                return state
            await self.csi.step()
            self.clock.advance(SECONDS_PER_LOOK)
        return state

    async def left(self) -> list[str]:
        """What there is beside the user's volume and its claim."""
        found: list[KubeObject] = []
        for resource in (PODS, VOLUME_SNAPSHOTS):
            found += (await self.kube.list(resource)).items  # type: ignore[arg-type]
        found += (await self.kube.list(VOLUME_SNAPSHOT_CONTENTS)).items
        claims = (await self.kube.list(PERSISTENT_VOLUME_CLAIMS)).items
        found += [claim for claim in claims if claim.key != SOURCE_CLAIM]
        volumes = (await self.kube.list(PERSISTENT_VOLUMES)).items
        found += [one for one in volumes if one.spec.claim_ref is None or one.spec.claim_ref.namespace != "app"]
        names = [f"{one.kind} {one.key}" for one in found]
        storage = self.csi.storage
        return names + sorted(storage.snapshots) + sorted(storage.volumes - self.kept)

    async def with_status(self, **changes: object) -> DataUpload:
        job = await self.job()
        return msgspec.structs.replace(job, status=msgspec.structs.replace(job.status, **changes))
