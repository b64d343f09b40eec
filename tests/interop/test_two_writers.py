"""Both sides write into one repository at the same moment, again and again, and neither harms the other."""

import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.testing.kopia_client import KopiaClient
from agent.testing.trees import Folder, noise, plant, scan, seeded
from tests.interop.sides import (
    Backup,
    Ours,
    assert_same,
    by_stored_name,
    kopia_finds_no_fault,
    restored_by_kopia,
    snapshots_by_kopia,
    stored,
)

pytestmark = pytest.mark.kopia

_Clients = Callable[..., KopiaClient]
_ROUNDS = 3


def _start(kopia: KopiaClient, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        kopia.command(*command), env=kopia.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _wait(process: subprocess.Popen[str]) -> None:
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said


def test_backups_of_both_sides_at_once(ours: Ours, kopia: _Clients, tmp_path: Path) -> None:
    client = kopia(ours.folder).connect()
    for number in range(_ROUNDS):
        # Half of each tree is in the other one too: both write the same contents at the same time.
        for side in (1, 2):
            entries = {**seeded(number, 150).entries, b"mine": noise(12_000_000, 10 * number + side)}
            plant(tmp_path / f"tree-{side}-{number}", Folder({**entries, b"shared": noise(8_000_000, number)}))
    for number in range(_ROUNDS):
        theirs = _start(client, "snapshot", "create", str(tmp_path / f"tree-1-{number}"))
        with ThreadPoolExecutor(1) as pool:
            another = pool.submit(ours.back_up, tmp_path / f"tree-2-{number}", parallel=1)
            ours.back_up(tmp_path / f"tree-1-{number}")
            another.result()
        _wait(theirs)
    listed = snapshots_by_kopia(client)
    assert len(listed) == 3 * _ROUNDS
    assert {snapshot.id for snapshot in ours.snapshots()} == {snapshot["id"] for snapshot in listed}
    kopia_finds_no_fault(client)
    assert ours.read_everything() > 300
    seen = scan(tmp_path / "tree-1-2")
    for number, snapshot in enumerate(s for s in ours.snapshots() if s.source.path.endswith("tree-1-2")):
        ours.restore(snapshot.id, tmp_path / f"by-us-{number}")
        assert_same(by_stored_name(scan(tmp_path / f"by-us-{number}")), stored(seen))
    client.run("snapshot", "restore", snapshot.id, str(tmp_path / "by-kopia"))
    assert_same(by_stored_name(scan(tmp_path / "by-kopia")), restored_by_kopia(seen))


def test_maintenance_by_kopia_while_we_back_up(ours: Ours, kopia: _Clients, tmp_path: Path) -> None:
    client = kopia(ours.folder).connect()
    for number in range(_ROUNDS):
        top = tmp_path / f"tree-{number}"
        plant(top, Folder({**seeded(number, 100).entries, b"large": noise(20_000_000, number)}))
        maintenance = _start(client, "maintenance", "run", "--full")
        ours.back_up(top)
        _wait(maintenance)
    client.run("maintenance", "run", "--full")
    assert len(snapshots_by_kopia(client)) == _ROUNDS
    kopia_finds_no_fault(client)
    ours.read_everything()


def test_manifests_put_by_both_at_once_all_survive_compaction_by_both(
    ours: Ours, kopia: _Clients, tmp_path: Path
) -> None:
    plant(tmp_path / "tree", seeded(1, 5))
    client = kopia(ours.folder).connect()
    stop = threading.Event()
    taken: list[Backup] = []

    def keep_writing() -> None:
        while not stop.is_set() and len(taken) < 60:
            taken.append(ours.back_up(tmp_path / "tree"))

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        for number in range(6):
            client.run("snapshot", "create", str(tmp_path / "tree"), f"--tags=number:{number}")
    finally:
        stop.set()
        writer.join()
    assert len(taken) > 6
    listed = {str(snapshot["id"]) for snapshot in snapshots_by_kopia(client)}
    # Kopia expires older ones of a source after each snapshot; its ten latest stay, and so do those after the last.
    assert {s.id for s in ours.snapshots()} == listed
    assert len([s for s in ours.snapshots() if "tag:number" in s.tags]) >= 1
    kopia_finds_no_fault(client)
