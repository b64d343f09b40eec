"""`lighter restore`: write a snapshot, or a part of one, to a folder, device or image."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import click
import msgspec

from agent.base.errors import PartialRestore
from agent.cli.backup import requests_by_operation
from agent.cli.connection import Connection, repository_options
from agent.cli.console import (
    duration_text,
    json_result,
    note,
    plural,
    print_json,
    printable,
    say,
    size_text,
    warn,
)
from agent.cli.options import path_argument, source_filter
from agent.cli.progress import Frame, progress_option, shown
from agent.cli.selection import choose_snapshot, root_of, split_path

if TYPE_CHECKING:
    from agent.repository.repository import Repository
    from agent.snapshots.model import Entry
    from agent.snapshots.restore import RestoreOptions
    from agent.snapshots.restore_report import RestoreReport
    from agent.storage.meter import RequestTotals

_SHOWN = 20


class FailedEntry(msgspec.Struct, frozen=True):
    """An entry that was not restored."""

    path: str
    code: Annotated[str, msgspec.Meta(description="of the error")]
    message: str


class RestoreResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What was restored."""

    snapshot_id: str = msgspec.field(name="snapshotID")
    path: Annotated[str, msgspec.Meta(description="what of the snapshot, empty for all of it")]
    target: str
    seconds: float
    directories: int
    files: int
    symlinks: int
    bytes: Annotated[int, msgspec.Meta(description="of files, written in this run")]
    skipped: Annotated[int, msgspec.Meta(description="files and links that were there already and stay")]
    resumed: Annotated[int, msgspec.Meta(description="files and links that an earlier attempt had completed")]
    resumed_bytes: Annotated[
        int, msgspec.Meta(description="of large files and devices that it had not completed, found in place")
    ]
    removed: Annotated[int, msgspec.Meta(description="entries removed, not being in the snapshot")]
    denied: Annotated[int, msgspec.Meta(description="entries whose owner, mode or time could not be set")]
    requests: Annotated[dict[str, int], msgspec.Meta(description="calls to the store by operation")]
    downloaded_bytes: int
    error_count: Annotated[int, msgspec.Meta(description="entries that were not restored; any: exit status 74")]
    errors: Annotated[list[FailedEntry], msgspec.Meta(description="the first of them")]
    warnings: list[str]


@click.command(
    epilog="\b\nExamples:\n  lighter restore latest /tmp/restored\n"
    "  lighter restore latest/etc/nginx /etc/nginx --delete-extra\n"
    "  lighter restore 3f9c2a/etc/fstab /tmp/              # one file\n"
    "  lighter restore 81d0be /dev/vg0/data --block"
)
@json_result(RestoreResult)
@click.argument("snapshot", metavar="SNAPSHOT[/PATH]")
@path_argument("target")
@source_filter
@click.option("--block", is_flag=True, help="TARGET is a block device, or an image file.")
@click.option("--sparse", is_flag=True, help="Leave holes where files have long runs of zeros.")
@click.option("--parallel", type=click.IntRange(1, 64), metavar="N", help="Writing threads.  [default: processors]")
@click.option(
    "--on-existing",
    type=click.Choice(["overwrite", "skip", "fail"]),
    default="overwrite",
    show_default=True,
    help="What becomes of files that are there already.",
)
@click.option("--delete-extra", is_flag=True, help="Remove what is in TARGET and not in the snapshot.")
@click.option("--skip-owners", is_flag=True, help="Leave owners as they come.")
@click.option("--skip-modes", is_flag=True, help="Leave permissions as they come.")
@click.option("--skip-times", is_flag=True, help="Leave modification times as they come.")
@click.option("--sync", is_flag=True, help="Have everything on stable storage before the end.")
@click.option("--fail-fast", is_flag=True, help="End at the first entry that cannot be restored.")
@progress_option
@repository_options
def restore(
    connection: Connection,
    as_json: bool,
    snapshot: str,
    target: str,
    source: str | None,
    block: bool,
    sparse: bool,
    parallel: int | None,
    on_existing: str,
    delete_extra: bool,
    skip_owners: bool,
    skip_modes: bool,
    skip_times: bool,
    sync: bool,
    fail_fast: bool,
    progress: bool,
) -> None:
    """Write a snapshot, or a part of one, to TARGET.

    SNAPSHOT is an id, the unique start of one, or `latest`. A folder becomes the folder TARGET; a file becomes the file
    TARGET, or a file of its name in the folder TARGET. A restore that was cut short goes on where it stopped. Exit
    status 74: it went to its end, but something could not be restored.
    """
    from agent.snapshots.restore_report import RestoreReport

    report = RestoreReport()
    started = time.monotonic()
    whole: list[Entry] = []

    async def work() -> RestoreResult:
        name, path = split_path(snapshot)
        async with connection.storage() as storage:
            async with connection.repository_in(storage, needs=["agent.snapshots.restore"]) as repository:
                from agent.snapshots.restore import RestoreOptions
                from agent.snapshots.restore import restore as restore_tree
                from agent.snapshots.tree import find_entry
                from agent.volumes.tree_write import Existing

                options = RestoreOptions(
                    existing=Existing(on_existing),
                    delete_extra=delete_extra,
                    sparse=sparse,
                    fail_fast=fail_fast,
                    owners=not skip_owners,
                    modes=not skip_modes,
                    times=not skip_times,
                    parallel=parallel or 0,
                    sync=sync,
                )
                chosen = choose_snapshot(repository, name, source)
                if not as_json and name == "latest":
                    note(f"Restoring snapshot {chosen.id} of {printable(str(chosen.source))}")
                entry = await find_entry(repository.objects, root_of(chosen), path)
                whole.append(entry)
                async with shown("Restoring", lambda: _frame(report, whole[0]), enabled=progress):
                    # What is missing is told below, after the result.
                    with suppress(PartialRestore):
                        if block:
                            await _restore_block(repository, entry, target, options, report)
                        else:
                            await restore_tree(repository, entry, target, options=options, report=report)
            seconds = time.monotonic() - started
            return _result(chosen.id, "/".join(path), target, report, storage.snapshot(), seconds)

    result = connection.run(work())
    for warning in result.warnings:
        warn(warning)
    if as_json:
        print_json(result)
    else:
        _print(result)
    if result.error_count:
        raise PartialRestore(
            f"{plural(result.error_count, 'entry', 'entries')} could not be restored to {target}",
            hint="everything else is in place",
        )


async def _restore_block(
    repository: Repository, entry: Entry, target: str, options: RestoreOptions, report: RestoreReport
) -> None:
    """An existing image is written over as `--on-existing` says, a device always: there is no other way."""
    from agent.snapshots.restore_device import restore_device
    from agent.volumes.tree_write import Existing

    if options.existing is Existing.SKIP and await asyncio.to_thread(os.path.isfile, target):
        report.skipped += 1
        return
    await restore_device(
        repository,
        entry,
        target,
        overwrite=options.existing is Existing.OVERWRITE,
        parallel=options.threads,
        report=report,
    )


def _frame(report: RestoreReport, entry: Entry) -> Frame:
    total = entry.summ.size if entry.summ else entry.size
    files = entry.summ.files + entry.summ.symlinks if entry.summ else 1
    resumed = report.skipped + report.resumed
    return Frame(
        bytes_done=report.bytes + report.resumed_bytes,
        files_done=report.files + report.symlinks + resumed,
        bytes_total=None if resumed else total,
        files_total=files,
        errors=report.failed,
    )


def _result(
    snapshot_id: str, path: str, target: str, report: RestoreReport, totals: RequestTotals, seconds: float
) -> RestoreResult:
    warnings = [f"{warning.path or '/'}: {warning.message}" for warning in report.warnings]
    if report.warned > len(warnings):
        warnings.append(f"and {report.warned - len(warnings)} more")
    return RestoreResult(
        snapshot_id=snapshot_id,
        path=path,
        target=target,
        seconds=round(seconds, 3),
        directories=report.directories,
        files=report.files,
        symlinks=report.symlinks,
        bytes=report.bytes,
        skipped=report.skipped,
        resumed=report.resumed,
        resumed_bytes=report.resumed_bytes,
        removed=report.removed,
        denied=report.denied,
        requests=requests_by_operation(totals),
        downloaded_bytes=totals.bytes("get"),
        error_count=report.failed,
        errors=[FailedEntry(failure.path, failure.code, failure.message) for failure in report.failures],
        warnings=warnings,
    )


def _print(result: RestoreResult) -> None:
    rate = size_text(result.bytes / result.seconds) if result.seconds else "0 bytes"
    links = plural(result.symlinks, "symbolic link")
    say(
        f"Restored {plural(result.files, 'file')}, {plural(result.directories, 'folder')}, {links},"
        f" {size_text(result.bytes)} to {printable(result.target)}"
    )
    say(f"  {duration_text(result.seconds)}, {rate}/s")
    notable = (
        (result.skipped, "stayed as they were"),
        (result.resumed, "were there from an earlier attempt"),
        (result.removed, "removed, not being in the snapshot"),
        (result.denied, "kept another owner, mode or time: the system refused to set it"),
    )
    for count, what in notable:
        if count:
            say(f"  {count:,} {what}")
    if result.resumed_bytes:
        say(f"  {size_text(result.resumed_bytes)} found in their places, where an earlier attempt had written them")
    for failure in result.errors[:_SHOWN]:
        note(f"  not restored: {printable(failure.path) or '/'}: {printable(failure.message)}")
