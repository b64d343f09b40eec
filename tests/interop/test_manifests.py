"""Snapshots as manifests: tags, pins, incomplete ones, tombstones, Velero's way; each side sees the other's."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agent.snapshots.model import INCOMPLETE_CANCELED, INCOMPLETE_CHECKPOINT, Source
from agent.testing.kopia_client import KopiaClient
from agent.testing.trees import Folder, noise, plant, scan, seeded
from tests.interop.sides import (
    Ours,
    assert_same,
    by_stored_name,
    kopia_finds_no_fault,
    restored_by_kopia,
    snapshot_by_kopia,
    snapshots_by_kopia,
    source_of,
)

pytestmark = pytest.mark.kopia

_Clients = Callable[..., KopiaClient]
_SPANS = ("hourly", "daily", "weekly", "monthly", "annual")


def test_tags_pins_and_description_are_the_same_to_both(ours: Ours, kopia: _Clients, tmp_path: Path) -> None:
    plant(tmp_path / "tree", seeded(1, 5))
    client = kopia(ours.folder).connect()
    by_us = ours.back_up(
        tmp_path / "tree", tags={"tag:colour": "blue & <green>"}, pins=("b", "a"), description="día \u2028"
    ).snapshot
    snapshot_by_kopia(
        client, tmp_path / "tree", "--tags=colour:blue & <green>", "--pin=a", "--pin=b", "--description=día \u2028"
    )
    one, other = snapshots_by_kopia(client)
    for key in ("tags", "pins", "description", "source"):
        assert one[key] == other[key]
    first, second = ours.snapshots()
    assert (first.tags, first.pins, first.description) == (second.tags, second.pins, second.description)
    assert len(snapshots_by_kopia(client, "--tags=colour:blue & <green>")) == 2

    client.run("snapshot", "pin", by_us.id, "--add=c", "--remove=a")
    assert sorted(s.pins for s in ours.snapshots()) == [("a", "b"), ("b", "c")]
    # A pinned snapshot of ours is not expired by kopia.
    client.run("policy", "set", "--global", *(f"--keep-{span}=0" for span in _SPANS), "--keep-latest=1")
    ours.back_up(tmp_path / "tree")
    ours.back_up(tmp_path / "tree")
    snapshot_by_kopia(client, tmp_path / "tree")
    assert len([s for s in ours.snapshots() if s.pins]) == 2
    assert len(ours.snapshots()) == 3


def test_velero_s_snapshots_of_ours_are_ordinary_ones_for_kopia(kopia: _Clients, tmp_path: Path) -> None:
    ours = Ours(tmp_path / "repo").create(for_velero=True)
    plant(tmp_path / "tree", Folder({**seeded(2, 30).entries, b"large": noise(9_000_000, 1)}))
    seen = scan(tmp_path / "tree")
    client = kopia(ours.folder).connect()
    source = Source("default", "default", "snapshot-data-upload-download/kopia/shop/data")
    tags = {"snapshot-requester": "snapshot-data-upload-download", "snapshot-uploader": "kopia"}
    options = {"tags": {**tags, "velero.io/async-operation-id": "du-1"}, "pins": ("velero-pin",), "velero": True}
    first = ours.back_up(tmp_path / "tree", source, description="Kopia Uploader", **options).snapshot
    second = ours.back_up(
        tmp_path / "tree", source, description="Kopia Uploader", parent_tags=tags, fail_fast=True, **options
    )
    assert second.result.parents == (first.id,)
    assert second.data_bytes_read == 0
    listed = snapshots_by_kopia(client)
    assert [s["id"] for s in listed] == [first.id, second.snapshot.id]
    assert listed[0]["pins"] == ["velero-pin"]
    assert listed[0]["source"] == {"host": "default", "userName": "default", "path": source.path}
    assert listed[0]["tags"] == options["tags"]
    client.run("maintenance", "run", "--full", "--safety=none")
    client.run("snapshot", "restore", first.id, str(tmp_path / "by-kopia"))
    assert_same(by_stored_name(scan(tmp_path / "by-kopia")), restored_by_kopia(seen))
    kopia_finds_no_fault(client)


def test_kopia_resumes_from_a_backup_of_ours_that_was_cut_short(ours: Ours, kopia: _Clients, tmp_path: Path) -> None:
    plant(tmp_path / "tree", seeded(3, 50))
    client = kopia(ours.folder).connect()
    done = ours.back_up(tmp_path / "tree").snapshot
    ours.forget([done.id])
    for incomplete in (INCOMPLETE_CANCELED, INCOMPLETE_CHECKPOINT):
        raw = msgspec.structs.replace(done, incomplete=incomplete).to_json()
        labels = {"type": "snapshot", "hostname": "default", "username": "default", "path": done.source.path}
        ours.put_manifest(labels, raw)
    assert {s["incomplete"] for s in snapshots_by_kopia(client)} == {"canceled", "checkpoint"}
    client.run("maintenance", "run", "--full", "--safety=none")
    by_kopia = snapshot_by_kopia(client, tmp_path / "tree")
    assert ours.snapshot(by_kopia.id).stats.cached_files == 50
    assert by_kopia.root == str(done.root.obj if done.root else "")


def test_we_resume_from_a_backup_of_kopia_s_that_was_cut_short(ours: Ours, kopia: _Clients, tmp_path: Path) -> None:
    files = {b"%02d" % i: noise(500_000, i) for i in range(20)}
    plant(tmp_path / "tree", Folder(files))
    client = kopia(ours.folder).connect()
    snapshot_by_kopia(client, tmp_path / "tree", "--upload-limit-mb=4", "--parallel=1")
    (cut,) = ours.snapshots(source_of(tmp_path / "tree"))
    assert cut.incomplete
    assert cut.root is not None
    ours.read_everything()
    again = ours.back_up(tmp_path / "tree")
    assert again.result.parents == (cut.id,)
    assert 0 < again.data_bytes_read < 20 * 500_000
    # The superseded one is gone, for kopia too.
    assert [s["id"] for s in snapshots_by_kopia(client)] == [again.snapshot.id]
    assert snapshot_by_kopia(client, tmp_path / "tree").root == again.root
    kopia_finds_no_fault(client)
