"""Backups of trees, from the file system to what is in the repository."""

import asyncio
import errno
import os
import subprocess
import threading
from pathlib import Path

import msgspec
import pytest

from agent.base.errors import SourceUnreadable
from agent.repository.compression import ZSTD_FASTEST
from agent.repository.ids import ObjectId, content_text, parse_object_id
from agent.repository.repository import OpenOptions, Repository
from agent.snapshots.recheck import revive_deleted
from agent.snapshots.upload_file import FileUploads
from agent.volumes.tree_read import FileReader
from tests.unit.snapshots.backup_kit import (
    BIG,
    PASSWORD,
    back_up,
    blobs_of,
    contents_of,
    deny,
    fill,
    new_blobs,
    opened,
    put_policy,
    snapshots,
    storage_with,
)


async def test_everything_in_a_tree_is_in_its_snapshot(storage, tree):
    result, progress = await back_up(storage, tree, description="d", tags={"tag:a": "b"}, pins=("p",))
    assert result.errors == 0
    assert result.warnings == ()
    (snapshot,) = await snapshots(storage)
    assert snapshot == result.snapshot
    assert (snapshot.description, snapshot.tags, snapshot.pins) == ("d", {"tag:a": "b"}, ("p",))
    found = await contents_of(storage, snapshot.root)
    assert snapshot.root.name == "data"
    for path, (entry, data) in found.items():
        if "�" in path:
            continue
        status = os.lstat(f"{tree}{path}")
        assert (entry.mtime_ns, entry.uid, entry.gid) == (status.st_mtime_ns, status.st_uid, status.st_gid)
        if entry.type == "f":
            assert Path(f"{tree}{path}").read_bytes() == data
            assert entry.size == status.st_size
        elif entry.type == "s":
            assert os.readlink(f"{tree}{path}").encode() == data
    assert found["/bad�"][1] == b"not UTF-8"
    assert found["/b"][0].mode == 0o751 | 1 << 23
    summ, stats = snapshot.root.summ, snapshot.stats
    assert (summ.files, summ.symlinks, summ.dirs, summ.size) == (7, 1, 5, len(BIG) + 300_000 + 2 + 1 + 3 + 9)
    assert (stats.file_count, stats.non_cached_files, stats.cached_files, stats.dir_count) == (7, 7, 0, 5)
    assert (progress.files, progress.directories, progress.bytes_hashed) == (8, 5, summ.size)


async def test_an_unchanged_tree_is_neither_read_nor_written_again(storage, tree):
    (tree / os.fsdecode(b"bad\xff")).unlink()
    first, _ = await back_up(storage, tree)
    packs = blobs_of(storage, "p")
    second, progress = await back_up(storage, tree)
    assert second.snapshot.root == first.snapshot.root
    assert blobs_of(storage, "p") == packs
    assert second.parents == (first.snapshot.id,)
    assert progress.bytes_read == 0
    stats = second.snapshot.stats
    assert (stats.file_count, stats.non_cached_files, stats.cached_files) == (0, 0, 7)
    assert stats.total_size == first.snapshot.stats.total_size + len("sub/c")
    assert progress.totals.files == 6


async def test_a_name_that_is_not_utf8_is_read_each_time(storage, tmp_path):
    fill(tmp_path / "data", {b"x\xfe": b"1", b"x\xff": b"2"})
    await back_up(storage, tmp_path / "data")
    result, progress = await back_up(storage, tmp_path / "data")
    assert result.snapshot.stats.non_cached_files == 2
    assert progress.bytes_read == 2


@pytest.mark.parametrize("change", ["content", "mode", "time", "type", "new", "gone"])
async def test_only_what_changed_is_read(storage, tree, change):
    await back_up(storage, tree)
    target = tree / "sub" / "c"
    if change == "content":
        target.write_bytes(b"other")
    elif change == "mode":
        target.chmod(0o600)
    elif change == "time":
        os.utime(target, ns=(0, 1))
    elif change == "type":
        target.unlink()
        target.symlink_to("x")
    elif change == "new":
        (tree / "sub" / "b").write_bytes(b"n")
    else:
        target.unlink()
    result, progress = await back_up(storage, tree)
    read = {"content": 5, "mode": 300_000, "time": 300_000, "type": 0, "new": 1, "gone": 0}[change]
    assert progress.bytes_read == read + 9
    again, _ = await back_up(storage, tree, full=True)
    assert again.snapshot.root == result.snapshot.root


async def test_a_large_file_is_stored_as_one_writer_would(storage, tree):
    result, _ = await back_up(storage, tree)
    entry, _ = (await contents_of(storage, result.snapshot.root))["/big"]
    async with opened(storage) as (_, writer):

        def write():
            target = writer.new_object()
            target.write(BIG)
            return target.finish()

        assert entry.obj == await asyncio.to_thread(write)
    assert entry.obj.startswith("Ix")


@pytest.mark.parametrize(("size", "parts"), [(1_000_000, 4), (900_000, 4), (300_000, 1), (300_001, 2)])
async def test_a_file_beyond_the_limit_is_stored_in_parts(storage, tmp_path, size, parts):
    await put_policy(storage, {"upload": {"parallelUploadAboveSize": 300_000}})
    fill(tmp_path / "data", {"f": BIG[:size]})
    result, _ = await back_up(storage, tmp_path / "data")
    assert result.snapshot.stats.file_count == parts
    entry, data = (await contents_of(storage, result.snapshot.root))["/f"]
    assert data == BIG[:size]
    async with opened(storage) as (_, writer):

        def write():
            pieces = []
            for start in range(0, size + 1 if parts > 1 else 1, 300_000):
                part = writer.new_part()
                part.write(BIG[start : min(size, start + 300_000)])
                pieces.append(part.finish())
            return writer.concatenate(pieces)

        assert entry.obj == await asyncio.to_thread(write)


def make_sparse(path):
    with open(path, "wb") as file:
        file.write(b"start")
        file.seek(20_000_000)
        file.write(BIG[:200_000])
        file.truncate(60_000_000)


async def test_holes_are_not_read(storage, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    make_sparse(folder / "sparse")
    result, progress = await back_up(storage, folder)
    entry, data = (await contents_of(storage, result.snapshot.root))["/sparse"]
    assert data == (folder / "sparse").read_bytes()
    assert progress.bytes_read < 15_000_000
    (folder / "dense").write_bytes(data)
    again, _ = await back_up(storage, folder)
    dense, _ = (await contents_of(storage, again.snapshot.root))["/dense"]
    assert dense.obj == entry.obj


async def test_compression_of_a_policy_is_applied_to_the_files_it_names(storage, tmp_path):
    await put_policy(storage, {"compression": {"compressorName": "zstd", "neverCompress": [".raw"]}})
    text = b"text " * 60_000
    fill(tmp_path / "data", {"a.txt": text, "b.txt": text[:2000], "a.raw": text[1:], "s.txt": BIG[:9]})
    result, _ = await back_up(storage, tmp_path / "data")
    found = await contents_of(storage, result.snapshot.root)
    async with opened(storage) as (repo, _):
        kinds = {}
        for path, (entry, data) in found.items():
            if data is not None:
                kinds[path] = {repo.contents.find(e.content).compression for e in await repo.objects.extents(entry.obj)}
    assert kinds == {"/a.txt": {0x1100}, "/b.txt": {0x1100}, "/a.raw": {0}, "/s.txt": {0}}


@pytest.fixture(scope="module")
def blobs_of_version_1():
    return new_blobs(format_version=1)


async def test_version_1_compresses_whole_objects(blobs_of_version_1, tmp_path):
    storage = storage_with(blobs_of_version_1)
    await put_policy(storage, {"compression": {"compressorName": "zstd"}})
    text = b"text " * 100_000
    fill(tmp_path / "data", {"a": text, "b": text[:2000]})
    result, _ = await back_up(storage, tmp_path / "data")
    found = await contents_of(storage, result.snapshot.root)
    assert found["/b"][0].obj.startswith("Z")
    assert (found["/a"][1], found["/b"][1]) == (text, text[:2000])


async def test_what_rules_leave_out_is_counted(storage, tree):
    (tree / ".kopiaignore").write_text("sub/deep\n*.raw\n")
    (tree / "x.raw").write_bytes(b"123")
    result, _ = await back_up(storage, tree)
    stats = result.snapshot.stats
    assert (stats.excluded_dir_count, stats.excluded_file_count, stats.excluded_total_size) == (1, 1, 3)
    paths = (await contents_of(storage, result.snapshot.root)).keys()
    assert not {"/sub/deep", "/x.raw"} & paths
    everything, _ = await back_up(storage, tree, ignore_rules=False)
    assert "/sub/deep/er/d" in await contents_of(storage, everything.snapshot.root)


async def test_what_limits_leave_out_is_told_but_not_in_the_statistics_that_kopia_reads(storage, tree):
    await put_policy(storage, {"files": {"maxFileSize": 1000, "ignore": ["a"]}})
    result, progress = await back_up(storage, tree)
    stats = result.snapshot.stats
    left_out = [path for path in tree.rglob("*") if path.is_file() and path.lstat().st_size > 1000]
    assert left_out
    assert progress.excluded_files == len(left_out) + 1
    assert (stats.excluded_file_count, stats.excluded_total_size) == (1, 0)


async def test_for_velero_only_the_list_of_a_directory_of_several_chunks_is_compressed(storage, tmp_path):
    fill(tmp_path / "data", {f"{n:05d}-{'n' * 60}": b"%d" % n for n in range(3000)})
    result, _ = await back_up(storage, tmp_path / "data", velero=True)
    async with opened(storage) as (repo, _):
        assert result.snapshot.root.obj.startswith("Ik")
        chunks = {e.content for e in await repo.objects.extents(result.snapshot.root.obj)}
        assert len(chunks) > 2
        assert {repo.contents.find(chunk).compression for chunk in chunks} == {0}
        lists = parse_object_id(result.snapshot.root.obj[1:]).content
        assert repo.contents.find(lists).compression == ZSTD_FASTEST


async def test_special_files_are_left_out_and_counted(storage, tree):
    os.mkfifo(tree / "pipe")
    result, progress = await back_up(storage, tree)
    assert (result.errors, progress.special) == (0, 1)
    assert "/pipe" not in await contents_of(storage, result.snapshot.root)
    await put_policy(storage, {"errorHandling": {"ignoreUnknownTypes": False}})
    result, _ = await back_up(storage, tree)
    assert result.errors == 1


@pytest.fixture
def deep_tree(tmp_path):
    """1,200 levels; removed here, since Python's own way to remove a tree is recursive."""
    at = os.open(tmp_path, os.O_DIRECTORY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)
    yield tmp_path
    subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)


async def test_a_very_deep_tree_needs_no_recursion_and_few_descriptors(storage, deep_tree):
    result, _ = await back_up(storage, deep_tree)
    assert (result.snapshot.root.summ.dirs, result.snapshot.root.summ.files) == (1201, 1)
    again, progress = await back_up(storage, deep_tree)
    assert progress.files_cached == 1
    assert again.snapshot.root == result.snapshot.root


async def test_what_was_deleted_meanwhile_is_written_again(storage, tree):
    first, _ = await back_up(storage, tree)
    found = await contents_of(storage, first.snapshot.root)
    async with opened(storage) as (repo, writer):
        extents = await repo.objects.extents(found["/big"][0].obj)
        doomed = [extents[0].content, extents[1].content]
        for cid in doomed:
            writer._contents.delete_content(repo.contents.find(cid))
    async with opened(storage) as (repo, writer):
        assert all(repo.contents.find(cid).deleted for cid in doomed)
        assert await revive_deleted(repo, writer, first.snapshot.root) == 2
    async with opened(storage) as (repo, _):
        assert not any(repo.contents.find(cid).deleted for cid in doomed), content_text(doomed[0])
    assert await contents_of(storage, first.snapshot.root) == found


async def test_a_damaged_parent_costs_reading_again(storage, tree):
    first, _ = await back_up(storage, tree)
    async with opened(storage) as (_, writer):
        broken = await asyncio.to_thread(writer.write_content, b"{", ord("k"))
        root = msgspec.structs.replace(first.snapshot.root, obj=ObjectId(content_text(broken)))
        later = msgspec.structs.replace(first.snapshot, start_ns=first.snapshot.start_ns + 1, root=root)
        await writer.put_manifest(
            {"type": "snapshot", "hostname": "host", "username": "user", "path": "/data", **later.tags},
            msgspec.Raw(later.to_json()),
        )
    result, progress = await back_up(storage, tree)
    assert progress.files_cached == 0
    assert any("cannot compare" in warning for warning in result.warnings)
    assert result.snapshot.root == first.snapshot.root


@pytest.fixture(scope="module")
def blobs_of_large_chunks():
    return new_blobs(splitter="DYNAMIC-1M-BUZHASH")


@pytest.mark.parametrize("size", [131_071, 131_072, 131_073, 524_286, 524_287, 524_288, 600_000])
async def test_a_file_too_short_to_be_cut_is_read_whole(blobs_of_large_chunks, tmp_path, size):
    storage = storage_with(blobs_of_large_chunks)
    fill(tmp_path / "data", {"f": BIG[:size], "g": BIG[1 : size + 1]})
    result, progress = await back_up(storage, tmp_path / "data")
    found = await contents_of(storage, result.snapshot.root)
    assert found["/f"][1] == BIG[:size]
    assert found["/g"][1] == BIG[1 : size + 1]
    assert progress.bytes_read == 2 * size


async def test_a_middling_file_that_grows_is_stored_whole(blobs_of_large_chunks, tmp_path, monkeypatch):
    storage = storage_with(blobs_of_large_chunks)
    fill(tmp_path / "data", {"f": BIG[:300_000], "g": BIG[:200_000]})
    middling = FileUploads.middling

    def grow(self, reader, names, sizes, plan):
        (tmp_path / "data" / "f").write_bytes(BIG)
        return middling(self, reader, names, sizes, plan)

    monkeypatch.setattr(FileUploads, "middling", grow)
    result, _ = await back_up(storage, tmp_path / "data")
    found = await contents_of(storage, result.snapshot.root)
    assert found["/f"][1] == BIG
    assert found["/g"][1] == BIG[:200_000]
    assert result.warnings == ("f changed while it was read",)


async def test_middling_files_of_a_batch_are_read_side_by_side(blobs_of_large_chunks, tmp_path, monkeypatch):
    storage = storage_with(blobs_of_large_chunks)
    fill(tmp_path / "data", {"f": BIG[:300_000], "g": BIG[:200_000]})
    both = threading.Barrier(2, timeout=60)
    readinto_at = FileReader.readinto_at

    def meet(self, buffer, offset):
        both.wait()
        return readinto_at(self, buffer, offset)

    monkeypatch.setattr(FileReader, "readinto_at", meet)
    result, _ = await back_up(storage, tmp_path / "data", parallel=1)
    found = await contents_of(storage, result.snapshot.root)
    assert (found["/f"][1], found["/g"][1]) == (BIG[:300_000], BIG[:200_000])


async def test_middling_files_that_shrink_or_cannot_be_read_leave_the_others_of_their_batch(
    blobs_of_large_chunks, tmp_path, monkeypatch
):
    storage = storage_with(blobs_of_large_chunks)
    sizes = {name: 200_000 + 10 * place for place, name in enumerate("abcdefgh")}
    fill(tmp_path / "data", {name: BIG[:size] for name, size in sizes.items()})
    middling, readinto_at = FileUploads.middling, FileReader.readinto_at

    def change(self, reader, names, lengths, plan):
        (tmp_path / "data" / "b").unlink()
        os.truncate(tmp_path / "data" / "d", 5)
        return middling(self, reader, names, lengths, plan)

    def fail(self, buffer, offset):
        if self.attributes.size == sizes["f"]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return readinto_at(self, buffer, offset)

    monkeypatch.setattr(FileUploads, "middling", change)
    monkeypatch.setattr(FileReader, "readinto_at", fail)
    result, _ = await back_up(storage, tmp_path / "data")
    found = await contents_of(storage, result.snapshot.root)
    wanted = {f"/{name}": BIG[:size] for name, size in sizes.items() if name not in "bf"} | {"/d": BIG[:5]}
    assert {path: data for path, (_, data) in found.items() if path} == wanted
    assert result.errors == 1


@pytest.mark.parametrize("size", [0, 9, 1_000_000])
async def test_a_single_file_is_the_root_of_its_snapshot(storage, tmp_path, size):
    fill(tmp_path, {"f": BIG[:size]})
    result, progress = await back_up(storage, tmp_path / "f")
    root, status = result.snapshot.root, os.lstat(tmp_path / "f")
    assert (root.name, root.type, root.size, root.mtime_ns) == ("f", "f", size, status.st_mtime_ns)
    assert (root.summ.files, root.summ.dirs, root.summ.size) == (1, 0, size)
    assert (progress.files, progress.bytes_read, result.snapshot.stats.file_count) == (1, size, 1)
    found = await contents_of(storage, root)
    assert found[""][1] == BIG[:size]


async def test_a_single_file_is_read_again_only_when_it_changed(storage, tmp_path):
    fill(tmp_path, {"f": BIG})
    first, _ = await back_up(storage, tmp_path / "f")
    second, progress = await back_up(storage, tmp_path / "f")
    assert second.snapshot.root == first.snapshot.root
    assert (progress.bytes_read, progress.files_cached) == (0, 1)
    (tmp_path / "f").write_bytes(b"other")
    third, progress = await back_up(storage, tmp_path / "f")
    assert progress.bytes_read == 5
    assert third.snapshot.root.size == 5


async def test_a_single_file_that_cannot_be_read_ends_the_run(storage, tmp_path, monkeypatch):
    fill(tmp_path, {"f": b"data"})
    deny(monkeypatch, b"f")
    with pytest.raises(SourceUnreadable, match="f"):
        await back_up(storage, tmp_path / "f")
    assert await snapshots(storage) == ()


async def test_an_identical_snapshot_is_not_saved_when_the_policy_says_so(storage, tree):
    (tree / os.fsdecode(b"bad\xff")).unlink()
    await put_policy(storage, {"retention": {"ignoreIdenticalSnapshots": True}})
    first, _ = await back_up(storage, tree)
    second, _ = await back_up(storage, tree)
    assert second.snapshot == first.snapshot
    assert "identical" in second.warnings[-1]
    assert [s.id for s in await snapshots(storage)] == [first.snapshot.id]
    (tree / "new").write_bytes(b"1")
    third, _ = await back_up(storage, tree)
    assert [s.id for s in await snapshots(storage)] == [first.snapshot.id, third.snapshot.id]


async def test_a_repository_made_anew_in_the_same_place_opens_in_spite_of_the_cache(tmp_path):
    storage, cached = storage_with({}), OpenOptions(cache_dir=tmp_path)
    for _ in range(2):
        storage.blobs.clear()
        storage.blobs.update(made := await asyncio.to_thread(new_blobs))
        storage.timestamps_ns.update(dict.fromkeys(made, 0))
        async with Repository.open(storage, PASSWORD, options=cached) as repo, repo.writer() as writer:
            await asyncio.to_thread(writer.write_content, b"x")
        async with Repository.open(storage, PASSWORD) as repo:
            assert sum(1 for _ in repo.index.iterate()) >= 1
