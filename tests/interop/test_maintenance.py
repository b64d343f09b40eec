"""Kopia's maintenance between our writes: what we wrote survives it, what somebody deleted goes, and we read on.

`--safety=none` lets everything happen at once that otherwise takes days; each call of ours opens the repository anew.
"""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.snapshots.model import Snapshot
from agent.testing.kopia_client import KopiaClient
from agent.testing.trees import Folder, Seen, everything, noise, plant, scan, seeded
from tests.interop.sides import (
    Ours,
    assert_same,
    blobs,
    by_stored_name,
    kopia_finds_no_fault,
    restored_by_kopia,
    snapshot_by_kopia,
    snapshots_by_kopia,
    stored,
)

pytestmark = pytest.mark.kopia

_Clients = Callable[..., KopiaClient]
_DANGEROUS = "--dangerous-commands=enabled"


def _maintain(client: KopiaClient, safety: str = "none") -> None:
    client.run("maintenance", "run", "--full", f"--safety={safety}")


def _mark_deleted(client: KopiaClient) -> None:
    """What the first half of garbage collection does: the contents stay in the index and in their packs for now."""
    names = [line.split()[0] for line in client.run("content", "list").splitlines()]
    client.run("content", "delete", *(name for name in names if not name.startswith("m")), _DANGEROUS)


@pytest.mark.check(41)
@pytest.mark.parametrize("version", [1, 3])
@pytest.mark.parametrize("safety", ["none", "full"])
def test_our_backups_survive_full_maintenance_between_them(
    kopia: _Clients, tmp_path: Path, version: int, safety: str
) -> None:
    ours = Ours(tmp_path / "repo").create(format_version=version, splitter="DYNAMIC-128K-BUZHASH")
    client = kopia(ours.folder).connect()
    rng = random.Random(version)
    top = tmp_path / "tree"
    plant(top, everything() if version == 3 else seeded(2, 120))
    taken: list[tuple[Snapshot, dict[bytes, Seen]]] = []
    for number in range(4):
        taken.append((ours.back_up(top).snapshot, scan(top)))
        _maintain(client, safety)
        for path in rng.sample(sorted(p for p in top.rglob("*") if p.is_file() and not p.is_symlink()), 4):
            path.write_bytes(rng.randbytes(rng.randrange(300_000)))
        (top / f"new-{number}").write_bytes(rng.randbytes(100_000))
    kopia_finds_no_fault(client)
    assert [s.id for s in ours.snapshots()] == [snapshot.id for snapshot, _ in taken]
    assert ours.read_everything() > 100
    for number, (snapshot, seen) in enumerate(taken[::3]):
        ours.restore(snapshot.id, tmp_path / f"by-us-{number}")
        assert_same(by_stored_name(scan(tmp_path / f"by-us-{number}")), stored(seen))
    client.run("snapshot", "restore", taken[0][0].id, str(tmp_path / "by-kopia"))
    assert_same(by_stored_name(scan(tmp_path / "by-kopia")), restored_by_kopia(taken[0][1]))


def test_space_of_snapshots_that_we_forget_comes_back(ours: Ours, kopia: _Clients, tmp_path: Path) -> None:
    client = kopia(ours.folder).connect()
    plant(tmp_path / "keep", Folder({b"keep": noise(2_000_000, 1)}))
    plant(tmp_path / "lose", Folder({b"lose": noise(45_000_000, 2), b"keep": noise(2_000_000, 1)}))
    kept = ours.back_up(tmp_path / "keep").snapshot
    lost = ours.back_up(tmp_path / "lose").snapshot
    ours.forget([lost.id])
    assert [s["id"] for s in snapshots_by_kopia(client)] == [kept.id]
    assert sum(blobs(ours.folder, "p").values()) > 47_000_000
    for _ in range(20):  # it dates what it deletes a second after it was written, and drops it then
        _maintain(client)
        if sum(blobs(ours.folder, "p").values()) < 15_000_000:
            break
    assert sum(blobs(ours.folder, "p").values()) < 15_000_000
    kopia_finds_no_fault(client)
    assert [s.id for s in ours.snapshots()] == [kept.id]
    ours.read_everything()


def test_snapshots_that_kopia_deletes_are_gone_for_us(ours: Ours, kopia: _Clients, tmp_path: Path) -> None:
    client = kopia(ours.folder).connect()
    plant(tmp_path / "tree", seeded(4, 30))
    first, second = ours.back_up(tmp_path / "tree").snapshot, ours.back_up(tmp_path / "tree").snapshot
    client.run("snapshot", "delete", first.id, "--delete")
    assert [s.id for s in ours.snapshots()] == [second.id]
    third = snapshot_by_kopia(client, tmp_path / "tree")
    ours.forget([third.id, second.id])
    assert snapshots_by_kopia(client) == []


def test_what_maintenance_has_marked_deleted_is_written_again_by_us(
    ours: Ours, kopia: _Clients, tmp_path: Path
) -> None:
    client = kopia(ours.folder).connect()
    plant(tmp_path / "tree", Folder({**seeded(6, 40).entries, b"large": noise(3_000_000, 3)}))
    seen = scan(tmp_path / "tree")
    for number in range(2):
        ours.forget([ours.back_up(tmp_path / "tree").snapshot.id])
        _mark_deleted(client)
        deleted = client.run("content", "list", "--deleted-only").splitlines()
        assert len(deleted) > 40
        again = ours.back_up(tmp_path / "tree")
        assert again.new_bytes > 3_000_000
        _maintain(client)
        kopia_finds_no_fault(client)
        client.run("snapshot", "restore", again.snapshot.id, str(tmp_path / f"by-kopia-{number}"))
        assert_same(by_stored_name(scan(tmp_path / f"by-kopia-{number}")), restored_by_kopia(seen))
        ours.forget([again.snapshot.id])


def test_kopia_takes_a_deleted_content_back_that_our_snapshot_refers_to(
    ours: Ours, kopia: _Clients, tmp_path: Path
) -> None:
    """We deduplicate, kopia marks it deleted a moment later, our manifest comes after that: it is found and revived."""
    client = kopia(ours.folder).connect()
    plant(tmp_path / "tree", Folder({b"large": noise(3_000_000, 3)}))
    first = ours.back_up(tmp_path / "tree").snapshot
    ours.forget([first.id])
    raw = first.to_json()
    _mark_deleted(client)
    labels = {"type": "snapshot", "hostname": "default", "username": "default", "path": first.source.path}
    mid = ours.put_manifest(labels, raw)
    _maintain(client)
    _maintain(client)
    kopia_finds_no_fault(client)
    ours.restore(mid, tmp_path / "out")
    assert_same(by_stored_name(scan(tmp_path / "out")), stored(scan(tmp_path / "tree")))
