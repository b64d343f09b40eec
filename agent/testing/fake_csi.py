"""What the rest of a cluster does to the objects of exposers, on any `KubeApi`, in steps and in virtual time.

`FakeCsi.step` lets each of the players look once: the snapshot controller with its sidecar (binds snapshots and
contents, deletes by policy, keeps finalizers), the provisioner and the volume controller (volumes for claims, from
snapshots too; binding, also of volumes that were made for a claim; protection; reclaiming), then scheduler and kubelets
(`fake_nodes`). `storage` is what a driver keeps: a test that ends with something of ours in it has found a leak.

Faults are attributes: a text is what the player says instead of doing its work, and taking it away heals it. Not
here: time that things take (whoever calls `step` decides), attachments, capacity, several drivers.
"""

from __future__ import annotations

import msgspec

from agent.base.clock import Clock
from agent.kube.api import KubeApi
from agent.kube.codec import JsonObject
from agent.kube.meta import Key, ObjectMeta
from agent.kube.pods import NodeRequirement, NodeSelector, NodeSelectorTerm
from agent.kube.resource import (
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    STORAGE_CLASSES,
    VOLUME_SNAPSHOT_CONTENTS,
    VOLUME_SNAPSHOTS,
)
from agent.kube.snapshots import (
    DeletionPolicy,
    VolumeSnapshot,
    VolumeSnapshotContent,
    VolumeSnapshotContentSource,
    VolumeSnapshotContentSpec,
)
from agent.kube.volumes import (
    BindingMode,
    CsiVolumeSource,
    PersistentVolume,
    PersistentVolumeClaim,
    PersistentVolumeSpec,
    ReclaimPolicy,
    StorageClass,
    VolumeNodeAffinity,
)
from agent.testing.fake_nodes import ENDED, SELECTED_NODE, FakeNodes, claims_of
from agent.testing.fake_player import Player, reference_to

DRIVER = "fake.csi.lighterage.test"
ZONE_LABEL = "topology.kubernetes.io/zone"
_SNAPSHOT_FINALIZER = "snapshot.storage.kubernetes.io/volumesnapshot-bound-protection"
_CONTENT_FINALIZER = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"
_BEING_DELETED = "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted"
_BEING_CREATED = "snapshot.storage.kubernetes.io/volumesnapshot-being-created"
_CLAIM_FINALIZER = "kubernetes.io/pvc-protection"
_VOLUME_FINALIZER = "external-provisioner.volume.kubernetes.io/finalizer"


class Storage(msgspec.Struct):
    """What the driver keeps."""

    volumes: set[str] = msgspec.field(default_factory=set)
    """Handles."""
    snapshots: set[str] = msgspec.field(default_factory=set)
    """Handles."""
    made: int = 0

    def new_handle(self, kind: str) -> str:
        """One that was never there before."""
        self.made += 1
        return f"{kind}-{self.made}"


class StorageFaults(msgspec.Struct):
    """What goes wrong. Empty: nothing."""

    snapshot: str = ""
    """Why no VolumeSnapshot becomes ready."""
    snapshot_deletion: str = ""
    """Why the driver deletes no snapshot."""
    provisioning: str = ""
    """Why no claim gets its volume."""
    volume_deletion: str = ""
    """Why the driver deletes no volume."""


class FakeCsi(Player):
    """The cluster around exposers: snapshots and volumes by itself, pods through its `nodes`."""

    def __init__(self, api: KubeApi, clock: Clock) -> None:
        super().__init__(api, clock)
        self.storage = Storage()
        self.faults = StorageFaults()
        self.nodes = FakeNodes(api, clock)

    async def step(self, times: int = 1) -> None:
        """Let everybody look at everything once, or several times."""
        for _ in range(times):
            for snapshot in await self._all(VOLUME_SNAPSHOTS):
                await self._quietly(self._snapshot(snapshot))
            for content in await self._all(VOLUME_SNAPSHOT_CONTENTS):
                await self._quietly(self._content(content))
            for claim in await self._all(PERSISTENT_VOLUME_CLAIMS):
                await self._quietly(self._claim(claim))
            for volume in await self._all(PERSISTENT_VOLUMES):
                await self._quietly(self._volume(volume))
            await self.nodes.step()

    async def add_class(
        self,
        name: str,
        *,
        binding: BindingMode = BindingMode.IMMEDIATE,
        reclaim: ReclaimPolicy = ReclaimPolicy.DELETE,
    ) -> StorageClass:
        """A storage class of this driver."""
        return await self._api.create(
            STORAGE_CLASSES,
            StorageClass(
                api_version=STORAGE_CLASSES.api_version,
                kind="StorageClass",
                metadata=ObjectMeta(name=name),
                provisioner=DRIVER,
                reclaim_policy=reclaim,
                volume_binding_mode=binding,
            ),
        )

    # ---- snapshot controller and sidecar ----

    async def _snapshot(self, snapshot: VolumeSnapshot) -> None:
        content = await self._content_of(snapshot)
        if snapshot.metadata.deletion_timestamp is not None:
            await self._delete_snapshot(snapshot, content)
            return
        snapshot = await self._protect(VOLUME_SNAPSHOTS, snapshot, _SNAPSHOT_FINALIZER)
        if snapshot.status.ready_to_use:
            return
        if self.faults.snapshot:
            told = snapshot.status.error
            if told is None or told.message != self.faults.snapshot:
                error: JsonObject = {"message": self.faults.snapshot, "time": self._now()}
                await self._status(VOLUME_SNAPSHOTS, snapshot, {"readyToUse": False, "error": error})
            return
        if content is None:
            if snapshot.spec.source.persistent_volume_claim_name:
                await self._take_snapshot(snapshot)
            return
        reference = content.spec.volume_snapshot_ref
        if (reference.namespace, reference.name) != snapshot.key or reference.uid not in {"", snapshot.metadata.uid}:
            return
        if not reference.uid:
            patch: JsonObject = {"spec": {"volumeSnapshotRef": {"uid": snapshot.metadata.uid}}}
            await self._api.patch(VOLUME_SNAPSHOT_CONTENTS, content.key, patch)
        status: JsonObject = {
            "boundVolumeSnapshotContentName": content.metadata.name,
            "readyToUse": True,
            "restoreSize": "2Gi",
            "error": None,
        }
        await self._status(VOLUME_SNAPSHOTS, snapshot, status)

    async def _take_snapshot(self, snapshot: VolumeSnapshot) -> None:
        claim_key = Key(snapshot.metadata.namespace, snapshot.spec.source.persistent_volume_claim_name)
        claim = await self._api.get(PERSISTENT_VOLUME_CLAIMS, claim_key)
        handle = self.storage.new_handle("snapshot")
        self.storage.snapshots.add(handle)
        content = VolumeSnapshotContent(
            api_version=VOLUME_SNAPSHOT_CONTENTS.api_version,
            kind="VolumeSnapshotContent",
            metadata=ObjectMeta(
                name=f"snapcontent-{snapshot.metadata.uid}", annotations={_BEING_CREATED: "yes", "driver/key": "kept"}
            ),
            spec=VolumeSnapshotContentSpec(
                driver=DRIVER,
                deletion_policy=DeletionPolicy.DELETE,
                volume_snapshot_class_name=snapshot.spec.volume_snapshot_class_name,
                volume_snapshot_ref=reference_to(snapshot),
                source=VolumeSnapshotContentSource(volume_handle=claim.spec.volume_name),
                source_volume_mode=claim.spec.volume_mode,
            ),
        )
        content = await self._api.create(VOLUME_SNAPSHOT_CONTENTS, content)
        status: JsonObject = {"snapshotHandle": handle, "readyToUse": True, "restoreSize": 2 << 30}
        await self._status(VOLUME_SNAPSHOT_CONTENTS, content, status)

    async def _delete_snapshot(self, snapshot: VolumeSnapshot, content: VolumeSnapshotContent | None) -> None:
        bound = content is not None and content.spec.volume_snapshot_ref.uid == snapshot.metadata.uid
        if content is not None and bound:
            if _BEING_DELETED not in content.metadata.annotations:
                patch: JsonObject = {"metadata": {"annotations": {_BEING_DELETED: "yes"}}}
                await self._api.patch(VOLUME_SNAPSHOT_CONTENTS, content.key, patch)
            if content.spec.deletion_policy is DeletionPolicy.DELETE:
                if content.metadata.deletion_timestamp is None:
                    await self._api.delete(VOLUME_SNAPSHOT_CONTENTS, content.key)
                return
        await self._release(VOLUME_SNAPSHOTS, snapshot)

    async def _content(self, content: VolumeSnapshotContent) -> None:
        reference = content.spec.volume_snapshot_ref
        if content.metadata.deletion_timestamp is None:
            content = await self._protect(VOLUME_SNAPSHOT_CONTENTS, content, _CONTENT_FINALIZER)
            if not content.status.ready_to_use:
                status: JsonObject = {"snapshotHandle": content.spec.source.snapshot_handle, "readyToUse": True}
                await self._status(VOLUME_SNAPSHOT_CONTENTS, content, status)
            return
        if reference.uid and _BEING_DELETED not in content.metadata.annotations:
            return  # also where the snapshot is gone: nobody but its owner may say that the data can go
        if content.spec.deletion_policy is DeletionPolicy.DELETE:
            if self.faults.snapshot_deletion:
                error: JsonObject = {"message": self.faults.snapshot_deletion, "time": self._now()}
                await self._status(VOLUME_SNAPSHOT_CONTENTS, content, {"error": error})
                return
            self.storage.snapshots.discard(content.status.snapshot_handle or content.spec.source.snapshot_handle)
        await self._release(VOLUME_SNAPSHOT_CONTENTS, content)

    async def _content_of(self, snapshot: VolumeSnapshot) -> VolumeSnapshotContent | None:
        named = snapshot.spec.source.volume_snapshot_content_name
        name = named or snapshot.status.bound_volume_snapshot_content_name or f"snapcontent-{snapshot.metadata.uid}"
        return await self._find(VOLUME_SNAPSHOT_CONTENTS, Key("", name))

    # ---- provisioner and volume controller ----

    async def _claim(self, claim: PersistentVolumeClaim) -> None:
        if claim.metadata.deletion_timestamp is not None:
            pods = [pod for pod in await self._all(PODS) if claim.key in claims_of(pod)]
            if all(pod.status.phase in ENDED for pod in pods):
                await self._release(PERSISTENT_VOLUME_CLAIMS, claim)
            return
        claim = await self._protect(PERSISTENT_VOLUME_CLAIMS, claim, _CLAIM_FINALIZER)
        if claim.status.phase == "Bound":
            return
        if claim.spec.volume_name:
            await self._bind(claim, await self._find(PERSISTENT_VOLUMES, Key("", claim.spec.volume_name)))
            return
        if claim.status.phase != "Pending":
            claim = await self._status(PERSISTENT_VOLUME_CLAIMS, claim, {"phase": "Pending"})
        storage_class = await self._find(STORAGE_CLASSES, Key("", claim.spec.storage_class_name or ""))
        if (
            storage_class is not None
            and claim.spec.selector is None
            and await self._may_provision(claim, storage_class)
        ):
            await self._provision(claim, storage_class, claim.metadata.annotations.get(SELECTED_NODE, ""))

    async def _may_provision(self, claim: PersistentVolumeClaim, storage_class: StorageClass) -> bool:
        late = storage_class.volume_binding_mode is BindingMode.WAIT_FOR_FIRST_CONSUMER
        if late and SELECTED_NODE not in claim.metadata.annotations:
            return False
        trouble, source = self.faults.provisioning, claim.spec.data_source
        if source is not None and not trouble:
            snapshot = await self._find(VOLUME_SNAPSHOTS, Key(claim.metadata.namespace, source.name))
            if snapshot is None or not snapshot.status.ready_to_use:
                trouble = f"snapshot {source.name} is not Ready"
        if trouble:
            await self._say(claim, "ProvisioningFailed", trouble)
        return not trouble

    async def _provision(self, claim: PersistentVolumeClaim, storage_class: StorageClass, node_name: str) -> None:
        node = await self._find(NODES, Key("", node_name)) if node_name else None
        zone = node.metadata.labels.get(ZONE_LABEL, "") if node is not None else ""
        handle = self.storage.new_handle("volume")
        self.storage.volumes.add(handle)
        volume = PersistentVolume(
            api_version="v1",
            kind="PersistentVolume",
            metadata=ObjectMeta(name=f"pvc-{claim.metadata.uid}", finalizers=(_VOLUME_FINALIZER,)),
            spec=PersistentVolumeSpec(
                capacity=dict(claim.spec.resources.requests),
                access_modes=claim.spec.access_modes,
                storage_class_name=storage_class.metadata.name,
                volume_mode=claim.spec.volume_mode,
                persistent_volume_reclaim_policy=storage_class.reclaim_policy,
                claim_ref=reference_to(claim),
                csi=CsiVolumeSource(driver=DRIVER, volume_handle=handle),
                node_affinity=VolumeNodeAffinity(required=in_zone(zone)) if zone else None,
            ),
        )
        await self._bind(claim, await self._api.create(PERSISTENT_VOLUMES, volume))

    async def _bind(self, claim: PersistentVolumeClaim, volume: PersistentVolume | None) -> None:
        reference = volume.spec.claim_ref if volume is not None else None
        if volume is None or reference is None or (reference.namespace, reference.name) != claim.key:
            return
        if reference.uid not in {"", claim.metadata.uid}:
            return
        patch: JsonObject = {"spec": {"claimRef": {"uid": claim.metadata.uid}}}
        volume = await self._api.patch(PERSISTENT_VOLUMES, volume.key, patch)
        await self._status(PERSISTENT_VOLUMES, volume, {"phase": "Bound"})
        annotations: JsonObject = {"pv.kubernetes.io/bind-completed": "yes"}
        claim = await self._api.patch(
            PERSISTENT_VOLUME_CLAIMS,
            claim.key,
            {"metadata": {"annotations": annotations}, "spec": {"volumeName": volume.metadata.name}},
        )
        status: JsonObject = {"phase": "Bound", "capacity": {**volume.spec.capacity}}
        await self._status(PERSISTENT_VOLUME_CLAIMS, claim, status)

    async def _volume(self, volume: PersistentVolume) -> None:
        if volume.metadata.deletion_timestamp is not None:
            if self.faults.volume_deletion:
                await self._say(volume, "VolumeFailedDelete", self.faults.volume_deletion)
                return
            if volume.spec.csi is not None and volume.spec.persistent_volume_reclaim_policy is ReclaimPolicy.DELETE:
                self.storage.volumes.discard(volume.spec.csi.volume_handle)
            await self._release(PERSISTENT_VOLUMES, volume)
            return
        reference = volume.spec.claim_ref
        if reference is None:
            if volume.status.phase != "Available":
                await self._status(PERSISTENT_VOLUMES, volume, {"phase": "Available"})
            return
        claim = await self._find(PERSISTENT_VOLUME_CLAIMS, Key(reference.namespace, reference.name))
        if not reference.uid or (claim is not None and claim.metadata.uid == reference.uid):
            return
        if volume.status.phase != "Released":
            await self._status(PERSISTENT_VOLUMES, volume, {"phase": "Released"})
        if volume.spec.persistent_volume_reclaim_policy is ReclaimPolicy.DELETE:
            await self._api.delete(PERSISTENT_VOLUMES, volume.key)


def in_zone(zone: str) -> NodeSelector:
    """The nodes of a zone."""
    requirement = NodeRequirement(key=ZONE_LABEL, operator="In", values=(zone,))
    return NodeSelector(node_selector_terms=(NodeSelectorTerm(match_expressions=(requirement,)),))
