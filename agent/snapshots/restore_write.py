"""The writing half of a restore: pieces of files in, files in the target out.

`restore.py` walks the snapshot and brings contents; here they become files. Small files and symbolic links gather
per directory and are created in native batches, many directories to one hop into a thread; larger files are written by
position, several pieces at once. A directory is sealed (owner, mode, time) when nothing in it is left to do.

All methods run on the event loop; what blocks goes to a pool of threads, at most `parallel` jobs at once and
one more handed over. State is changed on the loop only, so there are no locks.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from agent.base.errors import LighterageError, TargetExists, VolumeError, VolumeOutOfSpace
from agent.repository.object_reader import expand_content
from agent.snapshots.model import SYMLINK, UNKNOWN_TIME, Entry
from agent.snapshots.restore_plan import NameOrder, Piece
from agent.snapshots.restore_report import RestoreReport
from agent.storage.base import Buffer
from agent.volumes.attributes import posix_mode
from agent.volumes.file_write import FileWriter, Metadata
from agent.volumes.tree_write import DirectoryWriter, NewEntry, Written, target_error

SMALL_FILE = 1 << 20
BATCH_FILES = 256
BATCH_BYTES = 1 << 20
PENDING_BYTES = 2 << 20

R = TypeVar("R")


class Aborted(Exception):
    """The restore ends here, because of `error`, which has been counted."""

    def __init__(self, error: LighterageError) -> None:
        super().__init__(str(error))
        self.error = error


def spawn(tasks: asyncio.TaskGroup, work: Coroutine[object, object, None]) -> None:
    """Start a task; in a group that is being canceled the caller is canceled instead."""
    try:
        tasks.create_task(work)
    except RuntimeError:
        work.close()
        raise asyncio.CancelledError from None


def metadata_of(entry: Entry) -> Metadata:
    """Owner, mode and time to be given back. A time that nobody knew (§7.3) becomes 1970."""
    mtime_ns = 0 if entry.mtime_ns == UNKNOWN_TIME else entry.mtime_ns
    return Metadata(posix_mode(entry.mode), entry.uid, entry.gid, mtime_ns)


class Directory:
    """A directory of the target while it is worked on."""

    __slots__ = ("batch", "deferred", "fresh", "left", "metadata", "order", "path", "quiet", "unmade", "writer")

    def __init__(self, writer: DirectoryWriter, path: str, metadata: Metadata | None, *, fresh: bool) -> None:
        self.writer = writer
        self.path = path
        """Below the root of the restore, "" for the root itself."""
        self.metadata = metadata
        self.fresh = fresh
        """Nothing was in it before."""
        self.left = 1
        """Files and links that are neither written nor given up, and one for the listing itself."""
        self.unmade = 0
        """Directories below that are still to be made."""
        self.batch: list[tuple[File, Buffer]] = []
        self.order = NameOrder()
        self.deferred: list[Entry] = []
        self.quiet: asyncio.Event | None = None

    def child_path(self, name: str) -> str:
        """The path of an entry, for messages."""
        return f"{self.path}/{name}" if self.path else name


class File:
    """A file or symbolic link on its way into the target."""

    __slots__ = (
        "buffer",
        "directory",
        "entry",
        "error",
        "left",
        "name",
        "opening",
        "planned",
        "resumed",
        "size",
        "writer",
    )

    def __init__(self, directory: Directory, entry: Entry, name: bytes) -> None:
        self.directory = directory
        self.entry = entry
        self.name = name
        self.size = entry.size
        """Bytes of the object; the entry may say something else."""
        self.left = 0
        """Pieces planned and not yet arrived or written."""
        self.planned = False
        """Whether every piece is planned."""
        self.error: LighterageError | None = None
        self.buffer: bytearray | None = None
        self.opening: Future[FileWriter | None] | None = None
        """The thread's own: it is there as soon as the file is, whether or not the loop has heard of it."""
        self.writer: FileWriter | None = None
        self.resumed = False
        """Whether pieces of it may be there from an earlier attempt."""


class Sink:
    """Writes what `restore.py` brings. The task group belongs to the caller; it ends before `finish` and `abort`."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        pool: ThreadPoolExecutor,
        parallel: int,
        report: RestoreReport,
        *,
        fail_fast: bool,
    ) -> None:
        self._tasks = tasks
        self._pool = pool
        self._slots = asyncio.Semaphore(parallel + 1)
        self._report = report
        self._fail_fast = fail_fast
        self._touched: dict[Directory, None] = {}
        self._pending_bytes = 0
        self._done: list[Directory] = []
        self._large: set[File] = set()

    async def run(self, function: Callable[..., R], *args: object) -> R:
        """Call something that blocks in a thread of the restore."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    # ---- what goes wrong ----

    def fail(self, path: str, error: LighterageError) -> None:
        """Count and name an entry that could not be restored.

        Raises `Aborted` when nothing may fail, or when nothing more can work.
        """
        self._report.add_failure(path, error)
        if self._fail_fast or isinstance(error, VolumeOutOfSpace):
            raise Aborted(error)

    def give_up(self, file: File, error: LighterageError) -> None:
        """The file cannot be restored; what was written of it goes away when its last piece has come back."""
        if file.error is None:
            file.error = error
            self.fail(file.directory.child_path(file.entry.name), error)

    # ---- pieces of files ----

    async def deliver(self, piece: Piece[File], data: Buffer | LighterageError) -> None:
        """One planned piece, or why it cannot be had. Waits while the threads lag behind."""
        file, offset, length, content, compressed = piece
        if not isinstance(data, LighterageError) and compressed and file.error is None:
            try:
                data = await self.run(expand_content, content, data)
            except LighterageError as error:
                data = error
        if isinstance(data, LighterageError):
            self.give_up(file, data)
        if isinstance(data, LighterageError) or file.error is not None:
            self._piece_done(file)
            return
        single = file.planned and file.left == 1 and file.buffer is None and offset == 0 and file.opening is None
        if len(data) != length and file.entry.type != SYMLINK:
            path = file.directory.child_path(file.entry.name)
            self._report.add_warning(
                path, f"{length} bytes were expected at {offset}, the repository holds {len(data)}"
            )
        if single:
            self._queue(file, data)
        elif file.size <= SMALL_FILE:
            if file.buffer is None:
                file.buffer = bytearray(file.size)
            file.buffer[offset : offset + len(data)] = data
            self._piece_done(file)
        else:
            await self._slots.acquire()
            spawn(self._tasks, self._write(file, offset, data))
        if self._pending_bytes >= PENDING_BYTES:
            await self.flush()

    def planned(self, file: File) -> None:
        """Every piece of the file has been planned."""
        file.planned = True
        if not file.left:
            self._complete(file)

    def _piece_done(self, file: File) -> None:
        file.left -= 1
        if file.planned and not file.left:
            self._complete(file)

    def _complete(self, file: File) -> None:
        if file.opening is not None:
            spawn(self._tasks, self._finish(file))
        elif file.error is not None:
            self.settle(file.directory)
        else:
            self._queue(file, file.buffer if file.buffer is not None else b"")
            file.buffer = None

    # ---- large files ----

    def adopt(self, file: File, writer: FileWriter) -> None:
        """A file that is there in part, to be written on; from now on it is finished or removed here."""
        self._large.add(file)
        file.resumed = True
        file.writer = writer
        file.opening = Future()
        file.opening.set_result(writer)

    async def _write(self, file: File, offset: int, data: Buffer) -> None:
        try:
            if file.opening is None:
                self._large.add(file)
                file.opening = self._pool.submit(file.directory.writer.create_file, file.name, file.size)
            file.writer = await asyncio.shield(asyncio.wrap_future(file.opening))
            if file.writer is not None and file.error is None:
                await self.run(file.writer.write_at, offset, data)
                self._report.bytes += len(data)
        except VolumeError as error:
            self.give_up(file, error)
        finally:
            self._slots.release()
        self._piece_done(file)

    async def _finish(self, file: File) -> None:
        writer = file.writer
        async with self._slots:
            try:
                if writer is None:
                    if file.error is None:
                        self._report.skipped += 1
                elif file.error is not None:
                    await self.run(writer.abort)
                else:
                    if not await self.run(writer.finish, metadata_of(file.entry)):
                        self._report.denied += 1
                    self._report.files += 1
            except VolumeError as error:
                self.give_up(file, error)
        self._large.discard(file)
        self.settle(file.directory)

    # ---- small files and links ----

    def _queue(self, file: File, data: Buffer) -> None:
        directory = file.directory
        directory.batch.append((file, data))
        self._touched[directory] = None
        self._pending_bytes += len(data)

    async def flush(self) -> None:
        """Hand everything gathered to the threads, in jobs of many files; waits for room only."""
        touched, self._touched, self._pending_bytes = self._touched, {}, 0
        job: list[tuple[Directory, list[tuple[File, Buffer]]]] = []
        files = size = 0
        for directory in touched:
            batch, directory.batch = directory.batch, []
            start = 0
            for end, (_, data) in enumerate(batch, 1):
                files += 1
                size += len(data)
                if files >= BATCH_FILES or size >= BATCH_BYTES:
                    job.append((directory, batch[start:end]))
                    await self._hand_over(job)
                    job, start, files, size = [], end, 0, 0
            if start < len(batch):
                job.append((directory, batch[start:] if start else batch))
        if job or self._done:
            await self._hand_over(job)

    async def _hand_over(self, job: list[tuple[Directory, list[tuple[File, Buffer]]]]) -> None:
        await self._slots.acquire()
        spawn(self._tasks, self._write_batches(job))

    async def _write_batches(self, job: list[tuple[Directory, list[tuple[File, Buffer]]]]) -> None:
        done, self._done = self._done, []
        try:
            outcome = await self.run(_write_job, job, done)
        finally:
            self._slots.release()
        for path, sealing_error in outcome.unsealed:
            self.fail(path, sealing_error)
        for (directory, batch), results in zip(job, outcome.results, strict=True):
            for result in results:
                if isinstance(result, VolumeError):
                    self.fail(directory.path, result)
                    continue
                self._report.skipped += result.skipped
                self._report.denied += result.denied
                for failure in result.failures:
                    path = directory.child_path(os.fsdecode(failure.name))
                    self.fail(path, _failure(directory, failure.name, failure.error))
            written = sum(r.written for r in results if isinstance(r, Written))
            links = sum(1 for file, _ in batch if file.entry.type == SYMLINK)
            self._report.symlinks += min(links, written)
            self._report.files += written - min(links, written)
            if written == len(batch):
                self._report.bytes += sum(len(data) for file, data in batch if file.entry.type != SYMLINK)
            self.settle(directory, len(batch))

    # ---- directories ----

    def settle(self, directory: Directory, count: int = 1) -> None:
        """So many entries of the directory need nothing more. The last one seals it."""
        directory.left -= count
        if directory.left <= 1 and directory.quiet is not None:
            directory.quiet.set()
        if not directory.left and not directory.unmade:
            self._done.append(directory)
            if len(self._done) >= BATCH_FILES // 8:
                done, self._done = self._done, []
                spawn(self._tasks, self._seal(done))

    async def quiet(self, directory: Directory) -> None:
        """Wait until everything of a directory that is still being listed has been written."""
        await self.flush()
        if directory.left > 1:
            directory.quiet = asyncio.Event()
            await directory.quiet.wait()
            directory.quiet = None

    async def _seal(self, done: list[Directory]) -> None:
        async with self._slots:
            await self._seal_now(done)

    async def _seal_now(self, done: list[Directory]) -> None:
        outcome = await self.run(_write_job, [], done)
        for path, error in outcome.unsealed:
            self.fail(path, error)

    async def finish(self) -> None:
        """After the task group has ended well: seal what is left."""
        done, self._done = self._done, []
        await self._seal_now(done)

    def abort(self) -> None:
        """After the threads have ended, well or not: remove unfinished large files."""
        for file in self._large:
            opening = file.opening
            if opening is not None and opening.done() and not opening.cancelled() and opening.exception() is None:
                writer = opening.result()
                if writer is not None:
                    writer.abort()
        self._large.clear()


class _Outcome:
    """What came out of one job in a thread."""

    __slots__ = ("results", "unsealed")

    def __init__(self) -> None:
        self.results: list[list[Written | VolumeError]] = []
        self.unsealed: list[tuple[str, VolumeError]] = []


def _write_job(job: list[tuple[Directory, list[tuple[File, Buffer]]]], done: list[Directory]) -> _Outcome:
    """Thread side: create files and links of several directories, then seal the directories that are done."""
    outcome = _Outcome()
    for directory, batch in job:
        results: list[Written | VolumeError] = []
        files = [_new_entry(file, data) for file, data in batch if file.entry.type != SYMLINK]
        links = [_new_entry(file, data) for file, data in batch if file.entry.type == SYMLINK]
        for entries, write in ((files, directory.writer.write_files), (links, directory.writer.write_links)):
            if entries:
                try:
                    results.append(write(entries))
                except VolumeError as error:
                    results.append(error)
        outcome.results.append(results)
    for directory in done:
        try:
            directory.writer.seal(directory.metadata)
        except VolumeError as error:
            outcome.unsealed.append((directory.path, error))
    return outcome


def _new_entry(file: File, data: Buffer) -> NewEntry:
    return NewEntry(file.name, data, metadata_of(file.entry))


def _failure(directory: Directory, name: bytes, error: int) -> VolumeError:
    path = os.path.join(directory.writer.path, name)
    found = target_error("restore", path, OSError(error, os.strerror(error)))
    return found if isinstance(found, TargetExists | VolumeOutOfSpace) else VolumeError(found.message)
