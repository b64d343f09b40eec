"""A job as the commands of `lighter agent` take and print it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from agent.base.errors import UsageError

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from agent.control.v1 import jobs_pb2

FINAL = ("Completed", "Failed", "Canceled")
_KINDS = {
    "dataupload": "DATA_UPLOAD",
    "du": "DATA_UPLOAD",
    "datadownload": "DATA_DOWNLOAD",
    "dd": "DATA_DOWNLOAD",
    "podvolumebackup": "POD_VOLUME_BACKUP",
    "pvb": "POD_VOLUME_BACKUP",
    "podvolumerestore": "POD_VOLUME_RESTORE",
    "pvr": "POD_VOLUME_RESTORE",
}


class JobInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One object that agents work on."""

    kind: Annotated[str, msgspec.Meta(description="DataUpload, DataDownload, PodVolumeBackup, PodVolumeRestore")]
    name: str
    uid: str
    phase: Annotated[str, msgspec.Meta(description="as in the object; New while it has none")]
    node: Annotated[str, msgspec.Meta(description="whose agent works on it; empty while nobody's does")]
    volume_namespace: str
    volume: Annotated[str, msgspec.Meta(description="a claim, or pod/volume")]
    storage_location: str
    snapshot_id: str = msgspec.field(name="snapshotID")
    message: str
    waiting_for: Annotated[str, msgspec.Meta(description="what it waits for while it does not run")]
    cancel_requested: bool
    paused: Annotated[bool, msgspec.Meta(description="whether its data is to stand still")]
    created: Annotated[str, msgspec.Meta(description="RFC 3339, UTC; empty: unknown, as those below")]
    started: str
    ended: str
    bytes_done: int
    bytes_total: Annotated[int | None, msgspec.Meta(description="an estimate, once there is one")]
    files_done: int
    errors: Annotated[int, msgspec.Meta(description="entries that could not be read or written")]

    def state(self) -> str:
        """The phase, and what somebody wants of it, for people."""
        if self.phase in FINAL:
            return self.phase
        if self.cancel_requested:
            return f"{self.phase} (to be canceled)"
        return f"{self.phase} (paused)" if self.paused else self.phase


def job_id(text: str) -> jobs_pb2.JobId:
    """`du/name`, `dataupload/name`, `DataUploads/name`. Raises `UsageError`."""
    from agent.control.v1 import jobs_pb2

    kind, slash, name = text.partition("/")
    number = _KINDS.get(kind.lower().removesuffix("s"))
    if number is None or not slash or not name:
        raise UsageError(
            f"{text!r} names no job", hint="write du/NAME, dd/NAME, pvb/NAME or pvr/NAME, or the whole name of the kind"
        )
    return jobs_pb2.JobId(kind=jobs_pb2.JobKind.Value(f"JOB_KIND_{number}"), name=name)


def job_info(job: jobs_pb2.Job) -> JobInfo:
    """A job as this command prints it."""
    from agent.control.v1 import jobs_pb2

    kind = jobs_pb2.JobKind.Name(job.id.kind).removeprefix("JOB_KIND_")
    phase = jobs_pb2.JobPhase.Name(job.phase).removeprefix("JOB_PHASE_")
    done = job.progress
    return JobInfo(
        kind=_camel(kind),
        name=job.id.name,
        uid=job.uid,
        phase=_camel(phase),
        node=job.node,
        volume_namespace=job.volume_namespace,
        volume=job.volume,
        storage_location=job.storage_location,
        snapshot_id=job.snapshot_id,
        message=job.message,
        waiting_for=job.waiting_for,
        cancel_requested=job.cancel_requested,
        paused=job.paused,
        created=_time(job.create_time),
        started=_time(job.start_time),
        ended=_time(job.end_time),
        bytes_done=done.bytes_done,
        bytes_total=done.bytes_total if done.HasField("bytes_total") else None,
        files_done=done.files_done,
        errors=done.errors,
    )


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _time(moment: Timestamp) -> str:
    return moment.ToJsonString() if moment.ByteSize() else ""
