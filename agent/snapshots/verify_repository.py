"""A look at a whole repository: what is damaged, and which files of which snapshots are hit.

Opening it has checked the format and the indexes in force already. Here the store is listed once and compared with what
the indexes say, session markers, the maintenance schedule, legacy cleanup logs and manifests are parsed, and every
snapshot is verified, by existence or by reading (`verify.py`). Packs that no index names are asked what they hold,
which tells a lost index from leftovers; when everything is read, each pack's own index, the way back from a lost one,
is read as well. Two kinds of findings: errors, for what is lost or unreadable, and warnings, for what does no harm to
reading but that somebody should know.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set

import msgspec

from agent.base.errors import BlobNotFound, BlobTooShort, CorruptBlob, LighterageError, RepositoryError
from agent.repository.legacy_index import CLEANUP_LOG_PREFIX, parse_cleanup_log
from agent.repository.maintenance import read_schedule
from agent.repository.repair import RepairParts, missing_rows
from agent.repository.repository import Repository
from agent.repository.session import MARKER_PREFIX, parse_marker, session_of_blob
from agent.snapshots.store import list_snapshots
from agent.snapshots.verify import NAMED, PACK_PREFIXES, VerifyOptions, VerifyReport, verify_snapshots
from agent.storage.base import BlobId, BlobMetadata

_MAX_SMALL = 1 << 22
_PARALLEL = 8


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
    packs: dict[BlobId, BlobMetadata] = {}
    markers: list[BlobId] = []
    logs: list[BlobId] = []
    async for blob in repository.storage.list():
        report.blobs += 1
        report.bytes += blob.length
        if blob.blob_id.startswith(PACK_PREFIXES):
            packs[blob.blob_id] = blob
        elif blob.blob_id.startswith(MARKER_PREFIX):
            markers.append(blob.blob_id)
        elif blob.blob_id.startswith(CLEANUP_LOG_PREFIX) and not repository.format.epoch_parameters.enabled:
            logs.append(blob.blob_id)
    sessions = {session_of_blob(marker) for marker in markers}
    for marker in markers:
        await _check_small(repository, marker, report, parse_marker)
    for log in logs:
        await _check_small(repository, log, report, parse_cleanup_log)
    try:
        await read_schedule(repository.storage, repository.format)
    except RepositoryError as error:
        report.warnings.append(_finding("kopia.maintenance", error))
    used = await asyncio.to_thread(_check_index, repository, packs, report)
    unnamed = {pack for pack in packs.keys() - used if session_of_blob(pack) not in sessions}
    whole = options is not None and options.files_percent >= 100
    asked = [packs[pack] for pack in sorted(packs if whole else unnamed)]
    await _check_local_indexes(repository, asked, unnamed, report)
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


async def _check_small(
    repository: Repository, blob: BlobId, report: RepositoryReport, parse: Callable[[bytes, BlobId], object]
) -> None:
    """Kopia's maintenance stops at a marker or cleanup log that it cannot read."""
    try:
        if (await repository.storage.stat(blob)).length > _MAX_SMALL:
            raise CorruptBlob(f"blob {blob} is too long for what its name says")
        sealed = await repository.storage.get(blob)
        parse(repository.sealer.open(blob, sealed), blob)
    except BlobNotFound:
        return  # done with meanwhile
    except RepositoryError as error:
        report.warnings.append(_finding(blob, error))


async def _check_local_indexes(
    repository: Repository, packs: Sequence[BlobMetadata], unnamed: Set[BlobId], report: RepositoryReport
) -> None:
    """What packs say they hold themselves: a few requests at a time, one or two for each pack."""
    parts = RepairParts(repository.storage, repository.format, repository.hasher, repository.cipher, repository.sealer)
    waiting = iter(packs)

    async def work() -> None:
        for pack in waiting:
            finding = await _local_index_finding(parts, repository, pack, named=pack.blob_id not in unnamed)
            if finding is not None and len(report.warnings) < NAMED:
                report.warnings.append(finding)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_PARALLEL):
                group.create_task(work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    report.warnings.sort(key=lambda finding: (finding.code, finding.what))


async def _local_index_finding(
    parts: RepairParts, repository: Repository, pack: BlobMetadata, *, named: bool
) -> Finding | None:
    try:
        rows = await missing_rows(parts, repository.index, pack)
    except (BlobNotFound, BlobTooShort):
        return None  # maintenance took it meanwhile
    except RepositoryError as error:
        text = f"it has no index of its own that could be used if the index were lost: {error}"
        return Finding("repository.corrupt-local-index" if named else "repository.foreign-pack", pack.blob_id, text)
    if named:
        return None
    if not rows:
        text = "no index names it, what it holds is elsewhere too: maintenance has not removed it yet"
        return Finding("repository.unreferenced-pack", pack.blob_id, text)
    text = (
        f"{len(rows)} contents of it are in no index: an index blob is lost, or maintenance dropped them;"
        " `lighter repository repair-index` brings them back, and missing snapshots with them"
    )
    return Finding("repository.lost-index", pack.blob_id, text)


def _check_index(repository: Repository, packs: Mapping[BlobId, BlobMetadata], report: RepositoryReport) -> set[BlobId]:
    """Thread side: every entry lies inside a pack that is there; one finding for each pack. Returns the packs named."""
    used: set[BlobId] = set()
    gone: Counter[BlobId] = Counter()
    short: Counter[BlobId] = Counter()
    for entry in repository.index.iterate():
        report.contents += 1
        used.add(entry.pack)
        pack_blob = packs.get(entry.pack)
        if entry.deleted:
            continue
        if pack_blob is None:
            gone[entry.pack] += 1
        elif entry.offset + entry.packed_length > pack_blob.length:
            short[entry.pack] += 1
    for pack, count in gone.items():
        text = f"the pack is gone, and {count} contents with it"
        report.errors.append(Finding("repository.content-not-found", pack, text))
    for pack, count in short.items():
        text = f"the pack is cut short: {packs[pack].length} bytes, {count} contents lie beyond its end"
        report.errors.append(Finding("repository.corrupt-content", pack, text))
    return used


def _finding(what: str, error: LighterageError) -> Finding:
    return Finding(error.code, what, str(error))
