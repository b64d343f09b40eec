"""Lost and damaged indexes: what one side broke, or lost, the other rebuilds from the packs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.testing.kopia_client import KopiaClient, KopiaFailed
from agent.testing.trees import Folder, noise, plant, scan, seeded
from tests.interop.sides import (
    Ours,
    assert_same,
    blob_path,
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


def _index_prefix(version: int) -> str:
    return "n" if version == 1 else "xn"


@pytest.mark.parametrize(("version", "damage"), [(1, "all lost"), (1, "garbage"), (3, "newest lost"), (3, "garbage")])
def test_we_repair_the_index_of_a_repository_that_kopia_wrote(
    kopia: _Clients, tmp_path: Path, version: int, damage: str
) -> None:
    folder = tmp_path / "repo"
    client = kopia(folder).create(f"--format-version={version}")
    plant(tmp_path / "tree", Folder({**seeded(1, 60).entries, b"large": noise(5_000_000, 1)}))
    seen = scan(tmp_path / "tree")
    known: set[str] = set()
    for _ in range(2):
        known = set(blobs(folder, _index_prefix(version)))
        snapshot = snapshot_by_kopia(client, tmp_path / "tree", "--force-hash=100")
        (tmp_path / "tree" / "more").write_bytes(b"more")
    indexes = set(blobs(folder, _index_prefix(version)))
    for name in indexes if damage != "newest lost" else indexes - known:
        if damage == "garbage":
            blob_path(folder, name).write_bytes(b"\0" * 100)
        else:
            blob_path(folder, name).unlink()
    if damage == "garbage":
        with pytest.raises(KopiaFailed):
            kopia(folder).connect().run("snapshot", "list", "--all")
    ours = Ours(folder)
    report = ours.repair_index()
    assert report.contents > 0
    assert not report.damaged_packs
    again = kopia(folder).connect()
    listed = snapshots_by_kopia(again)
    assert snapshot.id in {s["id"] for s in listed}
    assert len(listed) == 2
    kopia_finds_no_fault(again)
    ours.restore(str(listed[0]["id"]), tmp_path / "out")
    assert_same(by_stored_name(scan(tmp_path / "out")), stored(seen))


@pytest.mark.parametrize("version", [1, 3])
def test_kopia_recovers_the_index_of_a_repository_that_we_wrote(kopia: _Clients, tmp_path: Path, version: int) -> None:
    ours = Ours(tmp_path / "repo").create(format_version=version, splitter="DYNAMIC-128K-BUZHASH")
    client = kopia(ours.folder).connect()
    plant(tmp_path / "tree", Folder({**seeded(1, 60).entries, b"large": noise(25_000_000, 1)}))
    seen = scan(tmp_path / "tree")
    snapshot = ours.back_up(tmp_path / "tree").snapshot
    for name in blobs(ours.folder, _index_prefix(version)):
        blob_path(ours.folder, name).unlink()
    assert snapshots_by_kopia(kopia(ours.folder).connect()) == []
    client.run("index", "recover", "--commit", "--dangerous-commands=enabled")
    assert [s["id"] for s in snapshots_by_kopia(client)] == [snapshot.id]
    kopia_finds_no_fault(client)
    client.run("snapshot", "restore", snapshot.id, str(tmp_path / "out"))
    assert_same(by_stored_name(scan(tmp_path / "out")), restored_by_kopia(seen))
    assert [s.id for s in ours.snapshots()] == [snapshot.id]


def test_kopia_rebuilds_the_format_blob_of_version_1_from_our_packs(kopia: _Clients, tmp_path: Path) -> None:
    ours = Ours(tmp_path / "repo").create(format_version=1)
    plant(tmp_path / "tree", seeded(1, 5))
    snapshot = ours.back_up(tmp_path / "tree").snapshot
    format_blob = blob_path(ours.folder, "kopia.repository")
    before = format_blob.read_bytes()
    format_blob.unlink()
    kopia(ours.folder).run(
        "repository", "repair", "filesystem", f"--path={ours.folder}", "--dangerous-commands=enabled"
    )
    assert format_blob.read_bytes() == before
    assert [s["id"] for s in snapshots_by_kopia(kopia(ours.folder).connect())] == [snapshot.id]
