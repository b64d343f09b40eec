"""Writing a snapshot, a part of it or one file back into a file system.

The command and the agent call `restore`. A few walkers read directories of the snapshot side by side and plan their
files into windows (`restore_plan.py`); a window's contents come in the order of the packs, each once (`fetch.py`), and
become files in `restore_write.py`. Memory is a few windows and the names in the directories being walked, whatever
the tree: pending directories are spilled, nothing is remembered per file.

What the repository says is not trusted: a name that is not one component of a path is refused and named, nothing is
followed (`agent.volumes.tree_write`). What cannot be restored is counted and named and the restore goes on, unless
`fail_fast`; a full file system ends it. Names that stand twice in a directory (or became equal when they were stored,
§7.3) are restored last, one after the other, so that the last wins, with a warning that names them; of a
directory and anything else of the same name, what comes first stays.
"""

from __future__ import annotations

import asyncio
import os
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Protocol

import msgspec

from agent.base.errors import (
    CorruptObject,
    LighterageError,
    RepositoryError,
    SnapshotError,
    StorageError,
    TargetExists,
    UnsafeName,
    VolumeError,
)
from agent.base.hold import Hold
from agent.repository.ids import ContentId, ObjectId, parse_object_id
from agent.snapshots import restore_journal
from agent.snapshots.fetch import Contents, fetch
from agent.snapshots.model import DIRECTORY, FILE, SYMLINK, Entry
from agent.snapshots.restore_plan import Piece, SpillingStack, Window
from agent.snapshots.restore_report import RestoreReport, partial_restore
from agent.snapshots.restore_resume import Resumption
from agent.snapshots.restore_write import Aborted, Directory, File, Sink, metadata_of, spawn
from agent.snapshots.tree import Objects, bare, find_entry, list_directory
from agent.volumes.tree_write import Existing, WriteOptions, check_name, open_target

WINDOWS = 2
WALKERS = 3
DEFERRED = 4_096
_MAX_LINK = 1 << 16


class Extent(Protocol):
    """A leaf of an object."""

    @property
    def offset(self) -> int:
        """Where in the object."""
        ...

    @property
    def length(self) -> int:
        """Bytes in the object."""
        ...

    @property
    def content(self) -> ContentId:
        """What holds them."""
        ...

    @property
    def compressed(self) -> bool:
        """Whether the content is an object-level compressed stream (`Z`)."""
        ...


class ExtentObjects(Objects, Protocol):
    """The part of `ObjectReader` that is needed here."""

    async def extents(self, oid: ObjectId) -> Sequence[Extent]:
        """The leaves of an object, in order."""
        ...


class Repository(Protocol):
    """The part of `agent.repository.repository.Repository` that is needed here."""

    @property
    def contents(self) -> Contents:
        """Contents by id."""
        ...

    @property
    def objects(self) -> ExtentObjects:
        """Objects over contents."""
        ...


class RestoreOptions(msgspec.Struct, frozen=True):
    """How to restore."""

    existing: Existing = Existing.OVERWRITE
    """What to do with files and links that are there already; directories are used as they are."""
    delete_extra: bool = False
    """Remove what is in the target and not in the snapshot; a file may then also replace a whole directory."""
    sparse: bool = False
    """Leave blocks of zeros in larger files unwritten."""
    fail_fast: bool = False
    owners: bool = True
    modes: bool = True
    times: bool = True
    parallel: int = 0
    """Writing threads; 0 for as many as processors, at most 8."""
    sync: bool = False
    """Have everything on stable storage before the end."""

    @property
    def threads(self) -> int:
        """How many threads write."""
        return self.parallel or min(os.cpu_count() or 1, 8)

    def for_target(self) -> WriteOptions:
        """The same for the write side."""
        return WriteOptions(
            existing=self.existing,
            owners=self.owners,
            modes=self.modes,
            times=self.times,
            sparse=self.sparse,
            replace_directories=self.delete_extra,
        )


class _Pending(msgspec.Struct, array_like=True):
    """A directory that waits for a walker. `parent` is a key of `_Restore._parents`."""

    parent: int
    entry: Entry


async def restore(
    repository: Repository,
    root: Entry,
    target: str | bytes,
    *,
    path: tuple[str, ...] = (),
    options: RestoreOptions = RestoreOptions(),
    report: RestoreReport | None = None,
    hold: Hold | None = None,
) -> RestoreReport:
    """Restore what lies at `path` below the snapshot's `root` entry.

    A directory becomes the directory `target`, made when it is not there (its parent is). Anything else becomes
    the file `target`, or a file of its own name in `target` when that is a directory. `report` grows meanwhile.
    While `hold` is closed nothing is planned, fetched or written any more, beyond what is under way.

    Raises `PartialRestore` at the end when some entries could not be restored (`report` names them), and at once
    `PathNotInSnapshot`, `VolumeOutOfSpace`, and what keeps the target or the root from being opened; with `fail_fast`
    the first failure. A directory restore that was cut short goes on where it stopped when it is called again with the
    same root.
    """
    report = report if report is not None else RestoreReport()
    entry = await find_entry(repository.objects, root, path)
    run = _Restore(repository, options, report, hold or Hold())
    try:
        if entry.type == DIRECTORY:
            await run.tree(entry, os.fsencode(target))
        else:
            await run.single(entry, os.fsencode(target))
    except Aborted as abort:
        raise abort.error from None
    except BaseExceptionGroup as group:
        raise _first(group) from None
    if report.failed:
        raise partial_restore(report)
    return report


class _Restore:
    """One run."""

    def __init__(self, repository: Repository, options: RestoreOptions, report: RestoreReport, hold: Hold) -> None:
        self._hold = hold
        self._contents = repository.contents
        self._objects = repository.objects
        self._options = options
        self._write_options = options.for_target()
        self._report = report
        self._window: Window[File] = Window()
        self._windows = asyncio.Semaphore(WINDOWS)
        self._parents: dict[int, Directory] = {}
        self._next_key = 0
        self._walking = 0
        self._more = asyncio.Condition()
        self._journal: restore_journal.Journal | None = None

    async def tree(self, entry: Entry, target: bytes) -> None:
        """Restore a directory."""
        writer = await asyncio.to_thread(open_target, target, self._write_options)
        with writer:
            self._journal = journal = await asyncio.to_thread(restore_journal.begin, target, entry.obj)
            root = Directory(writer, "", metadata_of(entry), fresh=writer.created)
            self._report.directories += 1
            await self._work(root, entry)
            await asyncio.to_thread(journal.end)
            await asyncio.to_thread(writer.seal, root.metadata)
            if self._options.sync:
                await asyncio.to_thread(writer.sync)

    async def single(self, entry: Entry, target: bytes) -> None:
        """Restore a file or symbolic link."""
        if await asyncio.to_thread(os.path.isdir, target):
            folder, name = target, _name_bytes(entry.name)
        else:
            folder, name = os.path.split(target.rstrip(b"/"))
        check_name(name)
        writer = await asyncio.to_thread(open_target, folder or b".", self._write_options)
        with writer:
            await self._work(
                Directory(writer, "", None, fresh=False), msgspec.structs.replace(entry, name=os.fsdecode(name))
            )
            if self._options.sync:
                await asyncio.to_thread(writer.sync)

    async def _work(self, root: Directory, entry: Entry) -> None:
        """Everything but sealing the root: it waits for a directory too many."""
        root.unmade += 1
        pool = ThreadPoolExecutor(self._options.threads, "restore")
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._sink = sink = Sink(
                    tasks, pool, self._options.threads, self._report, fail_fast=self._options.fail_fast
                )
                self._resumption = Resumption(
                    self._journal, self._write_options, self._contents.matches, sink, self._report
                )
                with SpillingStack(msgspec.msgpack.Decoder(list[_Pending]).decode) as self._stack:
                    if entry.type == DIRECTORY:
                        await self._list(root, entry.obj)
                        await self._walk()
                    else:
                        await self._take(root, [entry])
                await self._dispatch()
                await sink.flush()
            await sink.finish()
        finally:
            # Descriptors must outlive the jobs that use them; a job is short, so the loop may wait for it.
            pool.shutdown(cancel_futures=True)
            self._sink.abort()

    # ---- walking ----

    async def _walk(self) -> None:
        async with asyncio.TaskGroup() as walkers:
            for _ in range(WALKERS):
                walkers.create_task(self._walker())

    async def _walker(self) -> None:
        while True:
            async with self._more:
                while (item := self._stack.pop()) is None:
                    if not self._walking:
                        self._more.notify_all()
                        return
                    await self._more.wait()
                self._walking += 1
            try:
                await self._enter(item)
            finally:
                async with self._more:
                    self._walking -= 1
                    self._more.notify_all()

    async def _enter(self, item: _Pending) -> None:
        parent = self._parents[item.parent]
        entry = item.entry
        path = parent.child_path(entry.name)
        try:
            writer = await self._sink.run(parent.writer.make_directory, _name_bytes(entry.name))
        except VolumeError as error:
            self._sink.fail(path, error)
            return
        finally:
            parent.unmade -= 1
            if not parent.unmade:
                del self._parents[item.parent]
            self._sink.settle(parent, 0)
        self._report.directories += 1
        await self._list(Directory(writer, path, metadata_of(entry), fresh=writer.created), entry.obj)

    async def _list(self, directory: Directory, oid: ObjectId) -> None:
        """Plan everything in a directory."""
        key = self._next_key = self._next_key + 1
        try:
            if self._options.delete_extra and not directory.fresh:
                await self._remove_extra(directory, oid)
            async for entries in list_directory(self._objects, oid, directory.path):
                await self._take(directory, entries, key)
                if len(directory.deferred) >= DEFERRED:
                    await self._take_deferred(directory, oid, key)
            if directory.deferred:
                await self._take_deferred(directory, oid, key)
        except (RepositoryError, StorageError, SnapshotError, VolumeError) as error:
            self._sink.fail(directory.path, error)
        self._sink.settle(directory)

    async def _take(self, directory: Directory, entries: Sequence[Entry], key: int = 0) -> None:
        """Plan some entries of a directory; doubtful names wait."""
        leaves: list[Entry] = []
        for entry in entries:
            path = directory.child_path(entry.name)
            try:
                check_name(_name_bytes(entry.name))
            except UnsafeName as error:
                self._sink.fail(path, error)
                continue
            if entry.type not in (DIRECTORY, FILE, SYMLINK):
                self._sink.fail(path, SnapshotError(f"{path!r} is of the unknown type {entry.type!r}"))
            elif directory.order.doubtful(entry.name, is_directory=entry.type == DIRECTORY):
                directory.deferred.append(entry)
            elif entry.type == DIRECTORY:
                await self._push(directory, entry, key)
            else:
                leaves.append(entry)
        await self._plan(directory, leaves)

    async def _push(self, directory: Directory, entry: Entry, key: int) -> None:
        self._parents[key] = directory
        directory.unmade += 1
        self._stack.push(_Pending(key, bare(entry)))
        async with self._more:
            self._more.notify()

    async def _take_deferred(self, directory: Directory, oid: ObjectId, key: int) -> None:
        """Doubtful names. Folders that stand there once are only out of order; the rest is taken in rounds of distinct
        names: what stands there from this restore has the same name.
        """
        doubtful, directory.deferred = directory.deferred, []
        count = await self._count_folders(directory, oid, {e.name for e in doubtful if e.type == DIRECTORY})
        waiting: list[Entry] = []
        for entry in doubtful:
            if entry.type == DIRECTORY and count[entry.name] == 1:
                await self._push(directory, entry, key)
            else:
                waiting.append(entry)
        while waiting:
            await self._dispatch()
            await self._sink.quiet(directory)
            now: dict[str, Entry] = {}
            later: list[Entry] = []
            for entry in waiting:
                if entry.name in now:
                    later.append(entry)
                else:
                    now[entry.name] = entry
            found = await self._sink.run(directory.writer.statuses, [_name_bytes(name) for name in now])
            for (name, entry), status in zip(list(now.items()), found, strict=True):
                ours = status is not None and (directory.fresh or (self._journal and self._journal.wrote(status)))
                path = directory.child_path(name)
                if ours:
                    self._report.add_warning(path, "the directory holds this name more than once; the last one is kept")
                if entry.type == DIRECTORY:
                    del now[name]
                    self._sink.fail(path, TargetExists(f"{path!r} stands in its directory more than once"))
            await self._plan(directory, list(now.values()))
            waiting = later

    async def _count_folders(self, directory: Directory, oid: ObjectId, names: set[str]) -> Counter[str]:
        """How often folders of these names stand in a directory."""
        count: Counter[str] = Counter()
        if names:
            async for entries in list_directory(self._objects, oid, directory.path):
                count.update(e.name for e in entries if e.type == DIRECTORY and e.name in names)
        return count

    async def _remove_extra(self, directory: Directory, oid: ObjectId) -> None:
        keep = _Names()
        if self._journal is not None:
            keep.add(self._journal.name)
        async for entries in list_directory(self._objects, oid, directory.path):
            for entry in entries:
                keep.add(_name_bytes(entry.name))
        keep.freeze()
        self._report.removed += await self._sink.run(directory.writer.remove_extra, keep)

    # ---- planning ----

    async def _plan(self, directory: Directory, entries: Sequence[Entry]) -> None:
        """Plan files and links that are not done."""
        await self._hold.passed()
        files = await self._resumption.files(directory, entries)
        directory.left += len(files)
        for file in files:
            try:
                await self._plan_file(file)
            except (RepositoryError, StorageError, VolumeError) as error:
                self._sink.give_up(file, error)
            self._sink.planned(file)

    async def _plan_file(self, file: File) -> None:
        parsed = parse_object_id(file.entry.obj)
        if not parsed.indirection:
            size = min(file.entry.size, _MAX_LINK) if file.entry.type == SYMLINK else file.entry.size
            if file.writer is not None:
                await self._sink.run(file.writer.allocate, file.size)
            await self._add(Piece(file, 0, max(size, 0), parsed.content, parsed.compressed))
            return
        extents = await self._objects.extents(file.entry.obj)
        file.size = extents[-1].offset + extents[-1].length if extents else 0
        if file.entry.type == SYMLINK and file.size > _MAX_LINK:
            raise CorruptObject(f"the symbolic link {file.entry.name!r} has a target of {file.size} bytes")
        if file.writer is not None:
            await self._sink.run(file.writer.allocate, file.size)
        for extent in extents:
            await self._add(Piece(file, extent.offset, extent.length, extent.content, extent.compressed))

    async def _add(self, piece: Piece[File]) -> None:
        if await self._resumption.has(piece):
            return
        piece.job.left += 1
        self._window.add(piece)
        if self._window.full:
            await self._dispatch()

    # ---- windows ----

    async def _dispatch(self) -> None:
        """Have the window worked off; waits while enough others are."""
        if not self._window:
            return
        window, self._window = self._window, Window()
        await self._windows.acquire()
        spawn(self._tasks, self._work_off(window))

    async def _work_off(self, window: Window[File]) -> None:
        try:
            async with aclosing(fetch(self._contents, window.contents)) as batches:
                async for batch in batches:
                    await self._hold.passed()
                    for content, data in batch:
                        for piece in window.take(content):
                            await self._sink.deliver(piece, data)
            await self._sink.flush()
        finally:
            self._windows.release()


class _Names:
    """The names of a directory of the snapshot, in eight bytes each. A collision keeps an entry, never removes one."""

    def __init__(self) -> None:
        self._hashes = array("q")

    def add(self, name: bytes) -> None:
        self._hashes.append(hash(name))

    def freeze(self) -> None:
        """Call once, before asking."""
        self._hashes = array("q", sorted(self._hashes))

    def __contains__(self, name: object) -> bool:
        wanted = hash(name)
        at = bisect_left(self._hashes, wanted)
        return at < len(self._hashes) and self._hashes[at] == wanted


def _name_bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended a run, rather than what it took along."""
    leaves: list[BaseException] = []
    todo: list[BaseException] = [group]
    while todo:
        error = todo.pop()
        if isinstance(error, BaseExceptionGroup):
            todo.extend(reversed(error.exceptions))
        else:
            leaves.append(error.error if isinstance(error, Aborted) else error)
    return next((error for error in leaves if isinstance(error, LighterageError)), leaves[0])
