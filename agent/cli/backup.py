"""`lighter backup`: take a snapshot of a folder, block device or image."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated

import click
import msgspec

from agent.base.errors import CanceledError, PartialSnapshot, UsageError
from agent.base.times import format_rfc3339
from agent.cli.connection import Connection, repository_options
from agent.cli.console import duration_text, json_result, note, plural, print_json, printable, say, size_text, warn
from agent.cli.identity import parse_source
from agent.cli.options import duration_value, parse_tags, path_argument, tag_option
from agent.cli.progress import Frame, progress_option, shown
from agent.cli.selection import choose_snapshot

if TYPE_CHECKING:
    from agent.repository.content_writer import WriterStats
    from agent.snapshots.progress import UploadProgress
    from agent.snapshots.upload import UploadResult
    from agent.storage.meter import RequestTotals

OPERATIONS = ("get", "put", "stat", "list", "delete")


class UnreadableEntry(msgspec.Struct, frozen=True):
    """An entry that could not be read."""

    path: str
    error: str


class BackupResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The snapshot that was taken."""

    snapshot_id: str = msgspec.field(name="snapshotID")
    root_object_id: str = msgspec.field(name="rootObjectID")
    source: Annotated[str, msgspec.Meta(description="`user@host:/path`")]
    start_time: str
    end_time: str
    seconds: Annotated[float, msgspec.Meta(description="wall-clock time of the whole command's work")]
    incomplete: Annotated[str, msgspec.Meta(description="empty when complete, `canceled` when it was interrupted")]
    files: Annotated[int, msgspec.Meta(description="regular files in the snapshot")]
    directories: Annotated[int, msgspec.Meta(description="directories in it, its root included")]
    symlinks: Annotated[int, msgspec.Meta(description="symbolic links in it")]
    bytes: Annotated[int, msgspec.Meta(description="bytes of all files in it")]
    cached_files: Annotated[int, msgspec.Meta(description="files and links taken over unread, being unchanged")]
    excluded_files: Annotated[int, msgspec.Meta(description="left out by ignore rules")]
    excluded_directories: int
    read_bytes: Annotated[int, msgspec.Meta(description="bytes read from the volume")]
    new_bytes: Annotated[int, msgspec.Meta(description="bytes that the repository did not have yet, uncompressed")]
    uploaded_bytes: Annotated[int, msgspec.Meta(description="bytes sent to the store, all blobs")]
    requests: Annotated[dict[str, int], msgspec.Meta(description="calls to the store by operation")]
    retries: Annotated[int, msgspec.Meta(description="calls that had to be repeated")]
    parents: Annotated[list[str], msgspec.Meta(description="snapshots that this one was compared with")]
    error_count: Annotated[int, msgspec.Meta(description="entries that could not be read; any: exit status 73")]
    errors: Annotated[list[UnreadableEntry], msgspec.Meta(description="the first of them")]
    warnings: list[str]


@click.command(
    epilog="\b\nExamples:\n  lighter backup /srv/data\n"
    "  lighter backup /srv/data --tag app:shop --pin before-upgrade --json\n"
    "  lighter backup --block /dev/vg0/data --source root@web1:/dev/vg0/data"
)
@json_result(BackupResult)
@path_argument("path")
@click.option("--block", is_flag=True, help="PATH is a block device, or an image file to be read as one.")
@click.option("--velero", is_flag=True, help="Store as Velero's node agent does, to share data with its backups.")
@click.option("--source", metavar="USER@HOST:/PATH", help="Whose snapshot it is.  [default: you@this-host:PATH]")
@tag_option("A tag; may be repeated.")
@click.option("--pin", "pins", multiple=True, metavar="NAME", help="Keep the snapshot until the pin is removed.")
@click.option("--description", default="", metavar="TEXT")
@click.option("--parallel", type=click.IntRange(1, 64), metavar="N", help="Threads.  [default: one a processor]")
@click.option("--parent", metavar="SNAPSHOT", help="Compare with this snapshot.  [default: the newest of the source]")
@click.option("--force-full", "--no-parent", "full", is_flag=True, help="Compare with none: read every file again.")
@click.option("--fail-fast", is_flag=True, help="End at the first file that cannot be read, saving nothing.")
@click.option("--one-file-system", is_flag=True, help="Stay out of other file systems mounted below PATH.")
@click.option("--no-ignore", is_flag=True, help="Leave nothing out, whatever policies and .kopiaignore files say.")
@click.option(
    "--checkpoint-interval",
    callback=duration_value,
    metavar="SPAN",
    help="Save progress so often.  [default: 30m]",
)
@progress_option
@repository_options
def backup(
    connection: Connection,
    as_json: bool,
    path: str,
    block: bool,
    velero: bool,
    source: str | None,
    tags: tuple[str, ...],
    pins: tuple[str, ...],
    description: str,
    parallel: int | None,
    parent: str | None,
    full: bool,
    fail_fast: bool,
    one_file_system: bool,
    no_ignore: bool,
    checkpoint_interval: float | None,
    progress: bool,
) -> None:
    """Take a snapshot of a folder, block device or image.

    Only what changed since the newest snapshot of the same source is read, only what the repository does not have is
    stored. Interrupted, it saves what there is if the store takes it within ten seconds, and the next run goes on from
    there; interrupted twice, it ends at once. Exit status 73: the snapshot was saved, but something could not be read.
    """
    if full and parent:
        raise UsageError("--parent and --force-full exclude each other")
    if one_file_system and no_ignore:
        raise UsageError("--one-file-system and --no-ignore exclude each other")
    absolute = os.path.abspath(path)
    owner = parse_source(source if source is not None else absolute)

    from agent.snapshots.progress import Cancellation, UploadProgress

    wanted = parse_tags(tags)
    counters, cancellation = UploadProgress(), Cancellation()
    started = time.monotonic()
    saves_within: float | None = None

    def interrupt() -> bool:
        if saves_within is not None:
            note(f"\nInterrupted: saving what there is, for {saves_within:g} seconds. Once more ends it at once.")
            cancellation.cancel()
        return saves_within is not None

    async def work() -> BackupResult:
        nonlocal saves_within
        async with connection.storage() as storage:
            async with (
                connection.repository_in(storage, read_only=False, needs=["agent.snapshots.upload"]) as repository,
                shown("Backing up", lambda: _frame(counters), enabled=progress),
            ):
                from agent.snapshots.upload import CHECKPOINT_INTERVAL, UploadOptions

                if block:
                    from agent.snapshots.upload_device import upload_device as upload
                else:
                    from agent.snapshots.upload import upload_tree as upload
                options = UploadOptions(
                    description=description,
                    tags=wanted,
                    pins=pins,
                    parallel=parallel or 0,
                    fail_fast=fail_fast,
                    full=full,
                    parent=None if parent is None else choose_snapshot(repository, parent, str(owner)).id,
                    velero=velero,
                    ignore_rules=not no_ignore,
                    one_file_system=one_file_system,
                    checkpoint_interval=CHECKPOINT_INTERVAL if checkpoint_interval is None else checkpoint_interval,
                )
                async with repository.writer() as writer:
                    saves_within = options.save_within
                    result = await upload(
                        repository,
                        writer,
                        owner,
                        absolute,
                        options=options,
                        progress=counters,
                        cancellation=cancellation,
                    )
                    saves_within = None
                stats = writer.stats
            done = _result(result, counters, stats, storage.snapshot(), time.monotonic() - started)
            return msgspec.structs.replace(done, warnings=[*done.warnings, *_about_place(connection, absolute)])

    result = connection.run(work(), interrupt=interrupt)
    for warning in result.warnings:
        warn(warning)
    if as_json:
        print_json(result)
    else:
        _print(result)
    if result.incomplete:
        raise CanceledError(
            f"the backup was canceled; what there was is saved as the incomplete snapshot {result.snapshot_id}",
            hint="run the same backup again: it goes on from there",
        )
    if result.error_count:
        raise PartialSnapshot(
            f"snapshot {result.snapshot_id} was saved, but {plural(result.error_count, 'entry', 'entries')}"
            " could not be read",
            hint="they are missing in it",
        )


def _about_place(connection: Connection, path: str) -> list[str]:
    """A repository in the tree that it holds the backups of would grow with each of them by all that it has."""
    if connection.network:
        return []
    from agent.storage.open import folder_of

    folder, root = os.path.realpath(folder_of(connection.url)), os.path.realpath(path)
    if os.path.commonpath([folder, root]) != root:
        return []
    return [f"the repository lies in {path}: each backup stores the earlier ones again, unless a .kopiaignore names it"]


def _frame(counters: UploadProgress) -> Frame:
    totals = counters.totals
    done = counters.bytes_hashed + counters.bytes_cached
    return Frame(
        bytes_done=done,
        files_done=counters.files,
        current=counters.current,
        bytes_total=max(totals.bytes, done) if totals else None,
        files_total=max(totals.files, counters.files) if totals else None,
        errors=counters.errors,
    )


def requests_by_operation(totals: RequestTotals) -> dict[str, int]:
    """Calls to the store by operation, as results show them."""
    return {operation: totals.count(operation) for operation in OPERATIONS}


def _result(
    result: UploadResult, counters: UploadProgress, stats: WriterStats, totals: RequestTotals, seconds: float
) -> BackupResult:
    snapshot = result.snapshot
    root = snapshot.root
    summary = root.summ if root else None
    return BackupResult(
        snapshot_id=snapshot.id,
        root_object_id=root.obj if root else "",
        source=str(snapshot.source),
        start_time=format_rfc3339(snapshot.start_ns),
        end_time=format_rfc3339(snapshot.end_ns),
        seconds=round(seconds, 3),
        incomplete=snapshot.incomplete,
        files=summary.files if summary else 1,
        directories=summary.dirs if summary else 0,
        symlinks=summary.symlinks if summary else 0,
        bytes=summary.size if summary else (root.size if root else 0),
        cached_files=counters.files_cached,
        excluded_files=counters.excluded_files,
        excluded_directories=counters.excluded_directories,
        read_bytes=counters.bytes_read,
        new_bytes=stats.bytes_new,
        uploaded_bytes=totals.bytes("put"),
        requests=requests_by_operation(totals),
        retries=sum(totals.retries.values()),
        parents=list(result.parents),
        error_count=result.errors,
        errors=[UnreadableEntry(error.path, error.error) for error in (summary.errors if summary else ())],
        warnings=list(result.warnings),
    )


def _print(result: BackupResult) -> None:
    state = f" ({result.incomplete})" if result.incomplete else ""
    say(f"Snapshot {result.snapshot_id}{state} of {printable(result.source)}")
    unchanged = f", {result.cached_files:,} unchanged" if result.cached_files else ""
    say(
        f"  {plural(result.files, 'file')} in {plural(result.directories, 'folder')}, "
        f"{size_text(result.bytes)}{unchanged}"
    )
    rate = size_text(result.bytes / result.seconds) if result.seconds else "0 bytes"
    say(
        f"  {size_text(result.new_bytes)} new, {size_text(result.uploaded_bytes)} sent; "
        f"{duration_text(result.seconds)}, {rate}/s"
    )
    if result.excluded_files or result.excluded_directories:
        files, folders = plural(result.excluded_files, "file"), plural(result.excluded_directories, "folder")
        say(f"  left out by ignore rules: {files}, {folders}")
    for error in result.errors:
        note(f"  not read: {printable(error.path)}: {printable(error.error)}")
