"""A cluster in memory with a claim that waits for a restored volume, and a DataDownload for it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from agent.exposers.restore import GenericRestoreExposer
from agent.exposers.settings import ExposerSettings
from agent.kube.agent_config import AgentConfig
from agent.kube.api import KubeApi
from agent.kube.backup_storage_location import BackupStorageLocation, BackupStorageLocationSpec, SecretKey
from agent.kube.cluster import Secret
from agent.kube.data_download import DataDownload, DataDownloadSpec, TargetVolume
from agent.kube.meta import Key, ObjectMeta
from agent.kube.names import DYNAMIC_PV_RESTORE_LABEL
from agent.kube.pods import Container, DaemonSet, DaemonSetSpec, Pod, PodPhase, PodSpec, PodTemplate
from agent.kube.resource import (
    BACKUP_STORAGE_LOCATIONS,
    DAEMON_SETS,
    DATA_DOWNLOADS,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    SECRETS,
    VOLUME_ATTACHMENTS,
)
from agent.kube.volumes import (
    AttachmentSource,
    BindingMode,
    LabelSelector,
    PersistentVolume,
    PersistentVolumeClaim,
    PersistentVolumeClaimSpec,
    ReclaimPolicy,
    ResourceRequests,
    VolumeAttachment,
    VolumeAttachmentSpec,
    VolumeMode,
)
from agent.testing.clock import VirtualClock
from agent.testing.fake_csi import DRIVER, FakeCsi
from agent.testing.fake_kube import FakeKube
from agent.testing.fake_nodes import SELECTED_NODE, FakeNodeVolumes

NODES = ("node-a", "node-b")
NAMESPACE = "velero"
GUARD = {DYNAMIC_PV_RESTORE_LABEL: "app.data.bbcng"}
JOB = Key(NAMESPACE, "dm-big-2rvgs")
TARGET = Key("app", "data")


@dataclass
class RestoreCluster:
    """All of it."""

    reclaim_policy: ReclaimPolicy = ReclaimPolicy.DELETE
    binding: BindingMode = BindingMode.IMMEDIATE
    config: AgentConfig = field(default_factory=AgentConfig)

    def __post_init__(self) -> None:
        self.clock = VirtualClock()
        self.kube = FakeKube(self.clock, random.Random(7))
        self.csi = FakeCsi(self.kube, self.clock)

    async def begin(self, *, mode: VolumeMode = VolumeMode.FILESYSTEM) -> DataDownload:
        """What the server makes for a restore, and what an installation has."""
        kube = self.kube
        await self.csi.nodes.add(NODES[0])
        await self.csi.nodes.add(NODES[1], disk="fast")
        await self.csi.add_class("dir", binding=self.binding, reclaim=self.reclaim_policy)
        await self.csi.add_class("fast", reclaim=self.reclaim_policy)
        await kube.create(DAEMON_SETS, daemon_set())
        for name, key in (("velero-repo-credentials", "repository-password"), ("cloud", "key")):
            meta = ObjectMeta(name=name, namespace=NAMESPACE)
            await kube.create(SECRETS, Secret(api_version="v1", kind="Secret", metadata=meta, data={key: b"secret"}))
        await kube.create(BACKUP_STORAGE_LOCATIONS, location())
        await kube.create(PERSISTENT_VOLUME_CLAIMS, target_claim(mode))
        return await kube.create(DATA_DOWNLOADS, download())

    async def select_node(self, node: str) -> None:
        """The scheduler finds a node for the user's pod."""
        await self.kube.patch(PERSISTENT_VOLUME_CLAIMS, TARGET, {"metadata": {"annotations": {SELECTED_NODE: node}}})

    async def delete_target(self) -> None:
        """The user deletes the claim that waits."""
        await self.kube.patch(PERSISTENT_VOLUME_CLAIMS, TARGET, {"metadata": {"finalizers": None}})
        await self.kube.delete(PERSISTENT_VOLUME_CLAIMS, TARGET)

    def settings(self, api: KubeApi | None = None, node: str = NODES[0]) -> ExposerSettings:
        """Those of an agent."""
        return ExposerSettings(
            api=api or self.kube,
            clock=self.clock,
            node=node,
            namespace=NAMESPACE,
            config=lambda: self.config,
            volumes=FakeNodeVolumes(self.kube, node),
            sees_host_pods=True,
        )

    def exposer(self, api: KubeApi | None = None, node: str = NODES[0]) -> GenericRestoreExposer:
        """That of an agent that starts now."""
        return GenericRestoreExposer(self.settings(api, node))

    async def step(self, times: int = 1) -> None:
        """What Kubernetes does while nobody looks; volumes are detached a while after their pods have gone."""
        for _ in range(times):
            await self._detach()
            await self.csi.step()
            await self._attach()

    async def claims(self, namespace: str = "") -> tuple[PersistentVolumeClaim, ...]:
        return (await self.kube.list(PERSISTENT_VOLUME_CLAIMS, namespace)).items

    async def volumes(self) -> tuple[PersistentVolume, ...]:
        return (await self.kube.list(PERSISTENT_VOLUMES)).items

    async def pods(self) -> tuple[Pod, ...]:
        return (await self.kube.list(PODS)).items

    async def _attach(self) -> None:
        attached = {attachment.metadata.name for attachment in (await self.kube.list(VOLUME_ATTACHMENTS)).items}
        volumes = {claim.key: claim.spec.volume_name for claim in await self.claims()}
        for pod in await self.pods():
            name, volume = f"csi-{pod.metadata.uid}", volumes.get(pod.key, "")
            if pod.status.phase is PodPhase.RUNNING and volume and name not in attached:
                source = AttachmentSource(persistent_volume_name=volume)
                await self.kube.create(
                    VOLUME_ATTACHMENTS,
                    VolumeAttachment(
                        api_version="storage.k8s.io/v1",
                        kind="VolumeAttachment",
                        metadata=ObjectMeta(name=name),
                        spec=VolumeAttachmentSpec(attacher=DRIVER, node_name=pod.spec.node_name, source=source),
                    ),
                )

    async def _detach(self) -> None:
        needed = {f"csi-{pod.metadata.uid}" for pod in await self.pods()}
        for attachment in (await self.kube.list(VOLUME_ATTACHMENTS)).items:
            if attachment.metadata.name not in needed:
                await self.kube.delete(VOLUME_ATTACHMENTS, attachment.key)


def location() -> BackupStorageLocation:
    return BackupStorageLocation(
        api_version="velero.io/v1",
        kind="BackupStorageLocation",
        metadata=ObjectMeta(name="default", namespace=NAMESPACE),
        spec=BackupStorageLocationSpec(provider="aws", credential=SecretKey(name="cloud", key="key")),
    )


def download() -> DataDownload:
    return DataDownload(
        api_version="velero.io/v2alpha1",
        kind="DataDownload",
        metadata=ObjectMeta(name=JOB.name, namespace=JOB.namespace),
        spec=DataDownloadSpec(
            target_volume=TargetVolume(pvc=TARGET.name, namespace=TARGET.namespace),
            backup_storage_location="default",
            snapshot_id="5abfef868f0925e519e429fe2d0940cc",
            source_namespace="app",
            operation_timeout="10m0s",
        ),
    )


def target_claim(mode: VolumeMode = VolumeMode.FILESYSTEM) -> PersistentVolumeClaim:
    annotations = {"pv.kubernetes.io/bind-completed": "yes", "team": "storage"}
    return PersistentVolumeClaim(
        api_version="v1",
        kind="PersistentVolumeClaim",
        metadata=ObjectMeta(
            name=TARGET.name, namespace=TARGET.namespace, labels={"app": "web"}, annotations=annotations
        ),
        spec=PersistentVolumeClaimSpec(
            access_modes=("ReadWriteOnce",),
            storage_class_name="dir",
            volume_mode=mode,
            resources=ResourceRequests(requests={"storage": "2Gi"}),
            selector=LabelSelector(match_labels=GUARD),
        ),
    )


def daemon_set() -> DaemonSet:
    template = PodTemplate(
        spec=PodSpec(
            containers=(Container(name="node-agent", image="lighterage/agent:1"),), service_account_name="velero"
        )
    )
    return DaemonSet(
        api_version="apps/v1",
        kind="DaemonSet",
        metadata=ObjectMeta(name="node-agent", namespace=NAMESPACE),
        spec=DaemonSetSpec(template=template),
    )
