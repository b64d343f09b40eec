"""Changing from one side to the other costs nothing: neither reads nor uploads what the other has backed up.

Counted are the files that were taken over unread, bytes read, and new packs of data in the repository folder.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.testing.kopia_client import KopiaClient
from agent.testing.trees import LONG_AGO_NS, Folder, Link, Metadata, Node, Special, noise, plant, seeded
from tests.interop.sides import Ours, blobs, kopia_finds_no_fault, snapshot_by_kopia

pytestmark = pytest.mark.kopia

_Clients = Callable[..., KopiaClient]
_FILES, _LINKS = 300, 3


def _tree() -> Folder:
    """Files of all modes, owners and sizes, links and pipes."""
    links: dict[bytes, Node] = {b"link-%d" % i: Link(b"x" * (i + 1), Metadata(mtime_ns=i + 1)) for i in range(_LINKS)}
    files = {**seeded(5, _FILES - 1).entries, b"large": noise(2_000_000, 9, Metadata(mtime_ns=LONG_AGO_NS))}
    return Folder({**files, b"links": Folder({**links, b"pipe": Special()}), b"empty": Folder()})


def _changed(top: Path, rng: random.Random) -> int:
    """Change, add and remove something; how many files have new contents."""
    files = sorted(path for path in top.rglob("file-*") if path.is_file())
    for path in rng.sample(files, 5):
        path.write_bytes(rng.randbytes(1000))
    files[0].unlink()
    (top / f"new-{rng.random()}").write_bytes(rng.randbytes(5000))
    return 6


def test_kopia_takes_over_everything_from_our_snapshot(ours: Ours, kopia: _Clients, tmp_path: Path) -> None:
    plant(tmp_path / "tree", _tree())
    client = kopia(ours.folder).connect()
    first = ours.back_up(tmp_path / "tree")
    packs = blobs(ours.folder, "p")
    second = snapshot_by_kopia(client, tmp_path / "tree")
    assert second.root == first.root
    stats = ours.snapshot(second.id).stats
    assert (stats.cached_files, stats.non_cached_files) == (_FILES + _LINKS, 0)
    assert blobs(ours.folder, "p") == packs


def test_we_take_over_everything_from_kopia_s_snapshot(kopia: _Clients, tmp_path: Path) -> None:
    plant(tmp_path / "tree", _tree())
    client = kopia(tmp_path / "repo").create()
    first = snapshot_by_kopia(client, tmp_path / "tree")
    packs = blobs(tmp_path / "repo", "p")
    second = Ours(tmp_path / "repo").back_up(tmp_path / "tree")
    assert second.root == first.root
    assert second.result.parents == (first.id,)
    assert second.data_bytes_read == 0
    assert second.snapshot.stats.cached_files == _FILES + _LINKS
    assert second.snapshot.stats.non_cached_files == 0
    assert blobs(tmp_path / "repo", "p") == packs
    # The same again from our own: the numbers kopia would give.
    third = snapshot_by_kopia(client, tmp_path / "tree")
    assert Ours(tmp_path / "repo").snapshot(third.id).stats == second.snapshot.stats


def test_turn_about_each_side_reads_only_what_changed(ours: Ours, kopia: _Clients, tmp_path: Path) -> None:
    rng = random.Random(3)
    top = tmp_path / "tree"
    plant(top, _tree())
    client = kopia(ours.folder).connect()
    snapshot_by_kopia(client, top)
    for _ in range(3):
        changed = _changed(top, rng)
        by_us = ours.back_up(top)
        assert by_us.snapshot.stats.non_cached_files == changed
        assert by_us.data_bytes_read == 5 * 1000 + 5000
        packs = blobs(ours.folder, "p")
        # A full backup comes to the same, and adds nothing.
        assert ours.back_up(top, full=True).root == by_us.root
        assert blobs(ours.folder, "p") == packs
        changed = _changed(top, rng)
        by_kopia = snapshot_by_kopia(client, top)
        assert ours.snapshot(by_kopia.id).stats.non_cached_files == changed
        assert ours.back_up(top, full=True).root == by_kopia.root
    kopia_finds_no_fault(client)


def test_a_change_of_metadata_alone_is_seen_by_both_and_uploads_no_data(
    ours: Ours, kopia: _Clients, tmp_path: Path
) -> None:
    top = tmp_path / "tree"
    plant(top, Folder({b"a": noise(10_000, 1), b"b": noise(10_000, 2), b"c": noise(10_000, 3), b"d": noise(10_000, 4)}))
    client = kopia(ours.folder).connect()
    ours.back_up(top)
    packs = blobs(ours.folder, "p")

    def touch() -> None:
        os.chmod(top / "a", (top / "a").stat().st_mode ^ 0o1)
        os.utime(top / "b", ns=(0, (top / "b").stat().st_mtime_ns + 1))
        if os.geteuid() == 0:
            os.chown(top / "c", (top / "c").stat().st_uid + 1, 0)
        os.chmod(top, (top.stat().st_mode ^ 0o2))

    touch()
    by_kopia = snapshot_by_kopia(client, top)
    touched = 3 if os.geteuid() == 0 else 2
    assert ours.snapshot(by_kopia.id).stats.non_cached_files == touched
    touch()
    by_us = ours.back_up(top)
    assert by_us.snapshot.stats.non_cached_files == touched
    assert blobs(ours.folder, "p") == packs
    assert snapshot_by_kopia(client, top).root == by_us.root
