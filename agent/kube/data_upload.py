"""DataUpload: a CSI snapshot on its way into the repository (contract §1.2)."""

from __future__ import annotations

import msgspec

from agent.kube.job import NodeOS, Phase, Progress
from agent.kube.meta import KubeObject, View
from agent.kube.times import Time


class CsiSnapshotSpec(View, frozen=True, kw_only=True):
    """The VolumeSnapshot to move; it lies in the source namespace."""

    volume_snapshot: str
    storage_class: str
    snapshot_class: str = ""
    driver: str = ""


class DataUploadSpec(View, frozen=True, kw_only=True):
    """Written by the server; the agent only ever sets `cancel`."""

    snapshot_type: str
    csi_snapshot: CsiSnapshotSpec | None = None
    source_pvc: str = msgspec.field(name="sourcePVC")
    source_namespace: str
    datamover: str = ""
    backup_storage_location: str
    data_mover_config: dict[str, str] = msgspec.field(default_factory=dict)
    cancel: bool = False
    operation_timeout: str
    source_fs_type: str = msgspec.field(name="sourceFSType", default="")
    parent_snapshot: str = ""


class DataUploadStatus(View, frozen=True, kw_only=True):
    """Written by the agent."""

    phase: Phase = Phase.EMPTY
    accepted_by_node: str = ""
    accepted_timestamp: Time | None = None
    node: str = ""
    node_os: NodeOS = msgspec.field(name="nodeOS", default=NodeOS.UNSET)
    start_timestamp: Time | None = None
    completion_timestamp: Time | None = None
    progress: Progress = Progress()
    path: str = ""
    snapshot_id: str = msgspec.field(name="snapshotID", default="")
    data_mover_result: dict[str, str] = msgspec.field(default_factory=dict)
    incremental_bytes: int = 0
    message: str = ""


class DataUpload(KubeObject, frozen=True, kw_only=True):
    """A CSI snapshot on its way into the repository."""

    spec: DataUploadSpec
    status: DataUploadStatus = DataUploadStatus()
