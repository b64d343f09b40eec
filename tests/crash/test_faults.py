"""Trouble short of death: stores that throttle, cut and forget, full disks, damaged and shared caches."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.base.errors import ClockDrift, OutOfSpace, VolumeOutOfSpace
from agent.storage.filesystem import FilesystemStorage
from agent.storage.retry import Retrier, RetryingStorage, RetryPolicy
from agent.testing.clock import VirtualClock
from agent.testing.faulty_storage import Faults, FaultyStorage
from agent.testing.trees import Folder, noise, plant, scan, seeded, text
from tests.crash.kit import (
    Backup,
    Store,
    check_survival,
    create,
    opened,
    read_everything,
    restored,
    snapshots,
)

SECOND = 1_000_000_000
TREE = Folder({**seeded(7, 60).entries, b"large": noise(2_000_000, 7)})


async def first_backup(storage, data: Path):  # type: ignore[no-untyped-def]
    plant(data, TREE)
    await create(storage)
    return (await Backup(storage, data).run()).snapshot


@pytest.mark.parametrize(
    "faults",
    [
        Faults(throttled=0.3, retry_after=3),
        Faults(lost_response=0.3),
        Faults(truncated=0.3),
        Faults(throttled=0.1, lost_response=0.1, truncated=0.1, jitter_ns=5 * SECOND, latency=2),
    ],
    ids=["throttling", "lost responses", "truncated reads", "all at once"],
)
async def test_a_bad_connection_costs_time_and_nothing_else(tmp_path: Path, seed: int, faults: Faults) -> None:
    store = Store()
    before = await first_backup(store, tmp_path / "data")
    grown = tmp_path / "grown"
    plant(grown, Folder({**TREE.entries, b"more": noise(1_000_000, 8), b"z": text("z")}))
    clock = VirtualClock()
    faulty = FaultyStorage(store, faults=faults, seed=seed, clock=clock)
    storage = RetryingStorage(faulty, Retrier(RetryPolicy(), clock, random.Random(seed)))
    result = await Backup(storage, grown).run()
    await check_survival(store, {before.id: scan(tmp_path / "data"), result.snapshot.id: scan(grown)}, tmp_path)


async def test_listings_that_lag_behind_hide_no_snapshot_for_good(tmp_path: Path, seed: int) -> None:
    store = Store()
    before = await first_backup(store, tmp_path / "data")
    faulty = FaultyStorage(store, faults=Faults(stale_entry=1.0), seed=seed)
    for number in range(4):
        (tmp_path / "data" / f"new-{number}").write_bytes(b"%d" % number)
        await Backup(faulty, tmp_path / "data").run()
    async with opened(store) as repo:
        assert len(await snapshots(repo)) == 5
        assert before.id in {s.id for s in await snapshots(repo)}
        await read_everything(repo)


@pytest.mark.parametrize("hours", [-2, 2])
async def test_a_store_whose_clock_is_hours_away_is_not_written_to(tmp_path: Path, hours: int) -> None:
    store = Store()
    before = await first_backup(store, tmp_path / "data")
    skewed = FaultyStorage(store, faults=Faults(skew_ns=hours * 3600 * SECOND))
    (tmp_path / "data" / "new").write_bytes(b"new")
    with pytest.raises(ClockDrift):
        await Backup(skewed, tmp_path / "data").run()
    async with opened(store) as repo:
        assert [s.id for s in await snapshots(repo)] == [before.id]


# ---- full disks ----


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with little space."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def enlarge(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=60m", str(disk)], check=True)


async def test_a_full_repository_is_named_and_goes_on_when_there_is_space(tmp_path: Path, small_disk: Path) -> None:
    data = tmp_path / "data"
    plant(data, seeded(5, 20, sizes=(10_000,)))
    storage = await FilesystemStorage.open(str(small_disk / "repository"), create=True)
    await create(storage)
    first = await Backup(storage, data).run()
    was = scan(data)
    plant(data / "more", Folder({b"large": noise(6_000_000, 1)}))
    with pytest.raises(OutOfSpace):
        await Backup(storage, data).run()
    assert not list(small_disk.rglob("*.tmp.*"))
    await check_survival(storage, {first.snapshot.id: was}, tmp_path)
    enlarge(small_disk)
    second = await Backup(storage, data).run()
    await check_survival(storage, {first.snapshot.id: was, second.snapshot.id: scan(data)}, tmp_path)
    await storage.close()


async def test_a_full_cache_folder_costs_speed_only(tmp_path: Path, small_disk: Path) -> None:
    store = Store()
    await first_backup(store, tmp_path / "data")
    cache = small_disk / "cache"
    cache.mkdir()
    (small_disk / "filler").write_bytes(bytes(3 * 1024 * 1024 - 60_000))
    for number in range(3):
        (tmp_path / "data" / f"new-{number}").write_bytes(os.urandom(50_000))
        await Backup(store, tmp_path / "data", cache_dir=cache).run()
    async with opened(store, cache_dir=cache) as repo:
        found = await snapshots(repo)
        assert len(found) == 4
        assert await restored(repo, found[-1], tmp_path / "target") == scan(tmp_path / "data")


async def test_a_full_restore_target_ends_the_restore_by_name(tmp_path: Path, small_disk: Path) -> None:
    store = Store()
    data = tmp_path / "data"
    plant(data, Folder({**seeded(5, 20).entries, b"large": noise(6_000_000, 1)}))
    await create(store)
    snapshot = (await Backup(store, data).run()).snapshot
    async with opened(store) as repo:
        with pytest.raises(VolumeOutOfSpace):
            await restored(repo, snapshot, small_disk / "target")
        enlarge(small_disk)
        assert await restored(repo, snapshot, small_disk / "target") == scan(data)


# ---- caches ----


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[Path]:
    """A folder into which nobody can write."""
    folder = tmp_path / "unwritable"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_cache_folder_that_cannot_be_written_costs_speed_only(tmp_path: Path, unwritable: Path) -> None:
    store = Store()
    await first_backup(store, tmp_path / "data")
    (tmp_path / "data" / "new").write_bytes(b"new")
    result = await Backup(store, tmp_path / "data", cache_dir=unwritable / "cache").run()
    async with opened(store, cache_dir=unwritable / "cache") as repo:
        assert await restored(repo, result.snapshot, tmp_path / "target") == scan(tmp_path / "data")


async def test_damaged_cache_files_are_noticed_and_fetched_again(tmp_path: Path, rng: random.Random) -> None:
    store, cache = Store(), tmp_path / "cache"
    await first_backup(store, tmp_path / "data")
    expected = {}
    for number in range(8):
        (tmp_path / "data" / f"new-{number}").write_bytes(rng.randbytes(2000))
        result = await Backup(store, tmp_path / "data", cache_dir=cache).run()
        expected = {result.snapshot.id: scan(tmp_path / "data")}
        await check_survival(store, expected, tmp_path, cache_dir=cache)
        files = [path for path in cache.rglob("*") if path.is_file()]
        assert len(files) > 3
        for path in files:
            data = bytearray(path.read_bytes())
            if data and rng.random() < 0.7:
                way = rng.randrange(3)
                if way == 0:
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                elif way == 1:
                    data = data[: rng.randrange(len(data))]
                else:
                    data = bytearray(rng.randbytes(len(data)))
                path.write_bytes(data)
    await check_survival(store, expected, tmp_path, cache_dir=cache)


async def test_two_writers_that_share_a_cache_folder_keep_everything(tmp_path: Path) -> None:
    storage = await FilesystemStorage.open(str(tmp_path / "repository"), create=True)
    await create(storage)
    folders = [tmp_path / f"data-{n}" for n in range(2)]
    for number, folder in enumerate(folders):
        plant(folder, seeded(number, 60))

    async def run(folder: Path) -> dict[str, object]:
        done = {}
        for number in range(4):
            (folder / f"new-{number}").write_bytes(os.urandom(3000))
            done[(await Backup(storage, folder, cache_dir=tmp_path / "cache").run()).snapshot.id] = scan(folder)
        return done

    saved = await asyncio.gather(*map(run, folders))
    async with opened(storage, cache_dir=tmp_path / "cache") as repo:
        assert {s.id for s in await snapshots(repo)} == {mid for done in saved for mid in done}
    await check_survival(storage, saved[0], tmp_path, cache_dir=tmp_path / "cache")  # type: ignore[arg-type]
    await storage.close()
