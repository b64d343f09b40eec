"""What a killed backup costs the next one: nothing is read again that a checkpoint shows, nothing stored again that an
index shows.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from agent.repository.ids import NO_PREFIX
from agent.snapshots import upload_tree as walk
from agent.storage.open import open_storage
from agent.testing.faulty_storage import FaultyStorage, KillAt
from agent.testing.trees import Folder, noise, plant, scan
from tests.crash.kit import Backup, Store, check_survival, copied, create, dying, opened, snapshots, whole_files
from tests.crash.processes import Commands

KILLS = 2
FILES = 40
FILE_BYTES = 200_000
TOTAL = FILES * FILE_BYTES
SEALING = 200_000
"""Bytes by which packs may be larger than what is in them."""
TAGS = {"snapshot-requester": "snapshot-data-upload-download", "snapshot-uploader": "kopia"}
WAYS = {
    "our way": {},
    "Velero's way": {"velero": True, "tags": {**TAGS, "velero.io/async-operation-id": "du-1"}, "parent_tags": TAGS},
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    below = {b"d%d" % d: Folder({b"f%d" % f: noise(FILE_BYTES, 10 * d + f) for f in range(10)}) for d in range(4)}
    plant(folder, Folder(below))
    return folder


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS.keys())
async def test_a_killed_backup_is_gone_on_with_from_what_it_left(
    tmp_path: Path, data: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch, options: dict[str, object]
) -> None:
    monkeypatch.setattr(walk, "AHEAD_ENTRIES", 10)
    often = {**options, "checkpoint_interval": 0, "parallel": 1}
    empty = Store()
    await create(empty)
    whole = FaultyStorage(copied(empty))
    await Backup(whole, data, often).run()
    resumed = 0
    for _ in range(10):
        left = copied(empty)
        dead = Backup(FaultyStorage(left, kill_at=KillAt(rng.randrange(8, whole.operations * 3 // 4))), data, often)
        with dying():
            await dead.run()
        async with opened(left) as repo:
            found = await snapshots(repo)
            if not all(snapshot.incomplete for snapshot in found):
                continue  # it was done before that operation: checkpoints come as they come
            covered = sum(entry.size for entry in await whole_files(repo, found[-1] if found else None))
            stored = sum(entry.original_length for entry in repo.index.iterate() if entry.content[0] == NO_PREFIX)
        packs = {blob_id for blob_id in left.blobs if blob_id.startswith("p")}
        again = Backup(left, data, options)
        result = await again.run()
        resumed += covered > 0
        assert again.progress.bytes_read == TOTAL - covered
        assert again.progress.bytes_cached == covered
        assert result.parents == tuple(snapshot.id for snapshot in found)
        async with opened(left) as repo:
            assert [snapshot.id for snapshot in await snapshots(repo)] == [result.snapshot.id]
        new = sum(len(blob) for blob_id, blob in left.blobs.items() if blob_id[0] == "p" and blob_id not in packs)
        assert new <= (TOTAL - stored) + SEALING
        await check_survival(left, {result.snapshot.id: scan(data)}, tmp_path)
        if resumed == KILLS:
            break
    assert resumed


async def test_a_command_that_was_killed_is_gone_on_with_from_what_it_left(tmp_path: Path, rng: random.Random) -> None:
    below = {b"d%d" % d: Folder({b"f%d" % f: noise(FILE_BYTES, 10 * d + f) for f in range(10)}) for d in range(12)}
    total = 120 * FILE_BYTES
    plant(tmp_path / "data", Folder(below))
    url = f"file://{tmp_path}/repository"
    resumed = 0
    with Commands(tmp_path, url) as commands:
        commands.run("repository", "create", "--splitter=DYNAMIC-128K-BUZHASH")
        commands.warm_up()
        commands.run("backup", str(tmp_path / "data"), "--source=a@b:/whole")
        for number in range(40):  # until enough were killed behind a checkpoint
            backup = ("backup", str(tmp_path / "data"), f"--source=a@b:/{number}", "--parallel=1")
            if not commands.kill(rng.uniform(0.3, 1), *backup, "--checkpoint-interval=0s"):
                continue
            storage = await open_storage(url)
            async with opened(storage) as repo:
                found = [snapshot for snapshot in await snapshots(repo) if snapshot.source.path == f"/{number}"]
                covered = sum(entry.size for entry in await whole_files(repo, found[-1] if found else None))
            await storage.close()
            again = commands.run(*backup)
            assert again["parents"] == [snapshot.id for snapshot in found]
            assert again["readBytes"] == total - covered
            resumed += covered > 0
            if resumed == KILLS:
                break
    assert resumed
