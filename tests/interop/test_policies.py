"""Policies that kopia sets, obeyed by us: of one repository, kopia writes to one copy and we write to another.

The copies share their keys, so the same decisions give the same objects, cut at the same places and compressed the same
way: the index rows are compared, not only the roots.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.repository.ids import content_text
from agent.repository.repository import Repository
from agent.testing.kopia_client import KopiaClient
from agent.testing.trees import File, Fill, Folder, Link, Metadata, Stretch, noise, plant, scan, seeded
from tests.interop.sides import (
    Ours,
    assert_same,
    by_stored_name,
    restored_by_kopia,
    snapshot_by_kopia,
    stored,
)

pytestmark = pytest.mark.kopia

_Clients = Callable[..., KopiaClient]
_SHORT = 200


def _prose(length: int, seed: int = 1) -> File:
    return File((Stretch(Fill.TEXT, length, seed),))


def _tree() -> Folder:
    return Folder(
        {
            b"prose.txt": _prose(400_000),
            b"small.txt": _prose(900, 2),
            b"picture.jpg": _prose(300_000, 3),
            b"noise.txt": noise(300_000, 4),
            b"exact": noise(4 << 20, 5),
            b"large": File((Stretch(Fill.RANDOM, 5 << 20, 6), Stretch(Fill.HOLE, 4 << 20), Stretch(Fill.TEXT, 77, 7))),
            b"huge.bin": noise(10 << 20, 8),
            b"cache": Folder({b"CACHEDIR.TAG": noise(10, 1), b"x": noise(10, 2)}),
            b"logs": Folder({b"a.log": noise(10, 3), b"keep.log": noise(10, 4), b"b.txt": _prose(5000, 9)}),
            b"sub": Folder({b"prose.txt": _prose(600_000, 10), **seeded(3, 5).entries}),
            b"link.txt": Link(b"prose.txt", Metadata(mtime_ns=5)),
        }
    )


def _rows(folder: Path) -> dict[str, tuple[int, int]]:
    """{content: (plain length, compressor)} of data and directories."""

    async def run(repo: Repository) -> dict[str, tuple[int, int]]:
        found = {}
        for entry in repo.index.iterate():
            name = content_text(entry.content)
            if not name.startswith("m"):
                found[name] = (entry.original_length, entry.compression)
        return found

    return Ours(folder).reading(run)


@pytest.mark.parametrize(
    ("everywhere", "below"),
    [
        (["--compression=zstd", "--add-never-compress=.jpg", "--compression-min-size=1000"], []),
        (["--compression=gzip", "--add-only-compress=.txt", "--compression-max-size=350000"], ["--compression=none"]),
        (["--parallel-upload-above-size-mib=1", "--compression=zstd-fastest"], ["--parallel-upload-above-size-mib=2"]),
        (["--splitter=FIXED-256K", "--metadata-compression=none"], ["--compression=zstd"]),
        (["--splitter=DYNAMIC-1M-RABINKARP", "--metadata-compression=zstd-better-compression"], []),
        (["--add-ignore=*.log", "--add-ignore=!keep.log", "--max-file-size=6000000"], ["--add-ignore=/file-*"]),
        (["--ignore-cache-dirs=false", "--add-ignore=/sub/**/*1"], []),
        (["--max-file-size=1000"], []),
    ],
    ids=lambda value: " ".join(value).replace("--", "") or "nothing-below",
)
def test_we_store_what_kopia_stores_under_its_policies(
    kopia: _Clients, tmp_path: Path, everywhere: list[str], below: list[str]
) -> None:
    plant(tmp_path / "tree", _tree())
    client = kopia(tmp_path / "theirs").create("--object-splitter=DYNAMIC-512K-BUZHASH")
    client.run("policy", "set", "--global", *everywhere)
    if below:
        client.run("policy", "set", str(tmp_path / "tree" / "sub"), *below)
    shutil.copytree(tmp_path / "theirs", tmp_path / "ours")
    by_kopia = snapshot_by_kopia(client, tmp_path / "tree")
    ours = Ours(tmp_path / "ours")
    by_us = ours.back_up(tmp_path / "tree")
    assert by_us.root == by_kopia.root
    theirs = _rows(tmp_path / "theirs")
    for name, (length, compressor) in _rows(tmp_path / "ours").items():
        their_length, their_compressor = theirs.pop(name)
        assert length == their_length
        # Of what is hardly worth it, two implementations of one compressor may think differently.
        assert compressor == their_compressor or length < _SHORT, name
    # Kopia also writes a list for each part of a file, which nothing refers to afterwards.
    assert not [name for name in theirs if not name.startswith("x")]
    stats = Ours(tmp_path / "theirs").snapshot(by_kopia.id).stats
    assert (stats.file_count, stats.dir_count) == (by_us.snapshot.stats.file_count, by_us.snapshot.stats.dir_count)
    assert stats.total_size == by_us.snapshot.stats.total_size


def test_files_in_parts_and_of_many_lists_go_both_ways(kopia: _Clients, tmp_path: Path) -> None:
    tree = Folder(
        {
            b"parts": noise((24 << 20) + 12_345, 1),
            b"exact": noise(16 << 20, 2),
            b"border": noise(8 << 20, 3),
            b"above": noise((8 << 20) + 1, 4),
            # 64 KiB chunks of zeros: so many that their list is a list of lists.
            b"lists": File((Stretch(Fill.HOLE, 340 << 20), Stretch(Fill.RANDOM, 100, 5))),
        }
    )
    plant(tmp_path / "tree", tree)
    seen = scan(tmp_path / "tree")
    client = kopia(tmp_path / "repo").create("--object-splitter=DYNAMIC-128K-BUZHASH")
    client.run("policy", "set", "--global", "--parallel-upload-above-size-mib=8")
    ours = Ours(tmp_path / "repo")
    by_us = ours.back_up(tmp_path / "tree", parallel=4)
    by_kopia = snapshot_by_kopia(client, tmp_path / "tree")
    assert ours.snapshot(by_kopia.id).stats.cached_files == len(tree.entries)
    forced = snapshot_by_kopia(client, tmp_path / "tree", "--force-hash=100")
    assert forced.root == by_us.root
    assert by_us.snapshot.root is not None
    objects = {path: entry.obj for path, entry in ours.entries(by_us.snapshot.root).items()}
    assert objects["lists"].startswith("II")
    client.run("snapshot", "restore", by_us.snapshot.id, str(tmp_path / "by-kopia"), "--write-sparse-files")
    assert_same(by_stored_name(scan(tmp_path / "by-kopia")), restored_by_kopia(seen))
    ours.restore(forced.id, tmp_path / "by-us", sparse=True)
    assert_same(by_stored_name(scan(tmp_path / "by-us")), stored(seen))
    client.run("snapshot", "verify", "--verify-files-percent=100")
