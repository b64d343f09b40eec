"""What can be rebuilt from packs alone: lost or damaged indexes, and the format blob.

Every pack ends with an index of its own contents (§4.4); with those the index of a repository can be made again,
however much of it is gone. `repair_index` reads what is left of the index, then the end of every pack, and writes what
the index lacks. Packs and index blobs that cannot be read are named, and the work goes on. Nothing is changed without a
committer, the same as every writer's (`index_commit`).

Repositories whose password cannot change carry copies of the format blob in their packs (§2.8); there
`recover_format_blob` brings back a lost one.
"""

from __future__ import annotations

import asyncio
import hmac
import mmap
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Protocol

import msgspec

from agent.base.errors import BlobNotFound, CorruptBlob, CorruptContent, CorruptFormat, CorruptIndex, RepositoryError
from agent.repository import epochs, legacy_index
from agent.repository.encryption import Cipher
from agent.repository.format_blob import FORMAT_BLOB, RepositoryFormat, parse_envelope
from agent.repository.hashing import Hasher
from agent.repository.ids import ContentId
from agent.repository.index_build import build_shards
from agent.repository.index_entry import IndexEntry, winner
from agent.repository.index_read import MappedIndex
from agent.repository.pack import (
    DATA_PREFIX,
    METADATA_PREFIX,
    RECOVERY_CHUNK_LENGTH,
    TAIL_LENGTH,
    Postamble,
    find_postamble,
    find_recovery_block,
)
from agent.repository.sealer import BlobSealer
from agent.repository.session import SessionId
from agent.storage.base import BlobId, BlobMetadata, BlobStorage, Buffer

SET_ASIDE_PREFIX = "damaged."
"""Damaged index blobs are kept under this name: no client lists it (§1.1), and nothing is lost."""

_MAX_LOCAL_INDEX = 128 << 20
_MAX_INDEX_BLOB = 1 << 30
_MAX_PACKS_FOR_FORMAT = 100


class IndexCommitter(Protocol):
    """How index blobs get into the store; `agent.repository.index_commit` has the one."""

    async def commit(self, session: SessionId, shards: Sequence[bytes]) -> Sequence[BlobId]:
        """Put these indexes as blobs of `session`, in force when this returns."""
        ...


class RepairParts(msgspec.Struct, frozen=True):
    """What is needed of an open repository, whose index need not be readable."""

    storage: BlobStorage
    format: RepositoryFormat
    hasher: Hasher
    cipher: Cipher
    """Error correction included."""
    sealer: BlobSealer


class Damaged(msgspec.Struct, frozen=True):
    """A blob that could not be used, and why."""

    blob_id: BlobId
    reason: str


class RecoveredPack(msgspec.Struct, frozen=True):
    """A pack that holds contents which the index lacks."""

    blob_id: BlobId
    contents: int
    packed_bytes: int


class RepairReport(msgspec.Struct):
    """What was found, and what was done about it when a committer was given."""

    packs: int = 0
    """Packs looked at."""
    recovered: list[RecoveredPack] = msgspec.field(default_factory=list)
    damaged_packs: list[Damaged] = msgspec.field(default_factory=list)
    damaged_indexes: list[Damaged] = msgspec.field(default_factory=list)
    written: list[BlobId] = msgspec.field(default_factory=list)
    """Index blobs put."""
    set_aside: list[BlobId] = msgspec.field(default_factory=list)
    """The new names of damaged index blobs."""

    @property
    def contents(self) -> int:
        """Rows that the index lacked."""
        return sum(pack.contents for pack in self.recovered)


async def repair_index(
    parts: RepairParts,
    *,
    committer: IndexCommitter | None = None,
    new_session: Callable[[], SessionId] | None = None,
    parallel: int = 8,
    max_pending: int = 100_000,
) -> RepairReport:
    """Find what the index lacks, and with a committer (and `new_session`) write it.

    Per pack: the last 8 KiB, and its local index when that is longer. About `max_pending` rows wait to be written;
    a dry run keeps none. Damaged index blobs are set aside only after everything found was written, so that whatever
    opened before opens after. Raises what the storage raises; damage never ends it.
    """
    report = RepairReport()
    index = await _surviving_index(parts, report)
    pending: list[IndexEntry] = []
    turn, writing = asyncio.Lock(), asyncio.Lock()

    async def flush() -> None:
        rows = pending[:]
        pending.clear()
        if rows and committer is not None and new_session is not None:
            shards = await asyncio.to_thread(build_shards, rows, parts.format.index_version)
            report.written.extend(await committer.commit(new_session(), shards))

    async def work(packs: AsyncIterator[BlobMetadata]) -> None:
        while True:
            async with turn:
                pack = await anext(packs, None)
            if pack is None:
                return
            report.packs += 1
            try:
                rows = await missing_rows(parts, index, pack)
            except BlobNotFound:
                continue  # maintenance took it meanwhile
            except RepositoryError as error:
                report.damaged_packs.append(Damaged(pack.blob_id, error.message))
                continue
            if rows:
                size = sum(row.packed_length for row in rows)
                report.recovered.append(RecoveredPack(pack.blob_id, len(rows), size))
            if committer is not None:
                pending.extend(rows)
                async with writing:
                    if len(pending) >= max_pending:
                        await flush()

    try:
        async with aclosing(_list_packs(parts.storage)) as packs, asyncio.TaskGroup() as group:
            for _ in range(parallel):
                group.create_task(work(packs))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    await flush()
    if committer is not None:
        await _set_aside(parts.storage, report)
    report.recovered.sort(key=lambda pack: pack.blob_id)
    report.damaged_packs.sort(key=lambda pack: pack.blob_id)
    return report


async def recover_format_blob(storage: BlobStorage, *, max_packs: int = _MAX_PACKS_FOR_FORMAT) -> bytes | None:
    """A copy of `kopia.repository` from the first of `max_packs` packs that carries one; None when none does."""
    tried = 0
    async with aclosing(_list_packs(storage)) as packs:
        async for pack in packs:
            if tried == max_packs:
                return None
            tried += 1
            length = min(pack.length, RECOVERY_CHUNK_LENGTH)
            try:
                found = find_recovery_block(await storage.get(pack.blob_id, 0, length), b"")
                if found is None:
                    found = find_recovery_block(b"", await storage.get(pack.blob_id, pack.length - length, length))
                if found is not None:
                    parse_envelope(found)
                    return found
            except (BlobNotFound, CorruptFormat):
                continue
    return None


async def restore_format_blob(storage: BlobStorage) -> bool:
    """Put a recovered `kopia.repository` back where there is none. Returns whether a copy was found.

    Raises `BlobExists` when the repository has its format blob.
    """
    found = await recover_format_blob(storage)
    if found is None:
        return False
    await storage.put(FORMAT_BLOB, [found], if_absent=True)
    return True


async def _list_packs(storage: BlobStorage) -> AsyncGenerator[BlobMetadata, None]:
    for prefix in (DATA_PREFIX, METADATA_PREFIX):
        async for blob in storage.list(prefix):
            yield blob


class Index(Protocol):
    """What is known already."""

    def find(self, content: ContentId, /) -> IndexEntry | None:
        """The entry in force."""
        ...


async def missing_rows(parts: RepairParts, index: Index, pack: BlobMetadata) -> list[IndexEntry]:
    """Rows of a pack's local index that would count but are not in `index`.

    Raises `CorruptBlob` or `CorruptIndex` when the pack has no readable local index of its own.
    """
    tail_length = min(pack.length, TAIL_LENGTH)
    tail = memoryview(await parts.storage.get(pack.blob_id, pack.length - tail_length, tail_length))
    postamble = find_postamble(tail)
    if postamble is None:
        raise CorruptBlob(f"pack {pack.blob_id} does not end with a valid postamble")
    end = postamble.offset + postamble.length
    if end > pack.length or postamble.length > _MAX_LOCAL_INDEX:
        raise CorruptBlob(f"the postamble of pack {pack.blob_id} points to bytes {postamble.offset} to {end}")
    start = postamble.offset - (pack.length - tail_length)
    sealed: Buffer = (
        tail[start : start + postamble.length]
        if start >= 0
        else await parts.storage.get(pack.blob_id, postamble.offset, postamble.length)
    )

    def unknown_rows() -> list[IndexEntry]:
        return _unknown_rows(_open_local_index(parts, pack.blob_id, postamble.iv, sealed), index, pack, postamble)

    return await asyncio.to_thread(unknown_rows)


def _open_local_index(parts: RepairParts, pack: BlobId, iv: bytes, sealed: Buffer) -> MappedIndex:
    name = f"the local index of pack {pack}"
    try:
        plaintext = parts.cipher.open(sealed, iv)
    except CorruptContent as error:
        raise CorruptBlob(f"{name} does not decrypt") from error
    if not hmac.compare_digest(parts.hasher(plaintext), iv):
        raise CorruptBlob(f"{name} decrypts, but to other bytes than its postamble says")
    return MappedIndex(plaintext, name)


def _unknown_rows(local: MappedIndex, index: Index, pack: BlobMetadata, postamble: Postamble) -> list[IndexEntry]:
    missing = []
    for row in local.entries():
        if row.pack == pack.blob_id:
            if row.offset + row.packed_length > postamble.offset:
                raise CorruptIndex(f"{local.name} has a content beyond the end of the contents")
        elif not row.deleted:
            raise CorruptIndex(f"{local.name} is that of pack {row.pack}; this is a copy under another name")
        known = index.find(row.content)
        if known is None or (winner(known, row) is row and known != row):
            missing.append(row)
    return missing


class _SurvivingIndex:
    """The index blobs that can be read, mapped from unnamed files; every row counts, hidden or not."""

    def __init__(self, indexes: Iterable[MappedIndex]) -> None:
        self._indexes = tuple(indexes)

    def find(self, content: ContentId) -> IndexEntry | None:
        best: IndexEntry | None = None
        for index in self._indexes:
            row = index.find(content)
            if row is not None:
                best = row if best is None else winner(best, row)
        return best


async def _surviving_index(parts: RepairParts, report: RepairReport) -> _SurvivingIndex:
    if parts.format.epoch_parameters.enabled:
        listing = [blob async for blob in parts.storage.list(epochs.INDEX_PREFIX)]
        blobs = epochs.select_index_blobs(listing).blobs
    else:
        blobs = await _legacy_blobs(parts, report)
    indexes = []
    for blob in blobs:
        try:
            indexes.append(await _open_index(parts, blob))
        except BlobNotFound:
            continue  # compacted meanwhile; what it held is found in the packs
        except RepositoryError as error:
            report.damaged_indexes.append(Damaged(blob.blob_id, error.message))
    return _SurvivingIndex(indexes)


async def _legacy_blobs(parts: RepairParts, report: RepairReport) -> Sequence[BlobMetadata]:
    logs = []
    async for blob in parts.storage.list(legacy_index.COMPACTION_LOG_PREFIX):
        try:
            plaintext = parts.sealer.open(blob.blob_id, await _get_bounded(parts.storage, blob))
            logs.append(legacy_index.parse_compaction_log(plaintext, blob.blob_id))
        except BlobNotFound:
            continue
        except RepositoryError as error:
            report.damaged_indexes.append(Damaged(blob.blob_id, error.message))
    listing = [blob async for blob in parts.storage.list(legacy_index.INDEX_PREFIX)]
    return legacy_index.select_legacy_index_blobs(listing, logs)


async def _open_index(parts: RepairParts, blob: BlobMetadata) -> MappedIndex:
    sealed = await _get_bounded(parts.storage, blob)
    return await asyncio.to_thread(_map_index, parts.sealer, blob.blob_id, sealed)


async def _get_bounded(storage: BlobStorage, blob: BlobMetadata) -> Buffer:
    if blob.length > _MAX_INDEX_BLOB:
        raise CorruptBlob(f"blob {blob.blob_id} has {blob.length} bytes, more than an index can have")
    return await storage.get(blob.blob_id)


def _map_index(sealer: BlobSealer, blob_id: BlobId, sealed: Buffer) -> MappedIndex:
    plaintext = sealer.open(blob_id, sealed)
    if not plaintext:
        raise CorruptIndex(f"index blob {blob_id} is empty")
    with tempfile.TemporaryFile() as file:
        file.write(plaintext)
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    index = MappedIndex(memoryview(mapped), blob_id)
    index.check_sorted()
    return index


async def _set_aside(storage: BlobStorage, report: RepairReport) -> None:
    for damaged in report.damaged_indexes:
        try:
            kept = await storage.get(damaged.blob_id)
        except BlobNotFound:
            continue
        name = BlobId(SET_ASIDE_PREFIX + damaged.blob_id)
        await storage.put(name, [kept])
        await storage.delete([damaged.blob_id])
        report.set_aside.append(name)
