"""`lighter verify`: prove that snapshots can be restored, without restoring them."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import msgspec

from agent.base.errors import UsageError, VerificationFailed
from agent.cli.backup import requests_by_operation
from agent.cli.connection import Connection, repository_options
from agent.cli.console import duration_text, json_result, note, plural, print_json, printable, say, size_text, warn
from agent.cli.identity import parse_source
from agent.cli.options import source_filter
from agent.cli.progress import Frame, progress_option, shown
from agent.cli.selection import choose_snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.repository.repository import Repository
    from agent.snapshots.model import Snapshot
    from agent.snapshots.verify import VerifyOptions, VerifyReport
    from agent.storage.meter import RequestTotals

_SHOWN = 20
_STATE_FILE = "verify.json"


class FailedFile(msgspec.Struct, frozen=True, rename={"snapshot_id": "snapshotID"}):
    """A directory, file or link that cannot be restored whole."""

    snapshot_id: str
    path: Annotated[str, msgspec.Meta(description="below the root of the snapshot, empty for the root")]
    code: Annotated[str, msgspec.Meta(description="of the error")]
    message: str


class SnapshotChecks(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What was looked at in snapshots, and what cannot be restored."""

    snapshots: int
    directories: Annotated[int, msgspec.Meta(description="read; what snapshots share counts once, here and below")]
    files: Annotated[int, msgspec.Meta(description="files and links whose contents were looked for")]
    files_read: Annotated[int, msgspec.Meta(description="files and links that were read and hashed, too")]
    bytes: Annotated[int, msgspec.Meta(description="of the files looked for")]
    bytes_read: Annotated[int, msgspec.Meta(description="read and hashed; what snapshots share is read once")]
    failed: Annotated[int, msgspec.Meta(description="entries that cannot be restored whole; any: exit status 75")]
    failures: Annotated[list[FailedFile], msgspec.Meta(description="the first of them")]
    packs_hit: Annotated[list[str], msgspec.Meta(description="packs that are gone, cut short or damaged")]


class VerifyResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What was verified and what failed."""

    ok: bool
    checks: SnapshotChecks
    files_percent: float
    seed: Annotated[int, msgspec.Meta(description="chose the files that were read; `--seed` chooses the same again")]
    seconds: float
    requests: Annotated[dict[str, int], msgspec.Meta(description="calls to the store by operation")]
    downloaded_bytes: int
    warnings: list[str]


class _Begun(msgspec.Struct):
    """What has to be known of an interrupted run to go on with it."""

    seed: int


@click.command(
    epilog="\b\nExamples:\n  lighter verify                        # every file of every snapshot\n"
    "  lighter verify latest --files-percent 5\n  lighter verify --existence-only --source root@web1:/srv --json"
)
@json_result(VerifyResult)
@click.argument("snapshots", metavar="[SNAPSHOT]...", nargs=-1)
@source_filter
@click.option(
    "--files-percent", type=click.FloatRange(0, 100), metavar="N", help="Read so many of the files.  [default: 100]"
)
@click.option("--existence-only", is_flag=True, help="Read no files: look whether all they are made of is there.")
@click.option("--seed", type=int, help="With --files-percent: choose the files that a run with this seed chose.")
@click.option("--resume", is_flag=True, help="Go on where an interrupted run with the same options stopped.")
@progress_option
@repository_options
def verify(
    connection: Connection,
    as_json: bool,
    snapshots: tuple[str, ...],
    source: str | None,
    files_percent: float | None,
    existence_only: bool,
    seed: int | None,
    resume: bool,
    progress: bool,
) -> None:
    """Prove that snapshots can be restored.

    All directories are read; everything that files are made of is looked for; files are read, decrypted and hashed,
    all or a share of them, chosen at random. Exit status 75: something cannot be restored.
    """
    from agent.repository.format_manager import cache_folder
    from agent.snapshots.verify import VerifyOptions, VerifyReport, verify_snapshots

    if existence_only and files_percent is not None:
        raise UsageError("--existence-only and --files-percent exclude each other")
    if resume and connection.cache_dir is None:
        raise UsageError("--resume needs a cache folder, where the interrupted run is remembered")
    percent = 0.0 if existence_only else 100.0 if files_percent is None else files_percent
    report = VerifyReport()
    started = time.monotonic()

    async def work() -> VerifyResult:
        async with connection.storage() as storage:
            folder = cache_folder(connection.cache_dir, storage)
            state = None if folder is None else folder / _STATE_FILE
            options = VerifyOptions(percent, _seed(seed, state, resume))
            async with (
                connection.repository_in(storage) as repository,
                shown("Verifying", lambda: _frame(report), enabled=progress),
            ):
                chosen, warnings = _chosen(repository, snapshots, source)
                state_path = None if state is None else str(state)
                await verify_snapshots(repository, chosen, options=options, state_path=state_path, report=report)
            return _result(report, options, storage.snapshot(), time.monotonic() - started, warnings)

    result = connection.run(work())
    for warning in result.warnings:
        warn(warning)
    if as_json:
        print_json(result)
    else:
        print_checks(result.checks)
        say(f"  {duration_text(result.seconds)}")
    if not result.ok:
        raise VerificationFailed(
            f"{plural(result.checks.failed, 'entry', 'entries')} cannot be restored whole",
            hint="`lighter repository verify` looks for the cause; other entries are not affected",
        )
    if not as_json and result.checks.snapshots:
        say_good(existence_only)


def say_good(existence_only: bool) -> None:
    """What may be said when nothing was found."""
    say("Nothing is missing; no file was read." if existence_only else "All is well.")


def _seed(given: int | None, state: Path | None, resume: bool) -> int:
    """The seed of this run: that of the interrupted one when it goes on. Forgets the interrupted one otherwise."""
    if state is not None and resume:
        try:
            return msgspec.json.decode(state.read_bytes(), type=_Begun).seed
        except FileNotFoundError:
            note("No interrupted run is remembered: verifying from the start.")
        except msgspec.DecodeError:
            note("The interrupted run cannot be understood: verifying from the start.")
    if state is not None:
        state.unlink(missing_ok=True)
    return secrets.randbits(31) if given is None else given


def _chosen(repository: Repository, names: Sequence[str], source: str | None) -> tuple[list[Snapshot], tuple[str, ...]]:
    from agent.snapshots.store import list_snapshots

    if names:
        return [choose_snapshot(repository, name, source) for name in names], ()
    found = list_snapshots(repository.manifests, None if source is None else parse_source(source))
    nothing = () if found.snapshots else ("there is no such snapshot: nothing was verified",)
    return list(found.snapshots), (*found.warnings, *nothing)


def _frame(report: VerifyReport) -> Frame:
    return Frame(report.bytes_read, report.files, errors=report.failed)


def describe_checks(report: VerifyReport) -> SnapshotChecks:
    """A report as JSON shows it."""
    return SnapshotChecks(
        snapshots=report.snapshots,
        directories=report.directories,
        files=report.files,
        files_read=report.files_read,
        bytes=report.bytes,
        bytes_read=report.bytes_read,
        failed=report.failed,
        failures=[FailedFile(f.snapshot, f.path, f.code, f.message) for f in report.failures],
        packs_hit=list(report.packs_hit),
    )


def print_checks(checks: SnapshotChecks) -> None:
    """A report as a person reads it."""
    say(
        f"Verified {plural(checks.snapshots, 'snapshot')}: {plural(checks.directories, 'folder')},"
        f" {plural(checks.files, 'file')} with {size_text(checks.bytes)};"
        f" {checks.files_read:,} of them read, {size_text(checks.bytes_read)}"
    )
    for failure in checks.failures[:_SHOWN]:
        say(f"  {failure.snapshot_id[:12]}: {printable(failure.path) or '/'}: {printable(failure.message)}")
    if checks.failed > _SHOWN:
        say(f"  and {checks.failed - _SHOWN:,} more")


def _result(
    report: VerifyReport,
    options: VerifyOptions,
    totals: RequestTotals,
    seconds: float,
    warnings: tuple[str, ...],
) -> VerifyResult:
    return VerifyResult(
        ok=not report.failed,
        checks=describe_checks(report),
        files_percent=options.files_percent,
        seed=options.seed,
        seconds=round(seconds, 3),
        requests=requests_by_operation(totals),
        downloaded_bytes=totals.bytes("get"),
        warnings=list(warnings),
    )
