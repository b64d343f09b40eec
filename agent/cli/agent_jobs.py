"""`lighter agent jobs`, `watch` and `cancel`: the objects that agents work on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import click
import msgspec

from agent.base.errors import ControlJobFailed, LighterageError, UsageError
from agent.cli.agent_target import Agents, agent_options
from agent.cli.console import json_result, print_json, print_table, say, size_text
from agent.cli.progress import progress_option
from agent.cli.run import run

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from agent.cli.agent_watch import Display
    from agent.control.v1 import jobs_pb2

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
    created: Annotated[str, msgspec.Meta(description="RFC 3339, UTC; empty: unknown, as those below")]
    started: str
    ended: str
    bytes_done: int
    bytes_total: Annotated[int | None, msgspec.Meta(description="an estimate, once there is one")]
    files_done: int
    errors: Annotated[int, msgspec.Meta(description="entries that could not be read or written")]


class JobsResult(msgspec.Struct, frozen=True):
    """Jobs, newest first."""

    jobs: list[JobInfo]


class WatchLine(msgspec.Struct, frozen=True):
    """One change."""

    job: JobInfo
    deleted: Annotated[bool, msgspec.Meta(description="whether the object is gone")]


@click.command(epilog="\b\nExamples:\n  lighter agent jobs\n  lighter agent jobs --all-nodes --unfinished --json")
@json_result(JobsResult)
@click.option("--all-nodes", is_flag=True, help="Also those of other nodes, and of none.")
@click.option("--unfinished", is_flag=True, help="Only those that have not ended.")
@agent_options
def jobs(agents: Agents, as_json: bool, all_nodes: bool, unfinished: bool) -> None:
    """List what agents work on, newest first."""
    from agent.control.v1 import jobs_pb2

    async def work() -> None:
        chosen = jobs_pb2.JobFilter(all_nodes=all_nodes, unfinished_only=unfinished)
        found: list[JobInfo] = []
        for address in agents.addresses:
            async with agents.client(address) as client:
                found += [job_info(job) async for job in client.jobs(chosen)]
        if as_json:
            print_json(JobsResult(found))
        else:
            headers = ("JOB", "PHASE", "NODE", "VOLUME", "DONE", "CREATED")
            print_table(headers, [_row(job) for job in found])

    run(work())


@click.command(
    epilog="\b\nExamples:\n  lighter agent watch\n  lighter agent watch du/nightly-7x2kq\n"
    "  lighter agent watch --until-finished --address 10.0.0.4:8087 --address 10.0.0.5:8087 --token-file token"
)
@json_result(WatchLine)
@click.argument("job", metavar="[KIND/NAME]", required=False)
@click.option("--all-nodes", is_flag=True, help="Also those of other nodes, and of none.")
@click.option("--until-finished", is_flag=True, help="End when everything has ended.")
@progress_option
@agent_options
def watch(
    agents: Agents, as_json: bool, job: str | None, all_nodes: bool, until_finished: bool, progress: bool
) -> None:
    """Show how jobs go: a bar for each that runs, a line for each that ends.

    Of one job, or of all that have not ended; then until it is interrupted, or all have ended. A job that was named and
    does not end well makes the command end with `control.job-failed`. With --json each change is one line.
    """
    from agent.cli.agent_watch import shown_as_bars
    from agent.control.v1 import jobs_pb2

    request = jobs_pb2.WatchJobsRequest(until_finished=until_finished)
    if job is not None:
        request.id.CopyFrom(job_id(job))
    else:
        request.filter.CopyFrom(jobs_pb2.JobFilter(all_nodes=all_nodes))
    last: list[JobInfo] = []

    async def follow(address: str, display: Display | None) -> None:
        async with agents.client(address) as client:
            caught_up = False
            async for message in client.watch(request):
                if message.HasField("job"):
                    info = job_info(message.job)
                    is_old = not caught_up and info.phase in ("Completed", "Failed", "Canceled") and job is None
                    if not is_old:
                        _show(info, message.deleted, as_json, display)
                        last[:] = [info]
                caught_up = caught_up or message.caught_up

    async def work() -> None:
        try:
            async with shown_as_bars(enabled=progress and not as_json) as display, asyncio.TaskGroup() as group:
                for address in agents.addresses:
                    group.create_task(follow(address, display))
        except* LighterageError as errors:
            raise errors.exceptions[0] from None

    run(work())
    if job is not None and last and last[0].phase in ("Failed", "Canceled"):
        raise ControlJobFailed(f"{job} is {last[0].phase}: {last[0].message or 'it does not say why'}")


@click.command(epilog="\b\nExample:\n  lighter agent cancel du/nightly-7x2kq")
@json_result(JobInfo)
@click.argument("job", metavar="KIND/NAME")
@agent_options
def cancel(agents: Agents, as_json: bool, job: str) -> None:
    """End a job soon; a backup saves what helps the next one.

    Any agent can be asked: the object is marked, and the agent that works on it ends it.
    """

    async def work() -> None:
        async with agents.client(agents.only) as client:
            info = job_info(await client.cancel(job_id(job)))
        if as_json:
            print_json(info)
        else:
            say(f"{job} is {info.phase}" + (", its end is requested" if info.cancel_requested else ""))

    run(work())


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


def _row(job: JobInfo) -> tuple[str, ...]:
    total = f" of {size_text(job.bytes_total)}" if job.bytes_total else ""
    phase = f"{job.phase} (to be canceled)" if job.cancel_requested and not job.ended else job.phase
    return (
        f"{job.kind}/{job.name}",
        phase,
        job.node,
        f"{job.volume_namespace}/{job.volume}",
        f"{size_text(job.bytes_done)}{total}",
        job.created,
    )


def _show(info: JobInfo, deleted: bool, as_json: bool, display: Display | None) -> None:
    if as_json:
        print_json(WatchLine(info, deleted))
    elif display is not None:
        display.update(info, deleted)
