"""PodVolumeBackup: a mounted volume of a running pod on its way into the repository (contract §1.4)."""

from __future__ import annotations

import msgspec

from agent.kube.job import Phase, PodReference, Progress
from agent.kube.meta import KubeObject, View
from agent.kube.times import Time


class PodVolumeBackupSpec(View, frozen=True, kw_only=True):
    """Written by the server; the agent only ever sets `cancel`."""

    node: str
    pod: PodReference
    volume: str
    backup_storage_location: str
    repo_identifier: str | msgspec.UnsetType = msgspec.UNSET
    uploader_type: str = ""
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    uploader_settings: dict[str, str] = msgspec.field(default_factory=dict)
    cancel: bool = False
    parent_snapshot: str = ""


class PodVolumeBackupStatus(View, frozen=True, kw_only=True):
    """Written by the agent. Server versions up to 1.16 know neither `accepted_timestamp` nor the phases between."""

    phase: Phase = Phase.EMPTY
    path: str = ""
    snapshot_id: str = msgspec.field(name="snapshotID", default="")
    message: str = ""
    accepted_timestamp: Time | None = None
    start_timestamp: Time | None = None
    completion_timestamp: Time | None = None
    progress: Progress = Progress()
    incremental_bytes: int = 0


class PodVolumeBackup(KubeObject, frozen=True, kw_only=True):
    """A mounted volume of a running pod on its way into the repository."""

    spec: PodVolumeBackupSpec
    status: PodVolumeBackupStatus = PodVolumeBackupStatus()
