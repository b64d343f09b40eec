"""VolumeSnapshots, their contents and classes (snapshot.storage.k8s.io/v1)."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from agent.kube.meta import KubeObject, View
from agent.kube.times import Time
from agent.kube.volumes import ObjectReference


class DeletionPolicy(StrEnum):
    """What becomes of the storage's snapshot when its content object goes."""

    DELETE = "Delete"
    RETAIN = "Retain"


class VolumeSnapshotError(View, frozen=True, kw_only=True):
    """What the driver or the controller last said."""

    time: Time | None = None
    message: str = ""


class VolumeSnapshotSource(View, frozen=True, kw_only=True):
    """One of the two."""

    persistent_volume_claim_name: str = ""
    volume_snapshot_content_name: str = ""


class VolumeSnapshotSpec(View, frozen=True, kw_only=True):
    """What is wanted."""

    source: VolumeSnapshotSource = VolumeSnapshotSource()
    volume_snapshot_class_name: str | None = None


class VolumeSnapshotStatus(View, frozen=True, kw_only=True):
    """What there is."""

    bound_volume_snapshot_content_name: str = ""
    ready_to_use: bool = False
    restore_size: str | None = None
    creation_time: Time | None = None
    error: VolumeSnapshotError | None = None


class VolumeSnapshot(KubeObject, frozen=True, kw_only=True):
    """A snapshot as a namespace sees it."""

    spec: VolumeSnapshotSpec = VolumeSnapshotSpec()
    status: VolumeSnapshotStatus = VolumeSnapshotStatus()


class VolumeSnapshotContentSource(View, frozen=True, kw_only=True):
    """One of the two."""

    snapshot_handle: str = ""
    volume_handle: str = ""


class VolumeSnapshotContentSpec(View, frozen=True, kw_only=True):
    """A snapshot of the storage."""

    driver: str
    deletion_policy: DeletionPolicy
    volume_snapshot_class_name: str | None = None
    volume_snapshot_ref: ObjectReference = ObjectReference()
    source: VolumeSnapshotContentSource = VolumeSnapshotContentSource()
    source_volume_mode: str | None = None


class VolumeSnapshotContentStatus(View, frozen=True, kw_only=True):
    """What the driver says."""

    snapshot_handle: str | None = None
    ready_to_use: bool = False
    restore_size: int | None = None
    error: VolumeSnapshotError | None = None


class VolumeSnapshotContent(KubeObject, frozen=True, kw_only=True):
    """A snapshot as the cluster sees it."""

    spec: VolumeSnapshotContentSpec
    status: VolumeSnapshotContentStatus = VolumeSnapshotContentStatus()


class VolumeSnapshotClass(KubeObject, frozen=True, kw_only=True):
    """How snapshots are made."""

    driver: str
    deletion_policy: DeletionPolicy
    parameters: dict[str, str] = msgspec.field(default_factory=dict)
