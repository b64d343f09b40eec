"""`lighter agent ls`, `cat` and `restore`: what agents see in repositories, for people who have no keys of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import click
import msgspec

from agent.cli.agent_target import Agents, agent_options
from agent.cli.console import (
    json_result,
    note,
    print_json,
    print_table,
    printable,
    reader_may_leave,
    say,
    size_text,
)
from agent.cli.progress import Frame, progress_option, shown
from agent.cli.run import run

if TYPE_CHECKING:
    from agent.control.v1 import snapshots_pb2

_C = TypeVar("_C", bound=Callable[..., object])


class RemoteEntry(msgspec.Struct, frozen=True):
    """A snapshot, or one name in a folder of one."""

    name: Annotated[str, msgspec.Meta(description="of an entry; the id of a snapshot")]
    type: Annotated[str, msgspec.Meta(description="snapshot, file, directory, symlink or unspecified")]
    size: Annotated[int, msgspec.Meta(description="bytes; of a directory, of all files below it")]
    time: Annotated[str, msgspec.Meta(description="RFC 3339, UTC: when it changed, or when the snapshot began")]
    source: Annotated[str, msgspec.Meta(description="of a snapshot: user@host:/path")] = ""


class RemoteList(msgspec.Struct, frozen=True):
    """What there is."""

    entries: list[RemoteEntry]


class RemoteFile(msgspec.Struct, frozen=True):
    """With `--json`, `cat` reads the file and says how long it is instead of printing it."""

    bytes: int


class RemoteRestore(msgspec.Struct, frozen=True):
    """What was restored."""

    bytes: int
    files: int
    directories: int
    denied: Annotated[int, msgspec.Meta(description="entries whose owner, mode or time could not be set")]
    warnings: list[str]


def _repository_options(command: _C) -> _C:
    """Which of Velero's repositories."""
    command = click.option(
        "--location", default="default", show_default=True, metavar="NAME", help="Backup storage location."
    )(command)
    return click.option(
        "--volume-namespace", required=True, metavar="NAME", help="Namespace whose volumes are in the repository."
    )(command)


@click.command(
    epilog="\b\nExamples:\n  lighter agent ls --volume-namespace shop            # its snapshots\n"
    "  lighter agent ls --volume-namespace shop 3f9c2a/etc"
)
@json_result(RemoteList)
@click.argument("snapshot", metavar="[SNAPSHOT[/PATH]]", required=False)
@_repository_options
@agent_options
def ls(agents: Agents, as_json: bool, snapshot: str | None, volume_namespace: str, location: str) -> None:
    """List the snapshots of a repository, newest first, or a folder of one."""

    async def work() -> None:
        repository = _repository(volume_namespace, location)
        async with agents.only() as client:
            if snapshot is None:
                found = [_snapshot_entry(one) async for one in client.snapshots(repository)]
            else:
                name, path = _split(snapshot)
                found = [_entry(one) async for one in client.browse(repository, name, path)]
        if as_json:
            print_json(RemoteList(found))
        else:
            rows = [(one.name, one.type, size_text(one.size), one.time, one.source) for one in found]
            print_table(("NAME", "TYPE", "SIZE", "TIME", "SOURCE"), rows, right=(2,))

    run(work())


@click.command(epilog="\b\nExample:\n  lighter agent cat --volume-namespace shop 3f9c2a/etc/fstab")
@json_result(RemoteFile)
@click.argument("snapshot", metavar="SNAPSHOT/PATH")
@_repository_options
@agent_options
def cat(agents: Agents, as_json: bool, snapshot: str, volume_namespace: str, location: str) -> None:
    """Print one file of a snapshot, as it is."""

    async def work() -> None:
        name, path = _split(snapshot)
        count = 0
        async with agents.only() as client:
            async for piece in client.read(_repository(volume_namespace, location), name, path):
                count += len(piece)
                if not as_json:
                    with reader_may_leave():
                        sys.stdout.buffer.write(piece)
        with reader_may_leave():
            sys.stdout.buffer.flush()
        if as_json:
            print_json(RemoteFile(count))

    run(work())


@click.command(
    epilog="\b\nExample:\n  lighter agent restore --volume-namespace shop 3f9c2a/etc --pod shop/web-0 --volume data"
)
@json_result(RemoteRestore)
@click.argument("snapshot", metavar="SNAPSHOT[/PATH]")
@click.option("--pod", required=True, metavar="NAMESPACE/NAME", help="A pod that runs on the agent's node.")
@click.option("--volume", required=True, metavar="NAME", help="Its volume, by the name in the pod.")
@click.option(
    "--on-existing",
    type=click.Choice(["fail", "skip", "overwrite"]),
    default="fail",
    show_default=True,
    help="What becomes of files that are there already.",
)
@_repository_options
@progress_option
@agent_options
def restore(
    agents: Agents,
    as_json: bool,
    snapshot: str,
    pod: str,
    volume: str,
    on_existing: str,
    volume_namespace: str,
    location: str,
    progress: bool,
) -> None:
    """Restore a folder or file of a snapshot into the root of a volume of a pod.

    Interrupted, it ends on the agent too; the same command goes on from there.
    """
    from agent.control.v1 import jobs_pb2, snapshots_pb2

    name, path = _split(snapshot)
    namespace, _, pod_name = pod.rpartition("/")
    request = snapshots_pb2.RestorePathRequest(
        repository=_repository(volume_namespace, location),
        snapshot=name,
        path=path,
        pod_namespace=namespace,
        pod=pod_name,
        volume=volume,
        on_existing=snapshots_pb2.OnExisting.Value(f"ON_EXISTING_{on_existing.upper()}"),
    )
    done = jobs_pb2.JobProgress()

    def frame() -> Frame:
        total = done.bytes_total if done.HasField("bytes_total") else None
        return Frame(done.bytes_done, done.files_done, done.current, total, errors=done.errors)

    async def work() -> snapshots_pb2.RestoreResult:
        result = snapshots_pb2.RestoreResult()
        async with agents.only() as client, shown("restore", frame, enabled=progress and not as_json):
            async for answer in client.restore(request):
                if answer.HasField("result"):
                    result = answer.result
                else:
                    done.CopyFrom(answer.progress)
        return result

    result = run(work())
    if as_json:
        counts = (result.bytes, result.files, result.directories, result.denied)
        print_json(RemoteRestore(*counts, list(result.warnings)))
        return
    for warning in result.warnings:
        note(f"warning: {printable(warning)}")
    say(f"{result.files:,} files, {size_text(result.bytes)} restored into {printable(pod)}, {printable(volume)}")


def _repository(volume_namespace: str, location: str) -> snapshots_pb2.Repository:
    from agent.control.v1 import snapshots_pb2

    return snapshots_pb2.Repository(volume_namespace=volume_namespace, storage_location=location)


def _split(text: str) -> tuple[str, bytes]:
    name, _, path = text.partition("/")
    return name, path.encode("utf-8", "surrogateescape")


def _snapshot_entry(one: snapshots_pb2.Snapshot) -> RemoteEntry:
    return RemoteEntry(one.id, "snapshot", one.total_bytes, one.start_time.ToJsonString(), one.source)


def _entry(one: snapshots_pb2.Entry) -> RemoteEntry:
    from agent.control.v1 import snapshots_pb2

    kind = snapshots_pb2.EntryType.Name(one.type).removeprefix("ENTRY_TYPE_").lower()
    name = one.name.decode("utf-8", "surrogateescape")
    return RemoteEntry(name, kind, one.size, one.modify_time.ToJsonString())
