"""The process dies at any operation of its storage: what was there stays whole, and the next run goes on."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from agent.repository.manifest_writer import COMPACT_FROM
from agent.snapshots import upload_tree as walk
from agent.snapshots.model import Snapshot, Source
from agent.snapshots.store import save_snapshot
from agent.testing.faulty_storage import FaultyStorage, KillAt
from agent.testing.kopia_client import KopiaClient
from agent.testing.trees import File, Fill, Folder, Seen, Stretch, noise, plant, scan, seeded, text
from tests.crash.kit import (
    SOURCE,
    Backup,
    Store,
    check_survival,
    copied,
    create,
    dying,
    export,
    opened,
    snapshots,
    whole_files,
    writing,
)

FIRST = Folder(
    {
        b"a": Folder({b"one": text("one"), b"two": noise(300_000, 2)}),
        b"b": Folder({b"deep": Folder({b"three": text("three"), b"four": noise(5_000, 4)})}),
        b"top": text("top"),
    }
)
SECOND = Folder(
    {
        b"a": Folder({b"one": text("one"), b"two": noise(280_000, 22)}),
        b"b": Folder({b"deep": Folder({b"three": text("three"), b"five": File((Stretch(Fill.TEXT, 400_000, 5),))})}),
        b"c": Folder({b"%d" % n: text(f"c {n}") for n in range(5)}),
        b"top": text("top"),
    }
)


@dataclass
class World:
    """A store with one snapshot of the first tree, and enough manifests that the next run compacts them."""

    storage: Store
    first: Path
    second: Path
    third: Path
    cache: Path
    """Of a client that knows the store: fewer operations that change nothing."""
    expected: dict[str, dict[bytes, Seen]] = field(default_factory=dict)


async def make_world(folder: Path, first: Folder, second: Folder, *, manifests: int = COMPACT_FROM - 2) -> World:
    world = World(Store(), folder / "first", folder / "second", folder / "third", folder / "cache")
    plant(world.first, first)
    plant(world.second, second)
    plant(world.third, Folder({**second.entries, b"third": text("third")}, second.metadata))
    await create(world.storage)
    result = await Backup(world.storage, world.first).run()
    world.expected[result.snapshot.id] = scan(world.first)
    async with writing(world.storage) as (_, writer):
        for number in range(manifests):
            await save_snapshot(writer, _elsewhere(result.snapshot, number))
            await writer.flush()
    return world


def _elsewhere(snapshot: Snapshot, number: int) -> Snapshot:
    return msgspec.structs.replace(snapshot, source=Source("default", "default", f"/elsewhere/{number}"))


async def two_backups(storage: FaultyStorage, world: World, finished: dict[str, Path]) -> None:
    """What dies: a backup with checkpoints, then an incremental one, each compacting manifests at its end."""
    for path, options in ((world.second, {"checkpoint_interval": 0}), (world.third, {})):
        result = await Backup(storage, path, options, world.cache).run()
        finished[result.snapshot.id] = path


async def die_and_recover(world: World, scratch: Path, kill_at: KillAt) -> tuple[Store, bool]:
    """Die once and check everything; what is left, and whether death came too late."""
    left = copied(world.storage)
    storage = FaultyStorage(left, kill_at=kill_at)
    finished: dict[str, Path] = {}
    done = False
    with dying():
        await two_backups(storage, world, finished)
        done = True
    remains = copied(left)
    expected = {**world.expected, **{mid: scan(path) for mid, path in finished.items()}}
    await check_survival(left, expected, scratch, cache_dir=world.cache)
    async with opened(left, cache_dir=world.cache) as repo:
        known = [s for s in await snapshots(repo) if s.source == SOURCE and s.incomplete]
        checkpointed = max([len(await whole_files(repo, snapshot)) for snapshot in known], default=0)
    again = Backup(left, world.third, cache_dir=world.cache)
    result = await again.run()
    assert not result.snapshot.incomplete
    assert again.progress.files_cached >= checkpointed
    async with opened(left) as repo:
        assert not any(s.incomplete for s in await snapshots(repo))
    await check_survival(left, {result.snapshot.id: scan(world.third)}, scratch)
    return remains, done


@pytest.mark.parametrize("after_effect", [False, True], ids=["before", "after"])
async def test_killed_at_any_operation_nothing_but_the_unfinished_snapshot_is_lost(
    tmp_path: Path, after_effect: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "AHEAD_ENTRIES", 0)
    world = await make_world(tmp_path, FIRST, SECOND)
    operation, done = 0, False
    while not done:
        try:
            _, done = await die_and_recover(world, tmp_path, KillAt(operation, after_effect=after_effect))
        except BaseException as error:
            error.add_note(f"killed at operation {operation}")
            raise
        operation += 1
    assert operation > 30


async def test_kopia_verifies_and_maintains_what_a_killed_run_left(
    tmp_path: Path, kopia: Callable[[Path], KopiaClient], rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "AHEAD_ENTRIES", 0)
    world = await make_world(tmp_path, FIRST, SECOND)
    whole = FaultyStorage(copied(world.storage))
    await two_backups(whole, world, {})
    for round_number, operation in enumerate(rng.sample(range(2, whole.operations), 4)):
        kill_at = KillAt(operation, after_effect=rng.random() < 0.5)
        remains, _ = await die_and_recover(world, tmp_path, kill_at)
        folder = tmp_path / f"repository-{round_number}"
        await export(remains, folder)
        client = kopia(folder)
        client.run("snapshot", "verify", "--verify-files-percent=100")
        client.run("maintenance", "run", "--full", "--safety=none")
        client.run("snapshot", "verify", "--verify-files-percent=100")
        client.run("content", "verify", "--full")


async def test_killed_at_sampled_operations_of_a_larger_backup(
    tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "AHEAD_ENTRIES", 40)
    large = {b"large-%d" % n: noise(9_000_000, n) for n in range(5)}
    first, second = seeded(1, 400), seeded(2, 700)
    world = await make_world(tmp_path, first, Folder({**second.entries, **large}), manifests=0)
    whole = FaultyStorage(copied(world.storage))
    await two_backups(whole, world, {})
    assert sum(line.startswith("put p") for line in whole.log) > 2
    for operation in rng.sample(range(whole.operations), 6):
        await die_and_recover(world, tmp_path, KillAt(operation, after_effect=rng.random() < 0.5))
