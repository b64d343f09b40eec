"""The four kinds of objects as one: what the state machine reads and writes of them (contract §1.2–§1.5)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final, TypeAlias, TypeVar

import msgspec

from agent.kube.data_download import DataDownload
from agent.kube.data_upload import DataUpload
from agent.kube.job import Phase
from agent.kube.meta import ObjectMeta
from agent.kube.names import EXPOSE_ON_GOING_LABEL
from agent.kube.pod_volume_backup import PodVolumeBackup
from agent.kube.pod_volume_restore import PodVolumeRestore

Job: TypeAlias = DataUpload | DataDownload | PodVolumeBackup | PodVolumeRestore
JobT = TypeVar("JobT", bound=Job)

MOVED_ANNOTATION: Final = "lighterage.io/moved"
"""What a job whose data is moved came to, until its phase is final: a restarted agent goes on from there."""
WAITING_ANNOTATION: Final = "lighterage.io/waiting-for"
"""What an object that is not running yet waits for."""
TRACE_ANNOTATION: Final = "lighterage.io/traceparent"
"""The trace of the object, in the form of W3C, from when an agent took it; only where traces are sent."""
SINCE_ANNOTATION: Final = "lighterage.io/phase-since"
"""When its phase began, in nanoseconds since 1970, for the span of that phase, until it is final."""

PAUSED_ANNOTATION: Final = "lighterage.io/paused"
"""`true` while the data of the object is to stand still. Anybody who may write the object may set it."""
_PAUSED: Final = "true"


def with_status(job: JobT, **changes: object) -> JobT:
    """The object with these fields of its status changed; fields that this kind does not have are left out."""
    known = {name: value for name, value in changes.items() if name in type(job.status).__struct_fields__}
    return msgspec.structs.replace(job, status=msgspec.structs.replace(job.status, **known))


def with_metadata(
    job: JobT,
    *,
    labels: Mapping[str, str | None] | None = None,
    annotations: Mapping[str, str | None] | None = None,
    finalizers: tuple[str, ...] | None = None,
) -> JobT:
    """The object with labels and annotations set, or removed where None is given."""
    old = job.metadata
    metadata: ObjectMeta = msgspec.structs.replace(
        old,
        labels=_merged(old.labels, labels or {}),
        annotations=_merged(old.annotations, annotations or {}),
        finalizers=old.finalizers if finalizers is None else finalizers,
    )
    return msgspec.structs.replace(job, metadata=metadata)


def with_exposing(job: JobT, exposing: bool) -> JobT:
    """The object counted, or not, among those being exposed in the namespace."""
    return with_metadata(job, labels={EXPOSE_ON_GOING_LABEL: "true" if exposing else None})


def with_finalizer(job: JobT, finalizer: str) -> JobT:
    """The object kept until our finalizer is taken away; one that is being deleted takes no new ones."""
    if is_deleted(job) or finalizer in job.metadata.finalizers:
        return job
    return with_metadata(job, finalizers=(*job.metadata.finalizers, finalizer))


def without_finalizer(job: JobT, finalizer: str) -> JobT:
    """The object no longer kept by us."""
    return with_metadata(job, finalizers=tuple(name for name in job.metadata.finalizers if name != finalizer))


def is_exposing(job: Job) -> bool:
    """Whether the object counts toward the prepare queue."""
    return job.metadata.labels.get(EXPOSE_ON_GOING_LABEL) == "true"


def is_deleted(job: Job) -> bool:
    """Whether somebody deleted the object, and only finalizers keep it."""
    return job.metadata.deletion_timestamp is not None


def is_canceled(job: Job) -> bool:
    """Whether the object is to end as soon as possible."""
    return job.spec.cancel or is_deleted(job)


def is_paused(job: Job) -> bool:
    """Whether its data is to stand still; what is to end is not held up by that, and any other value says no."""
    if is_canceled(job) or job.status.phase.is_final or job.status.phase is Phase.CANCELING:
        return False
    return job.metadata.annotations.get(PAUSED_ANNOTATION) == _PAUSED


def pause_annotation(paused: bool) -> dict[str, str | None]:
    """The change of annotations that pauses an object, or lets it go on."""
    return {PAUSED_ANNOTATION: _PAUSED if paused else None}


def accepted_at(job: Job) -> datetime | None:
    """When it was accepted; for servers that do not keep that, when it was created."""
    return job.status.accepted_timestamp or job.metadata.creation_timestamp


def _merged(old: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    merged = {**old, **changes}
    return {name: value for name, value in merged.items() if value is not None}
