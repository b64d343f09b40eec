"""Backups that meet trouble: what cannot be read, cancelation, kills and checkpoints."""

import asyncio
import errno
import os
import threading

import msgspec
import pytest

from agent.base.errors import InvalidPolicy, SourceNotFound, SourceUnreadable
from agent.snapshots import upload_tree as walk
from agent.snapshots.model import INCOMPLETE_CANCELED, INCOMPLETE_CHECKPOINT
from agent.snapshots.progress import Cancellation, UploadProgress
from agent.snapshots.upload_file import FileUploads
from agent.snapshots.upload_stream import StreamUpload
from agent.volumes.tree_read import DirectoryReader, Unreadable
from tests.unit.snapshots.backup_kit import (
    BIG,
    back_up,
    contents_of,
    deny,
    fill,
    put_policy,
    snapshots,
    storage_with,
)


async def test_what_cannot_be_read_is_named_and_the_rest_is_saved(storage, tree, monkeypatch):
    deny(monkeypatch, b"c", b"d", b"big")
    result, _ = await back_up(storage, tree)
    assert result.errors == result.snapshot.stats.error_count == 3
    summ = result.snapshot.root.summ
    assert summ.failed == 3
    assert [e.path for e in summ.errors] == ["big", "sub/c", "sub/deep/er/d"]
    assert summ.errors[0].error == os.strerror(errno.EACCES)
    assert not result.snapshot.incomplete
    found = await contents_of(storage, result.snapshot.root)
    assert "/sub/c" not in found
    assert "/sub/deep/er" in found
    await put_policy(storage, {"errorHandling": {"ignoreFileErrors": True}})
    result, _ = await back_up(storage, tree)
    assert (result.errors, result.snapshot.stats.ignored_error_count) == (0, 3)


async def test_at_most_ten_failures_are_named_and_all_are_counted(storage, tmp_path, monkeypatch):
    names = [f"f{n:02d}" for n in range(15)]
    fill(tmp_path / "data", {f"sub/{name}": b"x" for name in names})
    deny(monkeypatch, *(name.encode() for name in names))
    result, _ = await back_up(storage, tmp_path / "data")
    summ = result.snapshot.root.summ
    assert summ.failed == 15
    assert [e.path for e in summ.errors] == [f"sub/{name}" for name in names[:10]]


async def test_a_directory_that_cannot_be_opened_is_named(storage, tree, monkeypatch):
    enter = DirectoryReader.open_directory
    monkeypatch.setattr(
        DirectoryReader,
        "open_directory",
        lambda self, name: Unreadable(name, errno.EACCES) if name == b"sub" else enter(self, name),
    )
    result, _ = await back_up(storage, tree)
    assert [e.path for e in result.snapshot.root.summ.errors] == ["sub"]
    assert "/sub" not in await contents_of(storage, result.snapshot.root)


async def test_failing_fast_saves_nothing(storage, tree, monkeypatch):
    deny(monkeypatch, b"c")
    with pytest.raises(SourceUnreadable, match="sub/c"):
        await back_up(storage, tree, fail_fast=True)
    assert await snapshots(storage) == ()


async def test_a_root_that_is_not_there_or_neither_directory_nor_file_is_an_error(storage, tmp_path):
    with pytest.raises(SourceNotFound):
        await back_up(storage, tmp_path / "no")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceUnreadable):
        await back_up(storage, tmp_path / "pipe")
    assert await snapshots(storage) == ()


async def test_a_bad_policy_is_named_before_anything_is_read(storage, tree):
    await put_policy(storage, {"files": {"ignore": "x"}})
    with pytest.raises(InvalidPolicy):
        await back_up(storage, tree)


async def test_a_file_that_vanishes_is_a_warning(storage, tree, monkeypatch):
    deny(monkeypatch, b"c", b"b", error=errno.ENOENT)
    result, _ = await back_up(storage, tree)
    assert result.errors == 0
    assert sorted(result.warnings) == ["b vanished before it could be read", "sub/c vanished before it could be read"]


async def test_a_file_that_grows_is_stored_as_it_was_read(storage, tree, monkeypatch):
    small, lock = FileUploads.small, threading.Lock()
    growing = {"b": b"longer", "sub/deep/er/d": BIG}

    def grow(self, *arguments):
        with lock:  # each once, before any thread reads: a file that is written anew is empty for a moment
            while growing:
                name, data = growing.popitem()
                (tree / name).write_bytes(data)
        return small(self, *arguments)

    monkeypatch.setattr(FileUploads, "small", grow)
    result, _ = await back_up(storage, tree)
    found = await contents_of(storage, result.snapshot.root)
    assert (found["/b"][0].size, found["/b"][1]) == (6, b"longer")
    assert (found["/sub/deep/er/d"][0].size, found["/sub/deep/er/d"][1]) == (len(BIG), BIG)
    assert {"sub/deep/er/d changed while it was read", "b changed while it was read"} <= set(result.warnings)


class CancelAfter(UploadProgress):
    """Cancels when so many files are done."""

    def __init__(self, files):
        super().__init__()
        self.left = files
        self.cancellation = Cancellation()

    def done(self, files, *, cached=0, cached_bytes=0):
        super().done(files, cached=cached, cached_bytes=cached_bytes)
        if self.files >= self.left:
            self.cancellation.cancel()


async def test_a_canceled_run_keeps_what_is_done_and_the_next_goes_on_from_there(storage, tmp_path, monkeypatch):
    monkeypatch.setattr(walk, "AHEAD_ENTRIES", 0)
    folder = tmp_path / "data"
    fill(folder, {f"d{n}/f{m}": b"%d %d" % (n, m) for n in range(6) for m in range(5)})
    progress = CancelAfter(12)
    canceled, _ = await back_up(storage, folder, progress=progress, cancellation=progress.cancellation, pins=("p",))
    assert canceled.snapshot.incomplete == INCOMPLETE_CANCELED
    assert canceled.snapshot.root.summ.incomplete == INCOMPLETE_CANCELED
    assert 12 <= canceled.snapshot.root.summ.files < 30
    assert canceled.snapshot.pins == ()
    result, after = await back_up(storage, folder)
    assert after.files_cached == canceled.snapshot.root.summ.files
    assert result.parents == (canceled.snapshot.id,)
    assert [s.id for s in await snapshots(storage)] == [result.snapshot.id]


async def test_canceling_the_task_saves_nothing(storage, tree, monkeypatch):
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait(self, *arguments):
        loop.call_soon_threadsafe(started.set)
        while True:
            self._cancellation.check()

    monkeypatch.setattr(FileUploads, "_small", wait)
    task = asyncio.create_task(back_up(storage, tree))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await snapshots(storage) == ()


async def test_checkpoints_are_replaced_by_the_complete_snapshot(storage, tree):
    result, _ = await back_up(storage, tree, checkpoint_interval=0, tags={"a": "b"})
    assert await snapshots(storage) == (result.snapshot,)
    full, _ = await back_up(storage, tree, full=True)
    assert full.snapshot.root == result.snapshot.root


async def test_a_killed_run_is_resumed_from_its_checkpoint(storage, tmp_path, monkeypatch):
    monkeypatch.setattr(walk, "AHEAD_ENTRIES", 0)
    folder = tmp_path / "data"
    fill(folder, {f"d{n}/e/f{m}": b"%d %d" % (n, m) for n in range(6) for m in range(5)})
    deny(monkeypatch, b"f3")
    whole = FileUploads._small
    blobs_when_killed = {}

    def killed(self, reader, *arguments):
        if reader.path.endswith(b"d4/e"):
            blobs_when_killed.update(storage.blobs)
        return whole(self, reader, *arguments)

    monkeypatch.setattr(FileUploads, "_small", killed)
    await back_up(storage, folder, checkpoint_interval=0, tags={"a": "b"}, description="d", pins=("p",))
    left = storage_with(blobs_when_killed)
    (checkpoint,) = await snapshots(left)
    assert checkpoint.incomplete == checkpoint.root.summ.incomplete == INCOMPLETE_CHECKPOINT
    assert (checkpoint.tags, checkpoint.description, checkpoint.pins) == ({"a": "b"}, "", ())
    assert checkpoint.stats == msgspec.structs.replace(checkpoint.stats, total_size=0, file_count=0, dir_count=0)
    done = checkpoint.root.summ.files
    assert done >= 12
    monkeypatch.undo()
    result, progress = await back_up(left, folder)
    assert progress.files_cached == done
    assert [s.id for s in await snapshots(left)] == [result.snapshot.id]
    assert len(await contents_of(left, result.snapshot.root)) == 30 + 6 + 6 + 1


async def test_the_written_part_of_an_unfinished_file_is_kept_alive(storage, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    fill(folder, {"big": BIG * 8})
    saved, some_are_there = [], threading.Event()
    partial, write = walk.TreeUpload.partial, StreamUpload._write

    def remember(self, reason):
        entry = partial(self, reason)
        saved.append(entry)
        if entry.summ.files:
            some_are_there.set()
        return entry

    def write_slowly(self, chunks, slab, cuts, plan):
        assert cuts[0][0] == 0 or some_are_there.wait(60)
        write(self, chunks, slab, cuts, plan)

    monkeypatch.setattr(walk.TreeUpload, "partial", remember)
    monkeypatch.setattr(StreamUpload, "_write", write_slowly)
    monkeypatch.setattr(walk, "_POLL", 0.01)
    await back_up(storage, folder, checkpoint_interval=0)
    names = set()
    for entry in saved:
        found = await contents_of(storage, entry)
        names |= found.keys()
        for path, (_, data) in found.items():
            if ".checkpointed." in path:
                assert data
                assert (BIG * 8).startswith(data)
    assert any(name.startswith("/.checkpointed.big.") for name in names)
