"""`lighter snapshots`: what there is, oldest first."""

from __future__ import annotations

from typing import Annotated

import click
import msgspec

from agent.cli.connection import Connection, repository_options
from agent.cli.console import json_result, note, plural, print_json, print_table, size_text, time_text, warn
from agent.cli.identity import parse_source
from agent.cli.options import parse_tags, source_filter, tag_option
from agent.cli.selection import SnapshotInfo, describe


class SnapshotsResult(msgspec.Struct, frozen=True):
    """Snapshots, oldest first."""

    snapshots: list[SnapshotInfo]
    warnings: Annotated[list[str], msgspec.Meta(description="snapshot manifests that cannot be understood, one each")]


@click.command(
    epilog="\b\nExamples:\n  lighter snapshots\n  lighter snapshots --source root@web1:/srv --tag app:shop --json"
)
@json_result(SnapshotsResult)
@source_filter
@tag_option("Only snapshots with this tag; may be repeated.")
@click.option("--incomplete/--no-incomplete", default=True, show_default=True, help="Checkpoints, too.")
@repository_options
def snapshots(
    connection: Connection, as_json: bool, source: str | None, tags: tuple[str, ...], incomplete: bool
) -> None:
    """List snapshots, oldest first."""
    from agent.snapshots.store import SnapshotList, list_snapshots

    wanted = None if source is None else parse_source(source)

    async def work() -> SnapshotList:
        async with connection.repository(ignore_damaged=True) as repository:
            found = list_snapshots(repository.manifests, wanted, parse_tags(tags))
            damaged = tuple(str(error) for error in repository.manifests.damaged)
            return SnapshotList(found.snapshots, found.warnings + damaged)

    found = connection.run(work())
    listed = [snapshot for snapshot in found.snapshots if incomplete or not snapshot.incomplete]
    for warning in found.warnings:
        warn(warning)
    if as_json:
        print_json(SnapshotsResult([describe(snapshot) for snapshot in listed], list(found.warnings)))
        return
    if not listed:
        note("There are no such snapshots.")
        return
    rows = []
    for snapshot in listed:
        info = describe(snapshot)
        remarks = [snapshot.incomplete, plural(info.errors, "error") if info.errors else "", *info.pins]
        remarks += [f"{key}={value}" for key, value in sorted(info.tags.items())]
        rows.append(
            (
                snapshot.id[:12],
                time_text(snapshot.start_ns),
                info.source,
                f"{info.files:,}",
                size_text(info.bytes),
                ", ".join(filter(None, [*remarks, info.description])),
            )
        )
    print_table(("SNAPSHOT", "TIME", "SOURCE", "FILES", "SIZE", "REMARKS"), rows, right=(3, 4))
