"""DataDownload: a volume on its way back from the repository (contract §1.3)."""

from __future__ import annotations

import msgspec

from agent.kube.job import NodeOS, Phase, Progress
from agent.kube.meta import KubeObject, View
from agent.kube.times import Time


class TargetVolume(View, frozen=True, kw_only=True):
    """The claim to fill; `pv` is left empty by the server."""

    pvc: str
    pv: str | msgspec.UnsetType = msgspec.UNSET
    namespace: str
    fs_type: str = ""


class DataDownloadSpec(View, frozen=True, kw_only=True):
    """Written by the server; the agent only ever sets `cancel`."""

    target_volume: TargetVolume
    backup_storage_location: str
    datamover: str = ""
    snapshot_id: str = msgspec.field(name="snapshotID")
    source_namespace: str
    data_mover_config: dict[str, str] = msgspec.field(default_factory=dict)
    cancel: bool = False
    operation_timeout: str
    node_os: NodeOS = msgspec.field(name="nodeOS", default=NodeOS.UNSET)
    snapshot_size: int = 0


class DataDownloadStatus(View, frozen=True, kw_only=True):
    """Written by the agent."""

    phase: Phase = Phase.EMPTY
    accepted_by_node: str = ""
    accepted_timestamp: Time | None = None
    node: str = ""
    start_timestamp: Time | None = None
    completion_timestamp: Time | None = None
    progress: Progress = Progress()
    message: str = ""


class DataDownload(KubeObject, frozen=True, kw_only=True):
    """A volume on its way back from the repository."""

    spec: DataDownloadSpec
    status: DataDownloadStatus = DataDownloadStatus()
