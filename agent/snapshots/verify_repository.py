"""A look at a whole repository: what is damaged, and which files of which snapshots are hit.

Opening it has checked the format and the indexes in force already. Here the store is listed once and compared with what
the indexes say, session markers, the maintenance schedule and manifests are parsed, and every snapshot is verified, by
existence or by reading (`verify.py`). Two kinds of findings: errors, for what is lost or unreadable, and warnings, for
what does no harm to reading but that somebody should know.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

import msgspec

from agent.base.errors import CorruptBlob, LighterageError, RepositoryError
from agent.repository.maintenance import read_schedule
from agent.repository.repository import Repository
from agent.repository.session import MARKER_PREFIX, parse_marker, session_of_blob
from agent.snapshots.store import list_snapshots
from agent.snapshots.verify import NAMED, PACK_PREFIXES, VerifyOptions, VerifyReport, verify_snapshots
from agent.storage.base import BlobId

_MAX_MARKER = 1 << 16


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it should be."""

    code: str
    what: str
    """A blob, manifest or snapshot."""
    message: str


class RepositoryReport(msgspec.Struct):
    """What was found."""

    blobs: int = 0
    bytes: int = 0
    contents: int = 0
    errors: list[Finding] = []
    warnings: list[Finding] = []
    snapshots: VerifyReport = msgspec.field(default_factory=VerifyReport)

    @property
    def good(self) -> bool:
        """Whether everything that snapshots need is there."""
        return not self.errors and not self.snapshots.failed


async def verify_repository(
    repository: Repository, *, options: VerifyOptions | None = None, report: RepositoryReport | None = None
) -> RepositoryReport:
    """Verify everything, snapshots by existence unless `options` say more; `report` grows meanwhile.

    What raises is a storage that cannot be reached.
    """
    report = report if report is not None else RepositoryReport()
    packs: dict[BlobId, int] = {}
    markers: list[BlobId] = []
    async for blob in repository.storage.list():
        report.blobs += 1
        report.bytes += blob.length
        if blob.blob_id.startswith(PACK_PREFIXES):
            packs[blob.blob_id] = blob.length
        elif blob.blob_id.startswith(MARKER_PREFIX):
            markers.append(blob.blob_id)
    sessions = {session_of_blob(marker) for marker in markers}
    for marker in markers:
        await _check_marker(repository, marker, report)
    try:
        await read_schedule(repository.storage, repository.format)
    except RepositoryError as error:
        report.warnings.append(_finding("kopia.maintenance", error))
    used = await asyncio.to_thread(_check_index, repository, packs, report)
    for pack in packs.keys() - used:
        if session_of_blob(pack) not in sessions and len(report.warnings) < NAMED:
            text = "no index names anything in it: maintenance has not removed it yet, or an index blob is lost"
            report.warnings.append(Finding("repository.unreferenced-pack", pack, text))
    try:
        found = list_snapshots(repository.manifests)
    except RepositoryError as error:
        report.errors.append(_finding("manifests", error))
        return report
    for damage in repository.manifests.damaged:
        report.errors.append(_finding("manifests", damage))
    report.errors += [Finding("repository.corrupt-manifest", "manifests", text) for text in found.warnings]
    await verify_snapshots(repository, found.snapshots, options=options or VerifyOptions(0), report=report.snapshots)
    return report


async def _check_marker(repository: Repository, marker: BlobId, report: RepositoryReport) -> None:
    try:
        if (await repository.storage.stat(marker)).length > _MAX_MARKER:
            raise CorruptBlob(f"session marker {marker} is too long")
        sealed = await repository.storage.get(marker)
        parse_marker(repository.sealer.open(marker, sealed), marker)
    except RepositoryError as error:
        report.warnings.append(_finding(marker, error))


def _check_index(repository: Repository, packs: Mapping[BlobId, int], report: RepositoryReport) -> set[BlobId]:
    """Thread side: every entry lies inside a pack that is there; one finding for each pack. Returns the packs named."""
    used: set[BlobId] = set()
    gone: Counter[BlobId] = Counter()
    short: Counter[BlobId] = Counter()
    for entry in repository.index.iterate():
        report.contents += 1
        used.add(entry.pack)
        length = packs.get(entry.pack)
        if entry.deleted:
            continue
        if length is None:
            gone[entry.pack] += 1
        elif entry.offset + entry.packed_length > length:
            short[entry.pack] += 1
    for pack, count in gone.items():
        text = f"the pack is gone, and {count} contents with it"
        report.errors.append(Finding("repository.content-not-found", pack, text))
    for pack, count in short.items():
        text = f"the pack is cut short: {packs[pack]} bytes, {count} contents lie beyond its end"
        report.errors.append(Finding("repository.corrupt-content", pack, text))
    return used


def _finding(what: str, error: LighterageError) -> Finding:
    return Finding(error.code, what, str(error))
