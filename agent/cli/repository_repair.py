"""`lighter repository repair-index`: an index that was lost or damaged, made again from the packs."""

from __future__ import annotations

from typing import Annotated

import click
import msgspec

from agent.cli.connection import Connection, repository_options
from agent.cli.console import json_result, note, plural, print_json, print_table, say, size_text


class DamagedBlob(msgspec.Struct, frozen=True):
    """A blob that could not be used."""

    blob: str
    reason: str


class RecoveredBlob(msgspec.Struct, frozen=True):
    """A pack with contents that the index lacks."""

    blob: str
    contents: int
    bytes: int


class RepairResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What was found, and with `--commit` what was written."""

    committed: Annotated[bool, msgspec.Meta(description="whether anything was to be written")]
    packs: Annotated[int, msgspec.Meta(description="packs looked at")]
    contents: Annotated[int, msgspec.Meta(description="contents that the index lacked")]
    recovered: list[RecoveredBlob]
    damaged_packs: list[DamagedBlob]
    damaged_indexes: list[DamagedBlob]
    written: Annotated[list[str], msgspec.Meta(description="index blobs put")]
    set_aside: Annotated[list[str], msgspec.Meta(description="new names of damaged index blobs")]


@click.command(
    "repair-index",
    epilog="\b\nExamples:\n  lighter repository repair-index            # says what it would do\n"
    "  lighter repository repair-index --commit   # does it",
)
@json_result(RepairResult)
@click.option("--commit", is_flag=True, help="Write what was found; without it nothing changes.")
@repository_options
def repair_index_command(connection: Connection, as_json: bool, commit: bool) -> None:
    """Rebuild a lost or damaged index from the packs.

    Every pack ends with an index of its own. What the index of the repository lacks of that is written as new index
    blobs; damaged index blobs are renamed, never deleted. Without --commit this only looks.
    """
    from agent.repository.repository import Repository

    async def work() -> RepairResult:
        async with connection.storage() as storage:
            report = await Repository.repair_index(storage, connection.password(), commit=commit)
        return RepairResult(
            committed=commit,
            packs=report.packs,
            contents=report.contents,
            recovered=[RecoveredBlob(pack.blob_id, pack.contents, pack.packed_bytes) for pack in report.recovered],
            damaged_packs=[DamagedBlob(blob.blob_id, blob.reason) for blob in report.damaged_packs],
            damaged_indexes=[DamagedBlob(blob.blob_id, blob.reason) for blob in report.damaged_indexes],
            written=list(report.written),
            set_aside=list(report.set_aside),
        )

    result = connection.run(work())
    if as_json:
        print_json(result)
        return
    say(f"Looked at {plural(result.packs, 'pack')}: {plural(result.contents, 'content')} missing in the index.")
    if result.recovered:
        rows = [(pack.blob, f"{pack.contents:,}", size_text(pack.bytes)) for pack in result.recovered]
        print_table(("PACK", "CONTENTS", "SIZE"), rows, right=(1, 2))
    damaged = [*result.damaged_packs, *result.damaged_indexes]
    if damaged:
        print_table(("DAMAGED BLOB", "WHY"), [(blob.blob, blob.reason) for blob in damaged])
    if commit:
        say(f"Wrote {plural(len(result.written), 'index blob')}, set {len(result.set_aside)} aside.")
    elif result.contents or result.damaged_indexes:
        note("Nothing was changed. Write it with --commit.")
