"""Our backups and kopia's of the same tree: the same bytes, the same counters, and neither reads after the other."""

import asyncio
import os
import random
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.repository.repository import Repository
from agent.snapshots.model import Snapshot, Source, decode_snapshot
from agent.snapshots.progress import Cancellation, UploadProgress
from agent.snapshots.upload import UploadOptions, upload_tree
from agent.snapshots.upload_device import upload_device
from agent.storage.filesystem import FilesystemStorage

pytestmark = pytest.mark.kopia
PASSWORD = "static-passw0rd"
RANDOM = random.Random(11)
LARGE = RANDOM.randbytes(23_000_000)


async def back_up(folder, path, *, device=False, cancellation=None, **options):
    progress = UploadProgress()
    source = Source("default", "default", str(path))
    async with Repository.open(FilesystemStorage(str(folder)), PASSWORD) as repo, repo.writer() as writer:
        result = await (upload_device if device else upload_tree)(
            repo,
            writer,
            source,
            str(path),
            options=UploadOptions(**{"parallel": 2, **options}),
            progress=progress,
            cancellation=cancellation,
        )
    return result, progress


def snapshot_by(client, path) -> Snapshot:
    mid = client.json("snapshot", "create", str(path))["id"]
    shown = client.run("manifest", "show", mid)
    data = msgspec.json.decode(shown[re.search(r"^\{", shown, re.MULTILINE).start() :])
    return decode_snapshot(mid, msgspec.json.encode(data))


def make_tree(root: Path) -> Path:
    (root / "sub" / "deeper").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "large").write_bytes(LARGE)
    (root / "sub" / "text").write_bytes(b"some text\n" * 30_000)
    (root / "sub" / "deeper" / "nothing").write_bytes(b"")
    (root / "sub" / "link").symlink_to("../large")
    for name in ("a&b", "<tag>", 'quo"te', "back\\slash", "é", "\u2028", "tab\t", "\x01", "-", ".dot", "😀"):
        (root / name).write_text(name)
    for number in range(300):
        (root / "sub" / f"f{number}").write_bytes(RANDOM.randbytes(number))
    (root / "setuid").write_bytes(b"x")
    os.chown(root / "setuid", 1000, 4_294_967_000)
    os.chmod(root / "setuid", 0o6755)  # noqa: S103
    os.chmod(root / "empty", 0o1777)  # noqa: S103
    os.utime(root / "sub" / "f1", ns=(0, 0))
    os.utime(root / "sub" / "f2", ns=(0, -1_500_000_000))
    os.utime(root / "sub" / "f3", ns=(0, 1_700_000_000_120_000_000))
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture
def repository(tmp_path):
    return tmp_path / "repository"


async def test_the_same_tree_has_the_same_root_and_kopia_rescans_nothing_after_us(kopia, repository, tmp_path):
    tree = make_tree(tmp_path / "tree")
    client = kopia(repository).create()
    ours, _ = await back_up(repository, tree)
    theirs = snapshot_by(client, tree)
    assert theirs.root == ours.snapshot.root
    assert theirs.stats.non_cached_files == 0
    assert theirs.stats.cached_files == theirs.root.summ.files + theirs.root.summ.symlinks
    client.run("snapshot", "verify", "--verify-files-percent=100")
    client.run("content", "verify", "--full")


async def test_we_rescan_nothing_after_kopia_and_count_as_it_does(kopia, repository, tmp_path):
    tree = make_tree(tmp_path / "tree")
    client = kopia(repository).create()
    first = snapshot_by(client, tree)
    packs = set(repository.rglob("p/**/*.f"))
    ours, progress = await back_up(repository, tree)
    assert ours.snapshot.root == first.root
    assert progress.bytes_read == 0
    assert set(repository.rglob("p/**/*.f")) == packs
    assert snapshot_by(client, tree).stats == ours.snapshot.stats
    full, _ = await back_up(repository, tree, full=True)
    assert full.snapshot.root == first.root
    assert full.snapshot.stats == first.stats


async def test_changes_are_counted_as_kopia_counts_them(kopia, repository, tmp_path):
    tree = make_tree(tmp_path / "tree")
    (tree / os.fsdecode(b"bad\xff")).write_bytes(b"x")
    (tree / ".kopiaignore").write_text("*.tmp\n/sub/deeper\n")
    (tree / "cache").mkdir()
    (tree / "cache" / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55")
    client = kopia(repository).create()
    base = snapshot_by(client, tree)
    (tree / "a.tmp").write_bytes(b"ignored")
    (tree / "sub" / "f7").unlink()
    (tree / "sub" / "f8").write_bytes(b"changed")
    os.chmod(tree / "sub" / "f9", 0o600)
    (tree / "sub" / "new").symlink_to("x")
    (tree / "é").unlink()
    (tree / "é").mkdir()
    theirs = snapshot_by(client, tree)
    ours, _ = await back_up(repository, tree, parent=base.id)
    assert ours.snapshot.root == theirs.root
    assert ours.snapshot.stats == theirs.stats


async def test_policies_of_kopia_are_followed(kopia, repository, tmp_path):
    tree = make_tree(tmp_path / "tree")
    client = kopia(repository).create()
    client.run("policy", "set", str(tree), "--compression=zstd", "--splitter=DYNAMIC-1M-BUZHASH")
    client.run("policy", "set", str(tree), "--parallel-upload-above-size-mib=5", "--metadata-compression=none")
    client.run("policy", "set", str(tree / "sub"), "--add-ignore=f1*")
    ours, _ = await back_up(repository, tree)
    theirs = snapshot_by(client, tree)
    assert theirs.root == ours.snapshot.root
    assert theirs.stats.non_cached_files == 0
    assert theirs.stats.excluded_file_count == ours.snapshot.stats.excluded_file_count > 100
    client.run("snapshot", "verify", "--verify-files-percent=100")
    client.run("snapshot", "delete", ours.snapshot.id, theirs.id, "--delete")
    again = snapshot_by(client, tree)
    assert again.root == ours.snapshot.root
    assert again.stats == ours.snapshot.stats


async def test_kopia_reads_checkpoints_and_canceled_runs_and_device_snapshots(kopia, repository, tmp_path):
    tree = make_tree(tmp_path / "tree")
    client = kopia(repository).create()
    cancellation = Cancellation()
    cancellation.cancel()
    canceled, _ = await back_up(repository, tree, cancellation=cancellation)
    image = tmp_path / "image"
    image.write_bytes(LARGE[:5_000_000] + bytes(9_000_000))
    await back_up(repository, image, device=True, velero=True)
    await back_up(repository, image, device=True)
    listed = client.json("snapshot", "list", "--all", "--incomplete")
    assert {item.get("incomplete", "") for item in listed} == {"canceled", ""}
    assert canceled.snapshot.id in {item["id"] for item in listed}
    await back_up(repository, tree, checkpoint_interval=0)
    client.run("snapshot", "verify", "--verify-files-percent=100")


names = st.binary(min_size=1, max_size=12).filter(lambda n: b"/" not in n and b"\0" not in n and n not in (b".", b".."))
files = st.fixed_dictionaries(
    {"data": st.binary(max_size=100), "mode": st.integers(0, 0o7777), "mtime": st.integers(-(2**33), 2**33)}
)
trees = st.recursive(
    st.dictionaries(names, files | st.binary(min_size=1, max_size=20).filter(lambda t: b"\0" not in t), max_size=6),
    lambda inner: st.dictionaries(names, inner | files, max_size=5),
    max_leaves=12,
)


def build(folder: bytes, tree) -> None:
    os.mkdir(folder)
    for name, item in tree.items():
        path = folder + b"/" + name
        if isinstance(item, bytes):
            os.symlink(item, path)
        elif set(item) == {"data", "mode", "mtime"}:
            with open(path, "wb") as file:
                file.write(item["data"])
            os.chmod(path, item["mode"])
            os.utime(path, (0, item["mtime"] / 3))
        else:
            build(path, item)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(tree=trees)
def test_any_tree_has_the_same_root_and_counters(kopia, tmp_path_factory, tree):
    base = tmp_path_factory.mktemp("any")
    build(os.fsencode(base / "tree"), tree)
    client = kopia(base / "repository").create("--object-splitter=DYNAMIC-128K-BUZHASH")
    theirs = snapshot_by(client, base / "tree")
    ours, _ = asyncio.run(back_up(base / "repository", base / "tree", full=True))
    assert ours.snapshot.root == theirs.root
    assert ours.snapshot.stats == theirs.stats
