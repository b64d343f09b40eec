"""Writing a block snapshot back to a device or an image file.

A block snapshot is one file entry below its root, or the root itself (§14.17); its name is ignored, whatever it
holds, because the caller says where it goes. Contents come by pack, window by window, and are written by position
from several threads; blocks of zeros are punched or left out by `agent.volumes.device`. Unlike a tree, a
device with a gap is worth nothing, so the first piece that cannot be had ends the restore.

A restore that was killed goes on where it stopped without having noted anything. Windows are written one after
the other, so what an attempt left is their beginning: as long as something of each window is in its place, what is
there is read back and hashed, and only the rest is fetched. The first window of which nothing is there ends the
looking. So a device that held something else costs the reading and hashing of one window, 64 MiB, and a new image
nothing. Zeros are never hashed: they count as not there, which costs one content a window and no writing.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

from agent import _native
from agent.base.errors import CorruptObject, LighterageError, SnapshotError
from agent.base.hold import Hold
from agent.repository.ids import content_text
from agent.repository.object_reader import expand_content
from agent.snapshots.fetch import fetch
from agent.snapshots.model import DIRECTORY, FILE, Entry
from agent.snapshots.restore import Repository
from agent.snapshots.restore_plan import Piece, Window
from agent.snapshots.restore_report import RestoreReport
from agent.snapshots.tree import Objects, list_directory
from agent.storage.base import Buffer
from agent.volumes.device import ZERO_BLOCK, DeviceWriter, open_target_device

PADDING = 1 << 20
"""An object that is longer than its entry by less than this has a last block filled with zeros (§14.17)."""


async def block_entry(objects: Objects, root: Entry) -> Entry:
    """The one file of a block snapshot. Raises `SnapshotError` when it holds anything else."""
    if root.type == FILE:
        return root
    found: list[Entry] = []
    if root.type == DIRECTORY:
        async with aclosing(list_directory(objects, root.obj, "")) as batches:
            async for entries in batches:
                found += entries[:2]
                if len(found) > 1:
                    break
    if len(found) != 1 or found[0].type != FILE:
        raise SnapshotError(
            "this snapshot is not one of a block device: its root does not hold exactly one file",
            hint="restore it into a directory",
        )
    return found[0]


async def restore_device(
    repository: Repository,
    root: Entry,
    target: str,
    *,
    overwrite: bool = False,
    parallel: int = 2,
    report: RestoreReport | None = None,
    hold: Hold | None = None,
) -> RestoreReport:
    """Write the one file of a block snapshot to the device or image file `target`.

    An image gets the size of the data, without the zeros that fill its last block; one that exists is only written
    with `overwrite`. While `hold` is closed no further piece is written. Raises `SnapshotError`, `TargetExists`,
    `VolumeOutOfSpace` for a device that is too small, and what reading raises.
    """
    report = report if report is not None else RestoreReport()
    entry = await block_entry(repository.objects, root)
    extents = await repository.objects.extents(entry.obj)
    size = extents[-1].offset + extents[-1].length if extents else 0
    if 0 < size - entry.size < PADDING:
        size = entry.size
    pool = ThreadPoolExecutor(parallel, "restore")
    writer = await asyncio.to_thread(open_target_device, target, size, overwrite=overwrite)
    with writer:
        try:
            run = _Run(repository, writer, size, pool, parallel, report, hold or Hold())
            window: Window[None] = Window()
            for extent in extents:
                window.add(Piece(None, extent.offset, extent.length, extent.content, extent.compressed))
                if window.full:
                    await run.work_off(window)
                    window = Window()
            await run.work_off(window)
            await asyncio.get_running_loop().run_in_executor(pool, writer.finish)
        except BaseExceptionGroup as group:
            raise next((e for e in group.exceptions if isinstance(e, LighterageError)), group.exceptions[0]) from None
        finally:
            # The descriptor must outlive the writes; each is short, so the loop may wait.
            pool.shutdown(cancel_futures=True)
    report.files += 1
    return report


class _Run:
    """What the windows of one restore share."""

    def __init__(
        self,
        repository: Repository,
        writer: DeviceWriter,
        size: int,
        pool: ThreadPoolExecutor,
        parallel: int,
        report: RestoreReport,
        hold: Hold,
    ) -> None:
        self._contents = repository.contents
        self._writer = writer
        self._size = size
        self._pool = pool
        self._slots = asyncio.Semaphore(parallel + 1)
        self._report = report
        self._hold = hold
        self._resuming = not writer.is_blank

    async def work_off(self, window: Window[None]) -> None:
        """Fetch and write one window, but for what an earlier attempt wrote of it."""
        await self._hold.passed()
        if self._resuming:
            window = await self._without_what_is_there(window)
        if not window:
            return
        async with asyncio.TaskGroup() as tasks, aclosing(fetch(self._contents, window.contents)) as batches:
            async for batch in batches:
                await self._hold.passed()
                for content, data in batch:
                    if isinstance(data, LighterageError):
                        raise data
                    pieces = window.take(content)
                    await self._slots.acquire()
                    tasks.create_task(self._write(pieces, data))

    async def _write(self, pieces: list[Piece[None]], data: Buffer) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._write_all, pieces, data)
        finally:
            self._slots.release()
        self._report.bytes += sum(min(piece.length, self._size - piece.offset) for piece in pieces)

    async def _without_what_is_there(self, window: Window[None]) -> Window[None]:
        loop = asyncio.get_running_loop()
        pieces = window.pieces
        found = await asyncio.gather(*(loop.run_in_executor(self._pool, self._is_there, piece) for piece in pieces))
        # A window of one content is a long run of zeros, which tells nothing.
        self._resuming = any(found) or len(window.contents) == 1
        missing: Window[None] = Window()
        for piece, is_there in zip(pieces, found, strict=True):
            if is_there:
                self._report.resumed_bytes += piece.length
            else:
                missing.add(piece)
        return missing

    def _is_there(self, piece: Piece[None]) -> bool:
        """Thread side."""
        if piece.compressed:
            return False
        data = self._writer.read_at(piece.offset, piece.length)
        return (
            len(data) == piece.length
            and bool(_native.data_runs(data, ZERO_BLOCK))
            and self._contents.matches(piece.content, data)
        )

    def _write_all(self, pieces: list[Piece[None]], data: Buffer) -> None:
        """Thread side."""
        for piece in pieces:
            plain = expand_content(piece.content, data) if piece.compressed else data
            if len(plain) != piece.length:
                raise CorruptObject(
                    f"{piece.length} bytes were expected at {piece.offset}, content {content_text(piece.content)}"
                    f" has {len(plain)}"
                )
            self._writer.write_at(piece.offset, memoryview(plain)[: max(0, self._size - piece.offset)])
