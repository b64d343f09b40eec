"""Claims, volumes, classes, attachments and CSI drivers, as far as exposers read and write them."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from agent.kube.meta import KubeObject, View
from agent.kube.pods import Condition, NodeSelector, Opaque
from agent.kube.times import Time


class VolumeMode(StrEnum):
    """How a volume is given to a container. Absent means `FILESYSTEM`."""

    FILESYSTEM = "Filesystem"
    BLOCK = "Block"


class ReclaimPolicy(StrEnum):
    """What becomes of a volume without a claim."""

    RETAIN = "Retain"
    DELETE = "Delete"
    RECYCLE = "Recycle"


class BindingMode(StrEnum):
    """When a claim of a class gets its volume."""

    IMMEDIATE = "Immediate"
    WAIT_FOR_FIRST_CONSUMER = "WaitForFirstConsumer"


class ObjectReference(View, frozen=True, kw_only=True):
    """Another object."""

    api_version: str = ""
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    resource_version: str = ""


class DataSource(View, frozen=True, kw_only=True):
    """What a claim is filled from: a VolumeSnapshot of the same namespace."""

    api_group: str | None = None
    kind: str
    name: str


class LabelSelector(View, frozen=True, kw_only=True):
    """Which volumes a claim may be bound to."""

    match_labels: dict[str, str] = msgspec.field(default_factory=dict)
    match_expressions: tuple[Opaque, ...] = ()


class ResourceRequests(View, frozen=True, kw_only=True):
    """Quantities by resource (`storage`)."""

    requests: dict[str, str] = msgspec.field(default_factory=dict)
    limits: dict[str, str] = msgspec.field(default_factory=dict)


class PersistentVolumeClaimSpec(View, frozen=True, kw_only=True):
    """What is wanted."""

    access_modes: tuple[str, ...] = ()
    storage_class_name: str | None = None
    volume_mode: VolumeMode = VolumeMode.FILESYSTEM
    volume_name: str = ""
    resources: ResourceRequests = ResourceRequests()
    selector: LabelSelector | None = None
    data_source: DataSource | None = None


class PersistentVolumeClaimStatus(View, frozen=True, kw_only=True):
    """What there is. `phase` is Pending, Bound or Lost."""

    phase: str = ""
    capacity: dict[str, str] = msgspec.field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()


class PersistentVolumeClaim(KubeObject, frozen=True, kw_only=True):
    """A claim on a volume."""

    spec: PersistentVolumeClaimSpec = PersistentVolumeClaimSpec()
    status: PersistentVolumeClaimStatus = PersistentVolumeClaimStatus()


class CsiVolumeSource(View, frozen=True, kw_only=True):
    """A volume as its CSI driver knows it."""

    driver: str
    volume_handle: str
    fs_type: str = ""
    read_only: bool = False
    volume_attributes: dict[str, str] = msgspec.field(default_factory=dict)


class VolumeNodeAffinity(View, frozen=True, kw_only=True):
    """From which nodes a volume can be reached."""

    required: NodeSelector | None = None


class PersistentVolumeSpec(View, frozen=True, kw_only=True):
    """A volume."""

    capacity: dict[str, str] = msgspec.field(default_factory=dict)
    access_modes: tuple[str, ...] = ()
    storage_class_name: str = ""
    volume_mode: VolumeMode = VolumeMode.FILESYSTEM
    persistent_volume_reclaim_policy: ReclaimPolicy = ReclaimPolicy.RETAIN
    claim_ref: ObjectReference | None = None
    csi: CsiVolumeSource | None = None
    host_path: Opaque | None = None
    local: Opaque | None = None
    nfs: Opaque | None = None
    node_affinity: VolumeNodeAffinity | None = None
    mount_options: tuple[str, ...] = ()


class PersistentVolumeStatus(View, frozen=True, kw_only=True):
    """`phase` is Pending, Available, Bound, Released or Failed."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    last_phase_transition_time: Time | None = None


class PersistentVolume(KubeObject, frozen=True, kw_only=True):
    """A volume of the cluster."""

    spec: PersistentVolumeSpec = PersistentVolumeSpec()
    status: PersistentVolumeStatus = PersistentVolumeStatus()


class StorageClass(KubeObject, frozen=True, kw_only=True):
    """How volumes are made."""

    provisioner: str = ""
    parameters: dict[str, str] = msgspec.field(default_factory=dict)
    reclaim_policy: ReclaimPolicy = ReclaimPolicy.DELETE
    volume_binding_mode: BindingMode = BindingMode.IMMEDIATE


class AttachmentSource(View, frozen=True, kw_only=True):
    """What is attached."""

    persistent_volume_name: str = ""


class VolumeAttachmentSpec(View, frozen=True, kw_only=True):
    """Which volume at which node."""

    attacher: str = ""
    node_name: str = ""
    source: AttachmentSource = AttachmentSource()


class VolumeAttachment(KubeObject, frozen=True, kw_only=True):
    """A volume attached to a node."""

    spec: VolumeAttachmentSpec = VolumeAttachmentSpec()


class CSIDriver(KubeObject, frozen=True, kw_only=True):
    """An installed CSI driver."""
