"""The claim whose volume is made from a snapshot (contract §3.1, steps 1, 7 and 8), and its way out with its volume."""

from __future__ import annotations

from dataclasses import dataclass

from agent.base.errors import ExposeUnsupported, ProvisioningFailed, SourceGone
from agent.exposers.hosting_pod import owner_of
from agent.exposers.made import find, is_made_for, made_for, request_removal
from agent.exposers.settings import ExposerSettings
from agent.exposers.snapshot_handover import handle_of
from agent.exposers.snapshot_record import SourceRecord
from agent.kube.agent_config import BackupPVC
from agent.kube.api import KubeApi
from agent.kube.data_upload import DataUpload
from agent.kube.meta import Key, ObjectMeta
from agent.kube.pods import NodeSelector
from agent.kube.quantities import parse_bytes
from agent.kube.resource import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, STORAGE_CLASSES
from agent.kube.selector import Selector
from agent.kube.snapshots import VolumeSnapshot, VolumeSnapshotContent
from agent.kube.volumes import (
    BindingMode,
    DataSource,
    PersistentVolume,
    PersistentVolumeClaim,
    PersistentVolumeClaimSpec,
    ReclaimPolicy,
    ResourceRequests,
    StorageClass,
    VolumeMode,
)

_SNAPSHOT_GROUP = "snapshot.storage.k8s.io"
_FS_TYPE_PARAMETERS = ("csi.storage.k8s.io/fstype", "fstype")
_WINDOWS_FILE_SYSTEMS = frozenset({"ntfs"})


@dataclass(frozen=True, slots=True)
class ClaimPlan:
    """How the claim of one upload is made, by the configuration as it is now."""

    storage_class: str
    """After mapping; empty: the cluster's default."""
    mapping: BackupPVC
    topology: NodeSelector | None
    """From which nodes its volume will be reachable, where only the scheduler's choice decides that."""


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
        topology = None
        if storage_class is not None and storage_class.volume_binding_mode is BindingMode.WAIT_FOR_FIRST_CONSUMER:
            topology = await self._source_topology(job)
        return ClaimPlan(name, mapping, topology)

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
        if claim is not None:
            mode = claim.spec.volume_mode
        else:
            mode = VolumeMode(content.spec.source_volume_mode or VolumeMode.FILESYSTEM)
        return SourceRecord(
            content=content.metadata.name,
            handle=handle_of(content),
            size=size,
            mode=mode,
            secrets=plan.mapping.secret_names,
            config_maps=plan.mapping.config_map_names,
        )

    async def volume_of(self, claim: PersistentVolumeClaim) -> PersistentVolume | None:
        """The claim's volume, also one that was made for it and is not bound to it yet."""
        name = claim.spec.volume_name or f"pvc-{claim.metadata.uid}"  # the provisioners' own rule
        volume = await find(self._api, PERSISTENT_VOLUMES, Key("", name))
        reference = volume.spec.claim_ref if volume is not None else None
        return volume if reference is not None and reference.uid == claim.metadata.uid else None

    async def remove(self, job: DataUpload, claim: PersistentVolumeClaim | None) -> bool:
        """Remove the claim and its volume, whatever its class says of volumes; whether both are gone."""
        if claim is not None and is_made_for(claim, job):
            volume = await self.volume_of(claim)
            if volume is not None:
                await _doom(self._api, job, volume)
            await request_removal(self._api, PERSISTENT_VOLUME_CLAIMS, claim, unchanged=True)
            return False
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

    async def _source_topology(self, job: DataUpload) -> NodeSelector | None:
        claim = await find(self._api, PERSISTENT_VOLUME_CLAIMS, Key(job.spec.source_namespace, job.spec.source_pvc))
        name = claim.spec.volume_name if claim is not None else ""
        volume = await find(self._api, PERSISTENT_VOLUMES, Key("", name)) if name else None
        affinity = volume.spec.node_affinity if volume is not None else None
        return affinity.required if affinity is not None else None


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


async def _doom(api: KubeApi, job: DataUpload, volume: PersistentVolume) -> None:
    """Mark a volume as the job's, so that it is found when its claim is gone, and let it go with its claim."""
    meta, labels = volume.metadata, made_for(job)
    policy = volume.spec.persistent_volume_reclaim_policy
    if labels.items() <= meta.labels.items() and policy is ReclaimPolicy.DELETE:
        return
    await api.patch(
        PERSISTENT_VOLUMES,
        volume.key,
        {
            "metadata": {"labels": {**labels}},
            "spec": {"persistentVolumeReclaimPolicy": ReclaimPolicy.DELETE.value},
        },
        resource_version=meta.resource_version,
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
