"""PodVolumeRestore: files on their way back into a volume of a pod that waits for them (contract §1.5)."""

from __future__ import annotations

import msgspec

from agent.kube.job import Phase, PodReference, Progress
from agent.kube.meta import KubeObject, View
from agent.kube.times import Time


class PodVolumeRestoreSpec(View, frozen=True, kw_only=True):
    """Written by the server; the agent only ever sets `cancel`."""

    pod: PodReference
    volume: str
    backup_storage_location: str
    repo_identifier: str | msgspec.UnsetType = msgspec.UNSET
    uploader_type: str = ""
    snapshot_id: str = msgspec.field(name="snapshotID")
    source_namespace: str
    uploader_settings: dict[str, str] = msgspec.field(default_factory=dict)
    cancel: bool = False
    snapshot_size: int = 0


class PodVolumeRestoreStatus(View, frozen=True, kw_only=True):
    """Written by the agent."""

    phase: Phase = Phase.EMPTY
    node: str = ""
    message: str = ""
    accepted_timestamp: Time | None = None
    start_timestamp: Time | None = None
    completion_timestamp: Time | None = None
    progress: Progress = Progress()


class PodVolumeRestore(KubeObject, frozen=True, kw_only=True):
    """Files on their way back into a volume of a pod that waits for them."""

    spec: PodVolumeRestoreSpec
    status: PodVolumeRestoreStatus = PodVolumeRestoreStatus()
