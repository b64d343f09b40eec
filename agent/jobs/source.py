"""What a volume is called in the repository, and what its snapshot says of itself (contract §5.3, §13.1).

The stock agent finds its parents, the server its snapshots by exactly these names; so an agent that takes over goes on
with what the other one began, in either direction.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from agent.base.errors import SnapshotNotFound, SourceNotFound
from agent.kube.data_upload import DataUpload
from agent.kube.names import ASYNC_OPERATION_ID_LABEL, PVC_NAME_ANNOTATION, is_dns_subdomain
from agent.kube.pod_volume_backup import PodVolumeBackup
from agent.movers.spec import GivenParent, NewestParent, NoParent
from agent.snapshots.model import Source

IDENTITY: Final = "default"
"""User and host of every snapshot of Velero's, whoever takes it."""
DESCRIPTION: Final = "Kopia Uploader"
PINS: Final = ("velero-pin",)
REQUESTER_TAG: Final = "snapshot-requester"
UPLOADER_TAG: Final = "snapshot-uploader"
UPLOADER: Final = "kopia"
DATA_MOVER_REQUESTER: Final = "snapshot-data-upload-download"
POD_VOLUME_REQUESTER: Final = "snapshot-pod-volume"

_SNAPSHOT_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)

Parent = NewestParent | GivenParent | NoParent


class Named(msgspec.Struct, frozen=True):
    """A source, and how its snapshot is marked."""

    source: Source
    tags: Mapping[str, str]
    parent: Parent
    warnings: tuple[str, ...] = ()


def of_data_upload(job: DataUpload) -> Named:
    """`<requester>/kopia/<namespace>/<claim>`. Raises `SourceNotFound` for names that no object can have."""
    spec, operation = job.spec, job.metadata.labels.get(ASYNC_OPERATION_ID_LABEL, "")
    tags = _tags(DATA_MOVER_REQUESTER)
    parent, warnings = _parent(spec.parent_snapshot, tags)
    marked = {**tags, ASYNC_OPERATION_ID_LABEL: operation} if operation else tags
    return Named(_source(DATA_MOVER_REQUESTER, spec.source_namespace, spec.source_pvc), marked, parent, warnings)


def of_pod_volume_backup(job: PodVolumeBackup) -> Named:
    """`<requester>/kopia/<namespace>/<pod>/<claim, or volume without one>`. Raises as `of_data_upload`."""
    spec = job.spec
    volume = job.metadata.annotations.get(PVC_NAME_ANNOTATION) or spec.volume
    tags = _tags(POD_VOLUME_REQUESTER)
    parent, warnings = _parent(spec.parent_snapshot, tags)
    return Named(_source(POD_VOLUME_REQUESTER, spec.pod.namespace, spec.pod.name, volume), tags, parent, warnings)


def snapshot_to_restore(snapshot_id: str) -> str:
    """The id as it is given, whole. Raises `SnapshotNotFound` for what is none, also for the start of one."""
    if not _SNAPSHOT_ID.fullmatch(snapshot_id):
        raise SnapshotNotFound(
            f"{snapshot_id[:64]!r} is no id of a snapshot",
            hint="the backup did not complete, or was made by another data mover",
        )
    return snapshot_id


def _source(requester: str, *names: str) -> Source:
    for name in names:
        if not is_dns_subdomain(name):
            raise SourceNotFound(f"{name[:64]!r} cannot be the name of a namespace, pod, claim or volume")
    return Source(host=IDENTITY, user=IDENTITY, path="/".join((requester, UPLOADER, *names)))


def _tags(requester: str) -> dict[str, str]:
    return {REQUESTER_TAG: requester, UPLOADER_TAG: UPLOADER}


def _parent(wanted: str, tags: Mapping[str, str]) -> tuple[Parent, tuple[str, ...]]:
    """`auto` and nothing: the newest complete one with these tags; `none`: no parent; else the id of one (§1.2)."""
    if wanted in ("", "auto"):
        return NewestParent(tags=tags), ()
    if wanted == "none":
        return NoParent(), ()
    if _SNAPSHOT_ID.fullmatch(wanted):
        return GivenParent(snapshot=wanted), ()
    return NoParent(), (f"everything is read: {wanted[:64]!a} is no id of a parent snapshot",)
