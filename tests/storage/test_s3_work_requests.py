"""Which requests whole pieces of work make: the explanation is "What is asked of a store" in docs/architecture.md."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.base.times import NANOSECONDS
from agent.repository.repository import OpenOptions, Repository
from agent.snapshots.model import Source
from agent.snapshots.restore import RestoreOptions, restore
from agent.snapshots.store import list_snapshots
from agent.snapshots.upload import upload_tree
from agent.testing.clock import VirtualClock
from agent.testing.recording_s3 import RecordedRequest, RecordingS3
from tests.storage.conftest import opened

PASSWORD = "requests are counted"
SOURCE = Source(host="web1", user="root", path="/srv/app")
PREPARED = ["HEAD kopia.repository", "GET kopia.repository", "HEAD kopia.blobcfg", "GET kopia.blobcfg"]
COMMIT = ["LIST xe", "PUT xn", "LIST xe", "DELETE s"]


def kind(request: RecordedRequest) -> str:
    """`LIST x`, `GET p`: what was done to which kind of blob."""
    if "list-type" in request.query:
        return f"LIST {request.query['prefix']}"
    name = request.key
    return f"{request.method} {name if name.startswith(('kopia.', '.')) else name[: 2 if name[0] == 'x' else 1]}"


class Kit:
    """One client with a cache of its own."""

    def __init__(self, server: RecordingS3, cache: Path) -> None:
        self._server = server
        self.clock = VirtualClock(1_767_225_600 * NANOSECONDS, jump=False)  # the server's own time
        self._options = OpenOptions(cache_dir=cache, clock=self.clock)

    @asynccontextmanager
    async def repository(self) -> AsyncIterator[Repository]:
        async with opened(self._server) as storage, Repository.open(storage, PASSWORD, options=self._options) as repo:
            yield repo

    async def backup(self, volume: Path) -> list[str]:
        self._server.requests.clear()
        self.clock.advance(60)
        async with self.repository() as repo, repo.writer() as writer:
            await upload_tree(repo, writer, SOURCE, str(volume))
        return [kind(request) for request in self._server.requests]

    async def restore(self, target: Path) -> list[str]:
        self._server.requests.clear()
        async with self.repository() as repo:
            root = list_snapshots(repo.manifests, SOURCE).snapshots[-1].root
            assert root is not None
            await restore(repo, root, target, options=RestoreOptions(owners=False))
        return [kind(request) for request in self._server.requests]


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    folder = tmp_path / "volume"
    for number in range(30):
        (folder / f"d{number % 3}").mkdir(parents=True, exist_ok=True)
        (folder / f"d{number % 3}" / f"f{number}").write_bytes(b"%d" % number * 100)
    return folder


@pytest.fixture
async def kit(recording: RecordingS3, tmp_path: Path) -> Kit:
    kit = Kit(recording, tmp_path / "cache")
    async with opened(recording) as storage:
        await Repository.create(storage, PASSWORD, clock=kit.clock)
    return kit


async def test_a_first_backup_asks_for_little_more_than_it_writes(kit: Kit, volume: Path) -> None:
    asked = await kit.backup(volume)
    assert asked[:6] == [*PREPARED, "LIST x", "GET xn"]
    assert sorted(asked[6:]) == sorted(
        ["GET q", "GET .storageconfig", "PUT s", "HEAD s", "PUT p", "PUT q", "LIST x", *COMMIT]
    )
    assert asked[-4:] == COMMIT


async def test_an_unchanged_backup_makes_eleven_requests(kit: Kit, volume: Path) -> None:
    await kit.backup(volume)
    await kit.backup(volume)  # fetches the folders that the first one wrote
    asked = await kit.backup(volume)
    assert sorted(asked) == sorted(
        ["LIST x", "GET q", "LIST x", "GET .storageconfig", "PUT s", "HEAD s", "PUT q", *COMMIT]
    )


async def test_a_restore_lists_once_and_fetches_packs(kit: Kit, volume: Path, tmp_path: Path) -> None:
    await kit.backup(volume)
    asked = await kit.restore(tmp_path / "restored")
    assert sorted(asked) == ["GET p", "GET q", "LIST x"]
    assert (tmp_path / "restored" / "d1" / "f1").read_bytes() == b"1" * 100
    assert sorted(await kit.restore(tmp_path / "again")) == ["GET p", "LIST x"]
