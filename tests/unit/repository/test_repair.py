"""Indexes and format blobs rebuilt from packs."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agent.base.errors import BlobExists
from agent.repository.encryption import ContentCipher
from agent.repository.format_blob import FORMAT_BLOB
from agent.repository.format_manager import FormatManager
from agent.repository.hashing import new_hasher
from agent.repository.ids import ContentId
from agent.repository.index_entry import IndexEntry, winner
from agent.repository.index_read import MappedIndex
from agent.repository.pack import encode_postamble, find_postamble
from agent.repository.repair import (
    RepairParts,
    RepairReport,
    recover_format_blob,
    repair_index,
    restore_format_blob,
)
from agent.repository.sealer import BlobSealer
from agent.repository.session import SessionId
from agent.storage.base import BlobId
from agent.storage.filesystem import FilesystemStorage
from agent.testing.memory_storage import MemoryStorage

SESSION = SessionId("s0011223344556677147")
PASSWORD = "static-passw0rd"


class Committer:
    def __init__(self, parts: RepairParts) -> None:
        self.parts = parts
        self.commits = 0

    async def commit(self, session: SessionId, shards: Sequence[bytes]) -> Sequence[BlobId]:
        self.commits += 1
        epochs = self.parts.format.epoch_parameters.enabled
        suffix = f"{session}-c{len(shards)}" if epochs else session
        names = []
        for shard in shards:
            name, sealed = self.parts.sealer.name_and_seal("xn0_" if epochs else "n", shard, suffix)
            await self.parts.storage.put(BlobId(name), [sealed])
            names.append(BlobId(name))
        return names


async def load(folder: Path) -> tuple[MemoryStorage, RepairParts]:
    """A golden repository in memory."""
    source, storage = await FilesystemStorage.open(str(folder)), MemoryStorage()
    async for blob in source.list():
        await storage.put(blob.blob_id, [await source.get(blob.blob_id)])
    found = (await FormatManager.load(storage, PASSWORD)).format
    hasher, cipher = new_hasher(found.hash, found.secret), ContentCipher(found.encryption, found.master_key)
    return storage, RepairParts(storage, found, hasher, cipher, BlobSealer(hasher, cipher))


def index_blobs(storage: MemoryStorage) -> list[BlobId]:
    return sorted(blob for blob in storage.blobs if blob.startswith(("xn", "n")))


def rows(storage: MemoryStorage, parts: RepairParts) -> dict[ContentId, IndexEntry]:
    """Everything in the uncompacted index blobs."""
    merged: dict[ContentId, IndexEntry] = {}
    for blob_id in index_blobs(storage):
        for row in MappedIndex(parts.sealer.open(blob_id, storage.blobs[blob_id])).entries():
            merged[row.content] = winner(merged.get(row.content, row), row)
    return merged


async def repair(parts: RepairParts, **options: int) -> RepairReport:
    return await repair_index(parts, committer=Committer(parts), new_session=lambda: SESSION, **options)


@pytest.mark.parametrize("name", ["small-v3", "small-v1", "algorithms/HMAC-SHA3-224_AES256"])
async def test_an_index_lost_as_a_whole_is_rebuilt_row_for_row(
    golden_repository: Callable[[str], Path], name: str
) -> None:
    storage, parts = await load(golden_repository(name))
    before = rows(storage, parts)
    assert (await repair_index(parts)).contents == 0
    await storage.delete(index_blobs(storage))

    planned = await repair_index(parts)
    assert (planned.contents, planned.written, index_blobs(storage)) == (len(before), [], [])

    done = await repair(parts)
    assert done.written == index_blobs(storage)
    assert done.recovered == planned.recovered and done.packs == planned.packs > 0
    assert rows(storage, parts) == before
    assert (await repair_index(parts)).contents == 0


async def test_rows_are_written_in_portions(golden_repository: Callable[[str], Path]) -> None:
    storage, parts = await load(golden_repository("small-v3"))
    before = rows(storage, parts)
    await storage.delete(index_blobs(storage))
    assert len((await repair(parts, max_pending=1, parallel=2)).written) > 1
    assert rows(storage, parts) == before


async def test_a_compacted_repository_lacks_nothing_that_counts(golden_repository: Callable[[str], Path]) -> None:
    storage, parts = await load(golden_repository("epochs"))
    report = await repair_index(parts)
    assert report.packs > 0 and not report.damaged_packs and not report.damaged_indexes
    storage_rows = rows(storage, parts)
    assert all(pack.blob_id not in {row.pack for row in storage_rows.values()} for pack in report.recovered)


async def test_a_damaged_index_blob_is_replaced_and_kept_under_another_name(
    golden_repository: Callable[[str], Path],
) -> None:
    storage, parts = await load(golden_repository("small-v3"))
    before, victim = rows(storage, parts), index_blobs(storage)[0]
    damaged = bytearray(storage.blobs[victim])
    damaged[20] ^= 1
    storage.blobs[victim] = bytes(damaged)

    report = await repair(parts)
    assert [blob.blob_id for blob in report.damaged_indexes] == [victim]
    assert report.set_aside == [f"damaged.{victim}"]
    assert victim not in storage.blobs and storage.blobs[report.set_aside[0]] == damaged
    assert rows(storage, parts) == before


async def test_a_dry_run_changes_nothing(golden_repository: Callable[[str], Path]) -> None:
    storage, parts = await load(golden_repository("small-v1"))
    storage.blobs[index_blobs(storage)[0]] = b"garbage"
    storage.blobs[BlobId("m" + "ab" * 16)] = b"garbage"
    storage.timestamps_ns[BlobId("m" + "ab" * 16)] = 0
    before = dict(storage.blobs)
    report = await repair_index(parts)
    assert len(report.damaged_indexes) == 2 and report.contents > 0
    assert storage.blobs == before


def _cut(blob: bytes) -> bytes:
    return blob[: len(blob) // 2]


def _flip_postamble(blob: bytes) -> bytes:
    return blob[:-5] + bytes((blob[-5] ^ 1,)) + blob[-4:]


def _flip_local_index(blob: bytes) -> bytes:
    postamble = find_postamble(blob)
    assert postamble is not None
    at = postamble.offset + 40
    return blob[:at] + bytes((blob[at] ^ 1,)) + blob[at + 1 :]


def _point_beyond(blob: bytes) -> bytes:
    postamble = find_postamble(blob)
    assert postamble is not None
    return blob[: -blob[-1] - 1] + encode_postamble(type(postamble)(postamble.iv, 1 << 62, 1 << 62))


@pytest.mark.parametrize("damage", [lambda blob: b"", _cut, _flip_postamble, _flip_local_index, _point_beyond])
async def test_a_pack_with_a_bad_end_is_named_and_the_others_are_recovered(
    golden_repository: Callable[[str], Path], damage: Callable[[bytes], bytes]
) -> None:
    storage, parts = await load(golden_repository("small-v3"))
    before = rows(storage, parts)
    victim = next(iter(before.values())).pack
    storage.blobs[victim] = damage(storage.blobs[victim])
    await storage.delete(index_blobs(storage))

    report = await repair(parts)
    assert [pack.blob_id for pack in report.damaged_packs] == [victim]
    assert rows(storage, parts) == {content: row for content, row in before.items() if row.pack != victim}


async def test_a_copy_of_a_pack_and_foreign_blobs_add_nothing(golden_repository: Callable[[str], Path]) -> None:
    storage, parts = await load(golden_repository("small-v3"))
    pack = next(iter(rows(storage, parts).values())).pack
    for name, data in (("p" + "00" * 16 + "-s1", storage.blobs[pack]), ("pfoo", b"x"), ("qfoo", b"")):
        await storage.put(BlobId(name), [data])
    report = await repair(parts)
    assert len(report.damaged_packs) == 3 and report.written == []


async def test_a_lost_format_blob_is_brought_back_from_a_pack(golden_repository: Callable[[str], Path]) -> None:
    storage, _ = await load(golden_repository("small-v1"))
    with pytest.raises(BlobExists):
        await restore_format_blob(storage)
    original = storage.blobs.pop(FORMAT_BLOB)
    assert await restore_format_blob(storage)
    assert storage.blobs[FORMAT_BLOB] == original
    assert await recover_format_blob(storage, max_packs=0) is None


async def test_packs_of_newer_repositories_hold_no_format_blob(golden_repository: Callable[[str], Path]) -> None:
    storage, _ = await load(golden_repository("small-v3"))
    del storage.blobs[FORMAT_BLOB]
    assert not await restore_format_blob(storage)
