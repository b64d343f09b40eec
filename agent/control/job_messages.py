"""Jobs as messages, and what callers say of jobs as values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from agent.base.errors import UsageError
from agent.control.contract import JobState
from agent.control.v1 import jobs_pb2 as pb
from agent.kube.job import Phase
from agent.movers.spec import Progress

KINDS: Final[Mapping[pb.JobKind.ValueType, str]] = {
    pb.JOB_KIND_DATA_UPLOAD: "DataUpload",
    pb.JOB_KIND_DATA_DOWNLOAD: "DataDownload",
    pb.JOB_KIND_POD_VOLUME_BACKUP: "PodVolumeBackup",
    pb.JOB_KIND_POD_VOLUME_RESTORE: "PodVolumeRestore",
}
KIND_NUMBERS: Final = {name: number for number, name in KINDS.items()}
PHASES: Final[Mapping[Phase, pb.JobPhase.ValueType]] = {
    Phase.EMPTY: pb.JOB_PHASE_NEW,
    Phase.NEW: pb.JOB_PHASE_NEW,
    Phase.ACCEPTED: pb.JOB_PHASE_ACCEPTED,
    Phase.PREPARED: pb.JOB_PHASE_PREPARED,
    Phase.IN_PROGRESS: pb.JOB_PHASE_IN_PROGRESS,
    Phase.CANCELING: pb.JOB_PHASE_CANCELING,
    Phase.CANCELED: pb.JOB_PHASE_CANCELED,
    Phase.COMPLETED: pb.JOB_PHASE_COMPLETED,
    Phase.FAILED: pb.JOB_PHASE_FAILED,
}


def kind_and_name(given: pb.JobId) -> tuple[str, str]:
    """Which job is meant. Raises `UsageError`."""
    if given.kind not in KINDS or not given.name:
        raise UsageError("an id holds a kind and a name")
    return KINDS[given.kind], given.name


def job_message(state: JobState) -> pb.Job:
    """A job as callers see it."""
    job = pb.Job(
        id=pb.JobId(kind=KIND_NUMBERS[state.kind], name=state.name),
        uid=state.uid,
        phase=PHASES[state.phase],
        node=state.node,
        volume_namespace=state.volume_namespace,
        volume=state.volume,
        storage_location=state.storage_location,
        snapshot_id=state.snapshot_id,
        message=state.message,
        waiting_for=state.waiting_for,
        cancel_requested=state.canceled,
        paused=state.paused,
        progress=progress_message(state.progress),
    )
    for field, moment in (
        (job.create_time, state.created),
        (job.start_time, state.started),
        (job.end_time, state.ended),
    ):
        _set_time(field, moment)
    return job


def progress_message(progress: Progress) -> pb.JobProgress:
    """How far something is, as callers see it."""
    return pb.JobProgress(
        bytes_done=progress.bytes_done,
        bytes_total=progress.bytes_total,
        files_done=progress.files_done,
        files_total=progress.files_total,
        bytes_cached=progress.bytes_cached,
        errors=progress.errors,
        current=progress.current,
    )


def _set_time(field: Timestamp, moment: datetime | None) -> None:
    if moment is not None:
        field.FromDatetime(moment)
