"""Kopia advances epochs and compacts indexes under us, sooner than ever in life: times of index blobs are set back."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.snapshots.upload import UploadOptions, upload_tree
from agent.testing.kopia_client import KopiaClient
from agent.testing.trees import Folder, noise, plant, seeded
from tests.interop.sides import (
    Ours,
    blob_path,
    blobs,
    kopia_finds_no_fault,
    snapshot_by_kopia,
    snapshots_by_kopia,
    source_of,
)

pytestmark = pytest.mark.kopia

_Clients = Callable[..., KopiaClient]
_SHORT = (
    "--epoch-refresh-frequency=3m",
    "--epoch-min-duration=10m",
    "--epoch-cleanup-safety-margin=9m",
    "--epoch-advance-on-count=10",
    "--epoch-checkpoint-frequency=2",
)


def _advance(ours: Ours, client: KopiaClient) -> int:
    """Have kopia begin a new epoch, given ten index blobs in this one; its number."""
    epoch = _epoch(ours)
    _set_back(ours, f"xn{epoch}_", 20 * 60)
    client.run("maintenance", "run")
    now = _epoch(ours)
    assert now == epoch + 1
    return now


def _epoch(ours: Ours) -> int:
    return max((int(name[2:]) for name in blobs(ours.folder, "xe") if name[2:].isdigit()), default=0)


def _set_back(ours: Ours, prefix: str, seconds: float) -> None:
    """Make the first index blob of an epoch older, so that the epoch is long enough."""
    path = blob_path(ours.folder, min(blobs(ours.folder, prefix)))
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_our_backups_go_on_while_kopia_advances_and_compacts_epochs(
    ours: Ours, kopia: _Clients, tmp_path: Path
) -> None:
    client = kopia(ours.folder).connect()
    client.run("repository", "set-parameters", *_SHORT)
    plant(tmp_path / "tree", Folder({b"f": noise(1000, 0)}))
    taken = []
    for epoch in range(6):
        for number in range(10):
            (tmp_path / "tree" / "f").write_bytes(b"%d %d" % (epoch, number))
            taken.append(ours.back_up(tmp_path / "tree").snapshot.id)
        assert any(name.startswith(f"xn{epoch}_") for name in blobs(ours.folder, "xn"))
        assert _advance(ours, client) == epoch + 1
    client.run("maintenance", "run", "--full", "--safety=none")
    assert blobs(ours.folder, "xs") or blobs(ours.folder, "xr")
    assert blobs(ours.folder, "xr"), "no range was compacted"
    assert [s.id for s in ours.snapshots()] == taken
    ours.read_everything()
    kopia_finds_no_fault(client)
    packs = blobs(ours.folder, "p")
    snapshot_by_kopia(client, tmp_path / "tree")
    ours.back_up(tmp_path / "tree", full=True)
    assert blobs(ours.folder, "p") == packs


def test_a_session_of_ours_that_two_epochs_overtake_commits_in_the_newest(
    ours: Ours, kopia: _Clients, tmp_path: Path
) -> None:
    client = kopia(ours.folder).connect()
    client.run("repository", "set-parameters", *_SHORT)
    plant(tmp_path / "one", seeded(1, 10))
    plant(tmp_path / "two", Folder({b"two": noise(500_000, 2)}))
    plant(tmp_path / "other", Folder({b"f": noise(1000, 0)}))

    def two_epochs() -> None:
        for epoch in range(2):
            for number in range(10):
                (tmp_path / "other" / "f").write_bytes(b"%d %d" % (epoch, number))
                ours.back_up(tmp_path / "other")
            _advance(ours, client)

    async def overtaken() -> None:
        async with ours.writing() as (repo, writer):
            options = UploadOptions(parallel=2)
            await upload_tree(repo, writer, source_of(tmp_path / "one"), str(tmp_path / "one"), options=options)
            # The epoch that the writer has in mind is young enough to be believed; meanwhile two others begin.
            await asyncio.to_thread(two_epochs)
            await upload_tree(repo, writer, source_of(tmp_path / "two"), str(tmp_path / "two"), options=options)

    asyncio.run(overtaken())
    assert _epoch(ours) == 2
    client.run("maintenance", "run", "--full", "--safety=none")
    assert len(ours.snapshots()) == len(snapshots_by_kopia(client)) == 22
    assert {s.source.path for s in ours.snapshots()} == {str(tmp_path / n) for n in ("one", "two", "other")}
    kopia_finds_no_fault(client)


def test_version_1_indexes_compacted_by_kopia_between_our_backups(kopia: _Clients, tmp_path: Path) -> None:
    ours = Ours(tmp_path / "repo").create(format_version=1)
    client = kopia(ours.folder).connect()
    plant(tmp_path / "tree", seeded(1, 5))
    taken = []
    for _ in range(3):
        for _ in range(5):
            taken.append(ours.back_up(tmp_path / "tree").snapshot.id)
        before = len(blobs(ours.folder, "n"))
        client.run("index", "optimize", "--dangerous-commands=enabled", "--max-small-blobs=1")
        assert blobs(ours.folder, "m")
        assert before > 1
        assert [s.id for s in ours.snapshots()] == taken
    kopia_finds_no_fault(client)
    ours.read_everything()
