"""Loading, caching and refreshing the format; changing the password."""

import json
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from agent.base.errors import (
    CorruptFormat,
    NotARepository,
    RepositoryLocked,
    RepositoryReadOnly,
    StorageError,
    UsageError,
    WrongPassword,
)
from agent.repository.format_blob import BLOBCFG_BLOB, FORMAT_BLOB, ObjectLock, build_blobcfg
from agent.repository.format_manager import MAX_FORMAT_BLOB_LENGTH, FormatManager, change_password
from agent.repository.kdf import seal_format_part
from agent.storage.base import BlobId, Buffer
from agent.testing.memory_storage import MemoryStorage

ALGORITHM = "scrypt-65536-8-1"
ID = bytes(range(32))
DAY = 24 * 3600 * 10**9
MINUTE_S = 60
LOCK = {"ownerID": "o1", "creationTime": "2026-01-01T00:00:00Z", "ioDrainTimeout": 10**9, "message": "upgrading"}


class StoppedClock:
    def __init__(self) -> None:
        self.now = 1_800_000_000 * 10**9

    def now_ns(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return self.now / 10**9

    async def sleep(self, seconds: float) -> None:
        self.now += int(seconds * 10**9)


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Keys of the two passwords; deriving is made cheap, it has its own tests."""

    def derive(algorithm: str, password: str, unique_id: bytes) -> bytes:
        assert (algorithm, unique_id) == (ALGORITHM, ID)
        return sha256(password.encode()).digest()

    monkeypatch.setattr("agent.repository.format_manager.derive_password_key", derive)
    return {password: derive(ALGORITHM, password, ID) for password in ("old", "new")}


def put_format(storage: MemoryStorage, key: bytes, **changes: Any) -> None:
    inner = {
        "hash": "BLAKE2B-256-128",
        "version": 3,
        "indexVersion": 2,
        "maxPackSize": 20 << 20,
        "epochParameters": {},
        "enablePasswordChange": True,
    }
    outer = {
        "uniqueID": b64encode(ID).decode(),
        "keyAlgo": ALGORITHM,
        "encryption": "AES256_GCM",
        "encryptedBlockFormat": b64encode(
            seal_format_part(key, ID, json.dumps({"format": inner | changes}).encode())
        ).decode(),
    }
    storage.blobs[FORMAT_BLOB] = json.dumps(outer).encode()
    storage.timestamps_ns[FORMAT_BLOB] = 0


def put_blobcfg(storage: MemoryStorage, key: bytes, lock: ObjectLock | None = None) -> None:
    storage.blobs[BLOBCFG_BLOB] = build_blobcfg(lock, ID, key)
    storage.timestamps_ns[BLOBCFG_BLOB] = 0


@pytest.fixture
def storage(keys: dict[str, bytes]) -> MemoryStorage:
    storage = MemoryStorage()
    put_format(storage, keys["old"])
    put_blobcfg(storage, keys["old"])
    return storage


class CountingStorage(MemoryStorage):
    reads = 0

    async def get(self, blob_id: BlobId, offset: int = 0, length: int | None = None) -> Buffer:
        self.reads += 1
        return await super().get(blob_id, offset, length)


async def test_a_location_without_format_blob_is_no_repository() -> None:
    with pytest.raises(NotARepository):
        await FormatManager.load(MemoryStorage(), "old")


async def test_a_wrong_password_is_named(storage: MemoryStorage) -> None:
    with pytest.raises(WrongPassword):
        await FormatManager.load(storage, "other")


async def test_a_missing_blobcfg_is_no_retention_but_a_broken_one_blocks_the_opening(storage: MemoryStorage) -> None:
    del storage.blobs[BLOBCFG_BLOB]
    assert (await FormatManager.load(storage, "old")).object_lock is None
    storage.blobs[BLOBCFG_BLOB] = b""
    storage.timestamps_ns[BLOBCFG_BLOB] = 0
    with pytest.raises(CorruptFormat):
        await FormatManager.load(storage, "old")


async def test_a_format_blob_of_unlikely_size_is_not_loaded(storage: MemoryStorage) -> None:
    storage.blobs[FORMAT_BLOB] = bytes(MAX_FORMAT_BLOB_LENGTH + 1)
    with pytest.raises(CorruptFormat, match="far more"):
        await FormatManager.load(storage, "old")


async def test_cached_blobs_are_believed_for_a_quarter_of_an_hour(keys: dict[str, bytes], tmp_path: Path) -> None:
    storage, clock, cache = CountingStorage(), StoppedClock(), tmp_path / "cache"
    put_format(storage, keys["old"])
    put_blobcfg(storage, keys["old"])

    await FormatManager.load(storage, "old", cache_dir=cache, clock=clock)
    assert storage.reads == 2
    assert {file.name: file.stat().st_mode & 0o777 for file in cache.iterdir()} == {
        FORMAT_BLOB: 0o600,
        BLOBCFG_BLOB: 0o600,
    }

    await clock.sleep(14 * MINUTE_S)
    await FormatManager.load(storage, "old", cache_dir=cache, clock=clock, max_age_s=10**9)
    assert storage.reads == 2

    await clock.sleep(2 * MINUTE_S)
    await FormatManager.load(storage, "old", cache_dir=cache, clock=clock, max_age_s=10**9)
    assert storage.reads == 4
    await FormatManager.load(storage, "old", cache_dir=cache, clock=clock, max_age_s=0)
    assert storage.reads == 6


async def test_a_cache_that_is_stale_or_damaged_does_not_keep_anybody_out(
    storage: MemoryStorage, keys: dict[str, bytes], tmp_path: Path
) -> None:
    await FormatManager.load(storage, "old", cache_dir=tmp_path)
    put_format(storage, keys["new"])
    put_blobcfg(storage, keys["new"])
    stale = await FormatManager.load(storage, "new", cache_dir=tmp_path)
    (tmp_path / FORMAT_BLOB).write_bytes(b"garbage")
    damaged = await FormatManager.load(storage, "new", cache_dir=tmp_path)
    (tmp_path / "file").touch()
    impossible = await FormatManager.load(storage, "new", cache_dir=tmp_path / "file" / "impossible")
    assert stale.format == damaged.format == impossible.format


async def test_a_long_run_notices_a_changed_pack_size_after_a_quarter_of_an_hour(
    storage: MemoryStorage, keys: dict[str, bytes]
) -> None:
    clock = StoppedClock()
    manager = await FormatManager.load(storage, "old", clock=clock)
    put_format(storage, keys["old"], maxPackSize=30 << 20)
    assert (await manager.current()).max_pack_size == 20 << 20
    await clock.sleep(15 * MINUTE_S)
    assert (await manager.current()).max_pack_size == 30 << 20
    assert await manager.refresh() is False


async def test_a_long_run_stops_when_an_upgrade_begins(storage: MemoryStorage, keys: dict[str, bytes]) -> None:
    clock = StoppedClock()
    manager = await FormatManager.load(storage, "old", clock=clock)
    put_format(storage, keys["old"], upgradeLock=LOCK)
    await clock.sleep(15 * MINUTE_S)
    with pytest.raises(RepositoryLocked):
        await manager.current()
    with pytest.raises(RepositoryLocked):
        await FormatManager.load(storage, "old", clock=clock)


async def test_a_long_run_stops_when_the_password_was_changed(storage: MemoryStorage, keys: dict[str, bytes]) -> None:
    manager = await FormatManager.load(storage, "old")
    put_format(storage, keys["new"])
    with pytest.raises(WrongPassword, match="changed while it was in use"):
        await manager.refresh()


async def test_a_changed_password_opens_and_the_old_one_does_not(storage: MemoryStorage, tmp_path: Path) -> None:
    before = (await FormatManager.load(storage, "old", cache_dir=tmp_path)).format
    await change_password(storage, "old", "new", cache_dir=tmp_path)
    with pytest.raises(WrongPassword):
        await FormatManager.load(storage, "old", cache_dir=tmp_path)
    after = (await FormatManager.load(storage, "new", cache_dir=tmp_path)).format
    assert (after.master_key, after.secret, after.unique_id) == (before.master_key, before.secret, before.unique_id)
    with pytest.raises(WrongPassword):
        await change_password(storage, "old", "third")
    with pytest.raises(UsageError):
        await change_password(storage, "new", "")


async def test_a_repository_of_version_1_keeps_its_password(storage: MemoryStorage, keys: dict[str, bytes]) -> None:
    put_format(storage, keys["old"], enablePasswordChange=False)
    with pytest.raises(RepositoryReadOnly, match="cannot change its password"):
        await change_password(storage, "old", "new")


class DyingStorage(MemoryStorage):
    """Fails for good once `left` changing operations were done."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    async def put(self, blob_id: BlobId, data: Any, **options: Any) -> None:
        self._live()
        await super().put(blob_id, data, **options)

    async def delete(self, blob_ids: Any) -> None:
        self._live()
        await super().delete(blob_ids)

    def _live(self) -> None:
        if self.left == 0:
            raise StorageError("killed")
        self.left -= 1


@pytest.mark.parametrize("operations", range(3))
async def test_a_change_of_the_password_that_dies_leaves_a_repository_that_one_of_the_passwords_opens(
    keys: dict[str, bytes], operations: int
) -> None:
    storage = DyingStorage(operations)
    put_format(storage, keys["old"])
    put_blobcfg(storage, keys["old"])
    with pytest.raises(StorageError):
        await change_password(storage, "old", "new")
    await FormatManager.load(storage, "new" if operations == 2 else "old")


async def test_with_retention_a_change_that_died_is_named_and_repaired_by_repeating_it(keys: dict[str, bytes]) -> None:
    lock = ObjectLock("GOVERNANCE", 2 * DAY)
    storage = DyingStorage(1)
    put_format(storage, keys["old"])
    put_blobcfg(storage, keys["old"], lock)
    with pytest.raises(StorageError):
        await change_password(storage, "old", "new")
    with pytest.raises(CorruptFormat, match="repeat it with the same"):
        await FormatManager.load(storage, "old")

    storage.left = 2
    await change_password(storage, "old", "new")
    assert (await FormatManager.load(storage, "new")).object_lock == lock
    assert storage.retentions[FORMAT_BLOB].mode == storage.retentions[BLOBCFG_BLOB].mode == "GOVERNANCE"
