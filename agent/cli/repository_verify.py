"""`lighter repository verify`: whether everything that the repository promises is there, and what a damage hits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import click
import msgspec

from agent.base.errors import VerificationFailed
from agent.cli.connection import Connection, repository_options
from agent.cli.console import json_result, plural, print_facts, print_json, print_table, say, size_text
from agent.cli.progress import progress_option
from agent.cli.verify import SnapshotChecks, describe_checks, print_checks, say_good

if TYPE_CHECKING:
    from agent.snapshots.verify_repository import Finding, RepositoryReport


class FindingInfo(msgspec.Struct, frozen=True):
    """One thing that is not as it should be."""

    code: Annotated[str, msgspec.Meta(description="of the error")]
    what: Annotated[str, msgspec.Meta(description="a blob, manifest or snapshot")]
    message: str


class RepositoryVerifyResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What was looked at and what is wrong."""

    ok: Annotated[bool, msgspec.Meta(description="everything that snapshots need is there")]
    blobs: Annotated[int, msgspec.Meta(description="blobs in the store")]
    bytes: Annotated[int, msgspec.Meta(description="of all blobs")]
    contents: Annotated[int, msgspec.Meta(description="contents in the index")]
    errors: Annotated[list[FindingInfo], msgspec.Meta(description="what is lost or unreadable; any: exit status 75")]
    warnings: Annotated[list[FindingInfo], msgspec.Meta(description="what does no harm to reading")]
    checks: Annotated[SnapshotChecks, msgspec.Meta(description="what of that hits files of snapshots")]


@click.command(
    "verify",
    epilog="\b\nExamples:\n  lighter repository verify                    # everything, every byte of every file\n"
    "  lighter repository verify --existence-only   # indexes, packs, markers, manifests, directories",
)
@json_result(RepositoryVerifyResult)
@click.option("--existence-only", is_flag=True, help="Read no files: look whether all they are made of is there.")
@progress_option
@repository_options
def verify_command(connection: Connection, as_json: bool, existence_only: bool, progress: bool) -> None:
    """Check that all that the repository promises is there, and name the files that a damage hits.

    Indexes are read and compared with the packs in the store; markers, schedule and manifests are read; directories and
    files of all snapshots are read, decrypted and hashed. Exit status 75: something is damaged.
    """
    from agent.cli.progress import Frame, shown
    from agent.snapshots.verify import VerifyOptions
    from agent.snapshots.verify_repository import RepositoryReport, verify_repository

    report = RepositoryReport()

    async def work() -> None:
        async with (
            connection.repository(ignore_damaged=True) as repository,
            shown(
                "Verifying",
                lambda: Frame(report.snapshots.bytes_read, report.snapshots.files, errors=report.snapshots.failed),
                enabled=progress,
            ),
        ):
            options = VerifyOptions(files_percent=0 if existence_only else 100)
            await verify_repository(repository, options=options, report=report)

    connection.run(work())
    result = _describe(report)
    if as_json:
        print_json(result)
    else:
        _print(result, existence_only)
    if not result.ok:
        raise VerificationFailed(
            f"the repository is damaged: {plural(len(result.errors), 'error')},"
            f" {plural(result.checks.failed, 'entry', 'entries')} of snapshots hit",
            hint="`lighter repository repair-index` brings back lost indexes; entries not named are whole",
        )


def _describe(report: RepositoryReport) -> RepositoryVerifyResult:
    return RepositoryVerifyResult(
        ok=report.good,
        blobs=report.blobs,
        bytes=report.bytes,
        contents=report.contents,
        errors=[_finding(finding) for finding in report.errors],
        warnings=[_finding(finding) for finding in report.warnings],
        checks=describe_checks(report.snapshots),
    )


def _finding(finding: Finding) -> FindingInfo:
    return FindingInfo(finding.code, finding.what, finding.message)


def _print(result: RepositoryVerifyResult, existence_only: bool) -> None:
    print_facts(
        [
            ("Blobs", f"{result.blobs:,} with {size_text(result.bytes)}"),
            ("Contents", f"{result.contents:,}"),
            ("Errors", f"{len(result.errors):,}"),
            ("Warnings", f"{len(result.warnings):,}"),
        ]
    )
    for title, findings in (("ERROR", result.errors), ("WARNING", result.warnings)):
        if findings:
            say()
            print_table((title, "WHERE", "WHAT"), [(f.code, f.what, f.message) for f in findings])
    say()
    print_checks(result.checks)
    if result.ok:
        say_good(existence_only)
