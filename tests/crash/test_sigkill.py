"""Real commands on real stores, ended by SIGKILL at random moments."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.base.errors import BucketNotFound, NotARepository, WrongPassword
from agent.repository.repository import Repository
from agent.storage.open import open_storage
from agent.testing.kopia_client import KopiaClient
from agent.testing.s3_server import SeaweedServer
from agent.testing.trees import Folder, noise, plant, scan, seeded, text
from tests.crash.kit import PASSWORD, check_markers, read_everything, remove, restored, snapshots
from tests.crash.processes import Commands

ROUNDS = 10


@dataclass
class Place:
    """A repository of its own on one kind of store."""

    url: str
    commands: Commands

    @asynccontextmanager
    async def opened(self, password: str = PASSWORD) -> AsyncIterator[Repository]:
        storage = await open_storage(self.url)
        try:
            async with Repository.open(storage, password) as repo:
                yield repo
        finally:
            await storage.close()


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    with SeaweedServer(tmp_path_factory.mktemp("seaweed")) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def folder_place(tmp_path: Path) -> Iterator[Place]:
    url = f"file://{tmp_path}/repository"
    with Commands(tmp_path, url) as commands:
        commands.run("repository", "create", "--splitter=DYNAMIC-128K-BUZHASH")
        commands.warm_up()
        yield Place(url, commands)


@pytest.fixture
def s3_place(tmp_path: Path, seaweed: SeaweedServer) -> Iterator[Place]:
    bucket = f"crash-{abs(hash(tmp_path))}"
    seaweed.create_bucket(bucket)
    url = seaweed.url(bucket, "repository/")
    with Commands(tmp_path, url) as commands:
        commands.run("repository", "create", "--splitter=DYNAMIC-128K-BUZHASH")
        commands.warm_up()
        yield Place(url, commands)


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(f"{request.param}_place")
    return found


def tree(seed: int) -> Folder:
    return Folder({**seeded(seed, 200).entries, b"large": noise(3_000_000, seed)})


def grow(data: Path, number: int) -> None:
    plant(data / f"more-{number}", Folder({b"%d" % n: text(f"{number} {n}") for n in range(30)}))
    plant(data / f"large-{number}", Folder({b"large": noise(1_500_000, number)}))


async def test_backups_killed_at_random_moments_lose_nothing_that_was_saved(
    place: Place, tmp_path: Path, rng: random.Random, request: pytest.FixtureRequest
) -> None:
    data = tmp_path / "data"
    plant(data, tree(1))
    first = place.commands.run("backup", str(data))
    saved, before, killed = {first["snapshotID"]}, scan(data), 0
    for number in range(ROUNDS):
        grow(data, number)
        options = ["--checkpoint-interval=0s"] if rng.random() < 0.5 else []
        killed += place.commands.kill(rng.uniform(0, 1.1), "backup", str(data), *options)
        async with place.opened() as repo:
            found = await snapshots(repo)
            assert saved <= {s.id for s in found}
            saved |= {s.id for s in found if not s.incomplete}
            await read_everything(repo)
            await check_markers(repo)
    assert killed
    last = place.commands.run("backup", str(data))
    async with place.opened() as repo:
        found = {s.id: s for s in await snapshots(repo)}
        assert saved | {last["snapshotID"]} == found.keys()
        assert await restored(repo, found[last["snapshotID"]], tmp_path / "last") == scan(data)
        assert await restored(repo, found[first["snapshotID"]], tmp_path / "first") == before
    if place.url.startswith("file:"):
        kopia: Callable[[Path], KopiaClient] = request.getfixturevalue("kopia")
        client = kopia(tmp_path / "repository")
        client.run("snapshot", "verify", "--verify-files-percent=100")
        client.run("maintenance", "run", "--full", "--safety=none")
        client.run("snapshot", "verify", "--verify-files-percent=100")


async def test_restores_killed_at_random_moments_are_resumed_and_come_to_the_same_end(
    place: Place, tmp_path: Path, rng: random.Random
) -> None:
    data = tmp_path / "data"
    plant(data, tree(1))
    wanted = scan(data)
    leaves = {path for path, seen in wanted.items() if seen.kind in "fs"}
    snapshot = place.commands.run("backup", str(data))["snapshotID"]
    place.commands.run("restore", snapshot, str(tmp_path / "whole"))
    killed = 0
    for number in range(ROUNDS):
        target = tmp_path / f"target-{number}"
        killed += place.commands.kill(rng.uniform(0, 1), "restore", snapshot, str(target))
        there = scan(target) if target.exists() else {}
        unfinished = any(b".lighter-restore-" in path for path in there)
        done = {path for path in leaves if there.get(path) == wanted[path]}
        result = place.commands.run("restore", snapshot, str(target))
        assert scan(target) == wanted
        if unfinished:
            assert result["resumed"] == len(done)
            assert result["files"] + result["symlinks"] == len(leaves) - len(done)
        await asyncio.to_thread(remove, target)
    assert killed


async def test_forgetting_and_compaction_killed_at_random_moments_damage_nothing(
    folder_place: Place, tmp_path: Path, rng: random.Random
) -> None:
    data = tmp_path / "data"
    plant(data, seeded(3, 20))
    place, ids = folder_place, []
    for number in range(ROUNDS + 12):
        source = f"--source=a@b:/{number}"
        ids.append(place.commands.run("backup", str(data), source)["snapshotID"])
    assert place.commands.end("forget", "--yes", ids.pop()) == 0
    for doomed in ids[:ROUNDS]:
        place.commands.kill(rng.uniform(0, 1.2), "forget", "--yes", doomed)
        async with place.opened() as repo:
            assert set(ids) - {s.id for s in await snapshots(repo)} <= set(ids[:ROUNDS])
            await read_everything(repo)
            await check_markers(repo)
    async with place.opened() as repo:
        assert set(ids[ROUNDS:]) <= {s.id for s in await snapshots(repo)}


async def test_rebuilding_indexes_killed_at_random_moments_can_be_done_again(
    folder_place: Place, tmp_path: Path, rng: random.Random
) -> None:
    data, place = tmp_path / "data", folder_place
    plant(data, seeded(4, 60))
    snapshot = place.commands.run("backup", str(data))["snapshotID"]
    storage = await open_storage(place.url)
    indexes = [blob.blob_id async for blob in storage.list("xn")]
    assert indexes
    await storage.delete(indexes)
    await storage.close()
    assert place.commands.end("repository", "repair-index") == 0
    for _ in range(ROUNDS):
        place.commands.kill(rng.uniform(0, 1), "repository", "repair-index", "--commit")
    place.commands.run("repository", "repair-index", "--commit")
    async with place.opened() as repo:
        found = {s.id: s for s in await snapshots(repo)}
        assert await restored(repo, found[snapshot], tmp_path / "target") == scan(data)


async def test_after_a_killed_change_of_the_password_one_of_the_two_opens(
    folder_place: Place, tmp_path: Path, rng: random.Random
) -> None:
    place = folder_place
    files = [tmp_path / "password", tmp_path / "password-new"]
    files[1].write_text("another passw0rd")
    change = ("repository", "change-password")
    for old, new in ((0, 1), (1, 0)):
        place.commands.run(*change, f"--new-password-file={files[new]}", password_file=files[old])
    for _ in range(ROUNDS):
        place.commands.kill(rng.uniform(0.1, 1.2), *change, f"--new-password-file={files[1]}")
        opening = []
        for number, password in enumerate((PASSWORD, "another passw0rd")):
            try:
                async with place.opened(password):
                    opening.append(number)
            except WrongPassword:
                pass
        assert len(opening) == 1
        if opening == [1]:
            place.commands.run(*change, f"--new-password-file={files[0]}", password_file=files[1])


async def test_a_killed_creation_leaves_a_repository_or_nothing_that_looks_like_one(
    tmp_path: Path, rng: random.Random
) -> None:
    with Commands(tmp_path, f"file://{tmp_path}/first") as commands:
        commands.run("repository", "create")
        for number in range(ROUNDS):
            commands.url = f"file://{tmp_path}/{number}"
            commands.kill(rng.uniform(0, 1.2), "repository", "create")
            try:
                async with Place(commands.url, commands).opened() as repo:
                    assert await snapshots(repo) == []
                    usable = True
            except (BucketNotFound, NotARepository):
                usable = False
            status = commands.end("repository", "create")
            assert status in ({31} if usable else {0, 31})
            if status:
                assert "hint" in (tmp_path / "output").read_text()
