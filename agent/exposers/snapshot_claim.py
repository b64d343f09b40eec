"""The claim whose volume is made from a snapshot (contract §3.1, steps 1, 7 and 8), and its way out with its volume."""

from __future__ import annotations

import msgspec

from agent.base.errors import ExposeUnsupported, ProvisioningFailed, SourceGone
from agent.exposers.discard import throw_away
from agent.exposers.hosting_pod import owner_of
from agent.exposers.made import every, find, is_made_for, made_for
from agent.exposers.settings import ExposerSettings
from agent.exposers.snapshot_handover import handle_of
from agent.exposers.snapshot_record import SourceRecord
from agent.kube.agent_config import BackupPVC
from agent.kube.data_upload import DataUpload
from agent.kube.meta import Key, ObjectMeta
from agent.kube.pods import NodeSelector
from agent.kube.quantities import parse_bytes
from agent.kube.resource import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, STORAGE_CLASSES, VOLUME_ATTACHMENTS
from agent.kube.selector import Selector
from agent.kube.snapshots import VolumeSnapshot, VolumeSnapshotContent
from agent.kube.volumes import (
    BindingMode,
    DataSource,
    PersistentVolume,
    PersistentVolumeClaim,
    PersistentVolumeClaimSpec,
    ResourceRequests,
    StorageClass,
    VolumeMode,
)

_LATE = BindingMode.WAIT_FOR_FIRST_CONSUMER
_SNAPSHOT_GROUP = "snapshot.storage.k8s.io"
_LINKED_CLONE_ANNOTATION = "csi.vsphere.volume/fast-provisioning"
_FS_TYPE_PARAMETERS = ("csi.storage.k8s.io/fstype", "fstype")
_WINDOWS_FILE_SYSTEMS = frozenset({"ntfs"})


class ClaimPlan(msgspec.Struct, frozen=True):
    """How the claim of one upload is made, by the configuration as it is now."""

    storage_class: str
    """After mapping; empty: the cluster's default."""
    mapping: BackupPVC
    topology: NodeSelector | None
    """From which nodes its volume will be reachable, where only the scheduler's choice decides that."""
    avoid_nodes: tuple[str, ...] = ()
    """Where its volume cannot be attached: a linked clone of vSphere not where its source is."""


class SnapshotClaims:
    """The claims of uploads."""

    def __init__(self, settings: ExposerSettings) -> None:
        self._api = settings.api
        self._config = settings.config

    async def plan(self, job: DataUpload) -> ClaimPlan:
        """How its claim and pod are to be made; `ExposeUnsupported`, `ProvisioningFailed`."""
        source_class = job.spec.csi_snapshot.storage_class if job.spec.csi_snapshot is not None else ""
        mapping = self._config().backup_pvc.get(source_class, BackupPVC())
        name = mapping.storage_class or source_class
        storage_class = await self._class(name)
        if storage_class is not None:
            _check_file_system(job, storage_class)
        late = storage_class is not None and storage_class.volume_binding_mode is _LATE
        linked = mapping.annotations.get(_LINKED_CLONE_ANNOTATION) == "true"
        source = await self._source_volume(job) if late or linked else None
        topology = None
        if late:
            affinity = source.spec.node_affinity if source is not None else None
            topology = affinity.required if affinity is not None else None
        avoided = await self._nodes_of(source) if linked and source is not None else ()
        return ClaimPlan(name, mapping, topology, avoided)

    async def record(
        self, job: DataUpload, plan: ClaimPlan, snapshot: VolumeSnapshot, content: VolumeSnapshotContent
    ) -> SourceRecord:
        """What has to be known of the source once it is gone; `SourceGone` when nothing says how large it is."""
        claim = await find(self._api, PERSISTENT_VOLUME_CLAIMS, Key(job.spec.source_namespace, job.spec.source_pvc))
        requested = claim.spec.resources.requests.get("storage", "") if claim is not None else ""
        size = next((text for text in (snapshot.status.restore_size or "", requested) if _is_size(text)), "")
        if not size:
            claim_name = job.spec.source_pvc
            raise SourceGone(f"neither the VolumeSnapshot {snapshot.key} nor the claim {claim_name} tells a size")
        told = content.spec.source_volume_mode or (claim.spec.volume_mode if claim is not None else "")
        return SourceRecord(
            content=content.metadata.name,
            handle=handle_of(content),
            size=size,
            mode=VolumeMode.BLOCK if told == VolumeMode.BLOCK else VolumeMode.FILESYSTEM,
            secrets=plan.mapping.secret_names,
            config_maps=plan.mapping.config_map_names,
        )

    async def remove(self, job: DataUpload, claim: PersistentVolumeClaim | None) -> bool:
        """Remove the claim and its volume, whatever its class says of volumes; whether there is no claim any more."""
        if claim is None or not is_made_for(claim, job):
            return True
        await throw_away(self._api, claim, made_for(job))
        return False

    async def is_volume_gone(self, job: DataUpload) -> bool:
        """Whether nothing is left of a volume that outlives its claim."""
        left = await self._api.list(PERSISTENT_VOLUMES, selector=Selector(labels=made_for(job)))
        return not left.items

    async def _class(self, name: str) -> StorageClass | None:
        if not name:
            return None
        found = await find(self._api, STORAGE_CLASSES, Key("", name))
        if found is None:
            raise ProvisioningFailed(
                f"the storage class {name} does not exist",
                hint="create it, or name another one for this class in backupPVC of the agent's configuration",
            )
        return found

    async def _source_volume(self, job: DataUpload) -> PersistentVolume | None:
        claim = await find(self._api, PERSISTENT_VOLUME_CLAIMS, Key(job.spec.source_namespace, job.spec.source_pvc))
        name = claim.spec.volume_name if claim is not None else ""
        return await find(self._api, PERSISTENT_VOLUMES, Key("", name)) if name else None

    async def _nodes_of(self, volume: PersistentVolume) -> tuple[str, ...]:
        nodes = set()
        async for attachment in every(self._api, VOLUME_ATTACHMENTS):
            if attachment.spec.source.persistent_volume_name == volume.metadata.name:
                nodes.add(attachment.spec.node_name)
        return tuple(sorted(nodes))


def snapshot_claim(job: DataUpload, plan: ClaimPlan, record: SourceRecord) -> PersistentVolumeClaim:
    """The claim as it is created."""
    return PersistentVolumeClaim(
        api_version="v1",
        kind="PersistentVolumeClaim",
        metadata=ObjectMeta(
            name=job.metadata.name,
            namespace=job.metadata.namespace,
            labels=made_for(job),
            annotations=dict(plan.mapping.annotations),
            owner_references=(owner_of(job),),
        ),
        spec=PersistentVolumeClaimSpec(
            access_modes=("ReadOnlyMany" if plan.mapping.read_only else "ReadWriteOnce",),
            storage_class_name=plan.storage_class or None,
            volume_mode=record.mode,
            resources=ResourceRequests(requests={"storage": record.size}),
            data_source=DataSource(api_group=_SNAPSHOT_GROUP, kind="VolumeSnapshot", name=job.metadata.name),
        ),
    )


def _check_file_system(job: DataUpload, storage_class: StorageClass) -> None:
    named = {job.spec.source_fs_type.lower()}
    named |= {storage_class.parameters.get(parameter, "").lower() for parameter in _FS_TYPE_PARAMETERS}
    if named & _WINDOWS_FILE_SYSTEMS:
        raise ExposeUnsupported(
            f"the volume {job.spec.source_namespace}/{job.spec.source_pvc} has a file system of Windows",
            hint="this agent reads volumes on Linux nodes only",
        )


def _is_size(text: str) -> bool:
    try:
        return parse_bytes(text) > 0
    except ValueError:
        return False
