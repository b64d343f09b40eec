"""A cluster that provisions, binds, schedules and deletes, one step at a time, and an agent that may die in it.

Only as much of Kubernetes as a restored volume meets on its way, written down from recordings of a real one.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import msgspec

from agent.exposers.host_path import csi_volume_path
from agent.exposers.restore import GenericRestoreExposer
from agent.exposers.settings import ExposerSettings
from agent.kube.agent_config import AgentConfig
from agent.kube.api import PAGE_SIZE, AccessReview, Page, WatchEvent
from agent.kube.codec import JsonObject, ObjectT
from agent.kube.data_download import DataDownload, DataDownloadSpec, DataDownloadStatus, TargetVolume
from agent.kube.meta import Key, ObjectMeta
from agent.kube.names import DYNAMIC_PV_RESTORE_LABEL
from agent.kube.pods import (
    Container,
    ContainerState,
    ContainerStatus,
    DaemonSet,
    DaemonSetSpec,
    Pod,
    PodSpec,
    PodTemplate,
    Running,
)
from agent.kube.resource import (
    DAEMON_SETS,
    DATA_DOWNLOADS,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    STORAGE_CLASSES,
    VOLUME_ATTACHMENTS,
    Resource,
)
from agent.kube.selector import EVERYTHING, Selector
from agent.kube.volumes import (
    AttachmentSource,
    BindingMode,
    CsiVolumeSource,
    LabelSelector,
    ObjectReference,
    PersistentVolume,
    PersistentVolumeClaim,
    PersistentVolumeClaimSpec,
    PersistentVolumeSpec,
    ReclaimPolicy,
    ResourceRequests,
    StorageClass,
    VolumeAttachment,
    VolumeAttachmentSpec,
    VolumeMode,
)
from agent.testing.clock import VirtualClock
from agent.testing.fake_kube import FakeKube

NODE = "node-a"
NAMESPACE = "velero"
DRIVER = "dir.csi.lighterage.test"
GUARD = {DYNAMIC_PV_RESTORE_LABEL: "app.data.bbcng"}
JOB = Key(NAMESPACE, "dm-big-2rvgs")
TARGET = Key("app", "data")
_SELECTED_NODE = "volume.kubernetes.io/selected-node"
_FINALIZER = "kubernetes.io/in-use"


class Killed(BaseException):
    """The agent's process ended."""


class MortalApi:
    """The API server as one agent sees it, who dies at a request: before it is sent, or before its answer comes."""

    def __init__(self, kube: FakeKube, *, dies_at: int = 0, after: bool = False) -> None:
        self._kube = kube
        self._dies_at = dies_at
        self._after = after
        self.count = 0

    def _before(self) -> bool:
        self.count += 1
        dies = self.count == self._dies_at
        if dies and not self._after:
            raise Killed
        return dies

    async def get(self, resource: Resource[ObjectT], key: Key) -> ObjectT:
        if self._before():
            raise Killed
        return await self._kube.get(resource, key)

    async def list(
        self,
        resource: Resource[ObjectT],
        namespace: str = "",
        *,
        selector: Selector = EVERYTHING,
        limit: int = PAGE_SIZE,
        continue_token: str = "",
    ) -> Page[ObjectT]:
        if self._before():
            raise Killed
        return await self._kube.list(resource, namespace, selector=selector, limit=limit, continue_token=continue_token)

    def watch(
        self,
        resource: Resource[ObjectT],
        namespace: str = "",
        *,
        resource_version: str,
        selector: Selector = EVERYTHING,
        timeout: float,
    ) -> AsyncGenerator[WatchEvent[ObjectT], None]:
        raise NotImplementedError("exposers do not watch")

    async def create(self, resource: Resource[ObjectT], obj: ObjectT) -> ObjectT:
        dies = self._before()
        made = await self._kube.create(resource, obj)
        if dies:
            raise Killed
        return made

    async def patch(
        self,
        resource: Resource[ObjectT],
        key: Key,
        patch: JsonObject,
        *,
        resource_version: str = "",
        status: bool = False,
    ) -> ObjectT:
        dies = self._before()
        changed = await self._kube.patch(resource, key, patch, resource_version=resource_version, status=status)
        if dies:
            raise Killed
        return changed

    async def delete(self, resource: Resource[ObjectT], key: Key, *, uid: str = "", resource_version: str = "") -> None:
        dies = self._before()
        await self._kube.delete(resource, key, uid=uid, resource_version=resource_version)
        if dies:
            raise Killed

    async def allowed(self, review: AccessReview) -> bool:
        return True


class MountedEverything:
    """A node whose kubelet has mounted every volume."""

    async def find(self, pod_uid: str, folder: str, mode: VolumeMode) -> str:
        return csi_volume_path(pod_uid, folder, mode)


@dataclass
class RestoreCluster:
    """All of it."""

    reclaim_policy: ReclaimPolicy = ReclaimPolicy.DELETE
    binding: BindingMode = BindingMode.IMMEDIATE
    config: AgentConfig = field(default_factory=AgentConfig)
    provisions: bool = True
    binds: bool = True
    deletes: bool = True

    def __post_init__(self) -> None:
        self.clock = VirtualClock()
        self.kube = FakeKube(self.clock, random.Random(7))
        self.storage: set[str] = set()
        """Volumes as the storage has them."""

    async def begin(self, *, mode: VolumeMode = VolumeMode.FILESYSTEM, selected: str = "") -> DataDownload:
        """What the server makes for a restore, and the agent's own DaemonSet."""
        kube = self.kube
        await kube.create(
            STORAGE_CLASSES,
            StorageClass(
                api_version="storage.k8s.io/v1",
                kind="StorageClass",
                metadata=ObjectMeta(name="dir"),
                provisioner=DRIVER,
                reclaim_policy=self.reclaim_policy,
                volume_binding_mode=self.binding,
            ),
        )
        await kube.create(DAEMON_SETS, daemon_set())
        await kube.create(PERSISTENT_VOLUME_CLAIMS, target_claim(mode, selected))
        return await kube.create(DATA_DOWNLOADS, download())

    def exposer(self, *, dies_at: int = 0, after: bool = False, node: str = NODE) -> GenericRestoreExposer:
        """That of an agent that starts now."""
        self.api = MortalApi(self.kube, dies_at=dies_at, after=after)
        return GenericRestoreExposer(
            ExposerSettings(
                api=self.api,
                clock=self.clock,
                node=node,
                namespace=NAMESPACE,
                config=lambda: self.config,
                volumes=MountedEverything(),
                sees_host_pods=True,
            )
        )

    async def step(self) -> None:
        """What Kubernetes does while nobody looks, each part once."""
        for claim in await self.claims():
            await self._serve(claim)
        for volume in await self.volumes():
            await self._reclaim(volume)
        for pod in await self.pods():
            await self._run(pod)

    async def claims(self, namespace: str = "") -> tuple[PersistentVolumeClaim, ...]:
        return (await self.kube.list(PERSISTENT_VOLUME_CLAIMS, namespace)).items

    async def volumes(self) -> tuple[PersistentVolume, ...]:
        return (await self.kube.list(PERSISTENT_VOLUMES)).items

    async def pods(self) -> tuple[Pod, ...]:
        return (await self.kube.list(PODS)).items

    async def _serve(self, claim: PersistentVolumeClaim) -> None:
        uses = any(_claims_of(pod) & {claim.metadata.name} for pod in await self.pods())
        if claim.metadata.deletion_timestamp is not None:
            if not uses:
                await self.kube.patch(PERSISTENT_VOLUME_CLAIMS, claim.key, {"metadata": {"finalizers": []}})
            return
        if not claim.metadata.finalizers:
            await self.kube.patch(PERSISTENT_VOLUME_CLAIMS, claim.key, {"metadata": {"finalizers": [_FINALIZER]}})
        if claim.spec.volume_name:
            await self._bind(claim)
        elif self.provisions and claim.spec.selector is None and (self.binding is BindingMode.IMMEDIATE or uses):
            await self._provision(claim)

    async def _provision(self, claim: PersistentVolumeClaim) -> None:
        name = f"pvc-{claim.metadata.uid}"
        self.storage.add(name)
        reference = ObjectReference(
            kind="PersistentVolumeClaim",
            namespace=claim.metadata.namespace,
            name=claim.metadata.name,
            uid=claim.metadata.uid,
        )
        volume = PersistentVolume(
            api_version="v1",
            kind="PersistentVolume",
            metadata=ObjectMeta(name=name),
            spec=PersistentVolumeSpec(
                storage_class_name="dir",
                volume_mode=claim.spec.volume_mode,
                persistent_volume_reclaim_policy=self.reclaim_policy,
                claim_ref=reference,
                csi=CsiVolumeSource(driver=DRIVER, volume_handle=name),
            ),
        )
        await self.kube.create(PERSISTENT_VOLUMES, volume)
        await self.kube.patch(PERSISTENT_VOLUME_CLAIMS, claim.key, {"spec": {"volumeName": name}})

    async def _bind(self, claim: PersistentVolumeClaim) -> None:
        for volume in await self.volumes():
            reference = volume.spec.claim_ref
            if volume.metadata.name != claim.spec.volume_name or reference is None or not self.binds:
                continue
            if (reference.namespace, reference.name) == claim.key and reference.uid in {"", claim.metadata.uid}:
                uid: JsonObject = {"spec": {"claimRef": {"uid": claim.metadata.uid}}}
                await self.kube.patch(PERSISTENT_VOLUMES, volume.key, uid)
                await self._set_phase(PERSISTENT_VOLUMES, volume.key, "Bound")
                await self._set_phase(PERSISTENT_VOLUME_CLAIMS, claim.key, "Bound")

    async def _reclaim(self, volume: PersistentVolume) -> None:
        reference = volume.spec.claim_ref
        if reference is None or not reference.uid:
            await self._set_phase(PERSISTENT_VOLUMES, volume.key, "Available")
            return
        if any(claim.metadata.uid == reference.uid for claim in await self.claims()):
            return
        await self._set_phase(PERSISTENT_VOLUMES, volume.key, "Released")
        delete = self.deletes and volume.spec.persistent_volume_reclaim_policy is ReclaimPolicy.DELETE
        if delete and volume.status.phase == "Released":
            self.storage.discard(volume.metadata.name)
            await self.kube.delete(PERSISTENT_VOLUMES, volume.key)

    async def _run(self, pod: Pod) -> None:
        attachment = Key("", f"csi-{pod.metadata.uid}")
        if pod.metadata.deletion_timestamp is not None:
            await self.kube.delete(VOLUME_ATTACHMENTS, attachment)
            await self.kube.patch(PODS, pod.key, {"metadata": {"finalizers": []}})
            return
        names = _claims_of(pod)
        bound = [claim for claim in await self.claims(pod.metadata.namespace) if claim.metadata.name in names]
        if pod.spec.node_name or len(bound) < len(names) or any(claim.status.phase != "Bound" for claim in bound):
            return
        node = pod.spec.node_selector.get("kubernetes.io/hostname", NODE)
        source = AttachmentSource(persistent_volume_name=bound[0].spec.volume_name)
        await self.kube.create(
            VOLUME_ATTACHMENTS,
            VolumeAttachment(
                api_version="storage.k8s.io/v1",
                kind="VolumeAttachment",
                metadata=ObjectMeta(name=attachment.name),
                spec=VolumeAttachmentSpec(attacher=DRIVER, node_name=node, source=source),
            ),
        )
        await self.kube.patch(PODS, pod.key, {"metadata": {"finalizers": [_FINALIZER]}, "spec": {"nodeName": node}})
        status = ContainerStatus(name=pod.spec.containers[0].name, state=ContainerState(running=Running()))
        running: JsonObject = {"phase": "Running", "containerStatuses": [msgspec.to_builtins(status)]}
        await self.kube.patch(PODS, pod.key, {"status": running}, status=True)

    async def _set_phase(self, resource: Resource[ObjectT], key: Key, phase: str) -> None:
        await self.kube.patch(resource, key, {"status": {"phase": phase}}, status=True)


def _claims_of(pod: Pod) -> set[str]:
    found = set()
    for volume in pod.spec.volumes:
        source = volume.get("persistentVolumeClaim")
        if isinstance(source, dict):
            found.add(str(source["claimName"]))
    return found


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
        status=DataDownloadStatus(),
    )


def target_claim(mode: VolumeMode = VolumeMode.FILESYSTEM, selected: str = "") -> PersistentVolumeClaim:
    annotations = {"pv.kubernetes.io/bind-completed": "yes", "team": "storage"}
    if selected:
        annotations[_SELECTED_NODE] = selected
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
