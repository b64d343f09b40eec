"""A block device or image as one streaming file (§10.7, §14.17).

The snapshot is a directory with a single `f` entry. For Velero it looks as its stock agent of up to 1.18 makes it:
named by the device path, cut by the repository's splitter, so that both deduplicate. Elsewhere it is cut into blocks of
1 MiB, the last one padded with zeros; the entry says how large the device is, the object may be longer by that padding.
Holes are not read, and of all blocks of zeros only one is hashed. Every run reads the whole device, since its time says
nothing about its content.
"""

from __future__ import annotations

import os
import uuid
from concurrent.futures import Future

from agent import _native
from agent.base.errors import CanceledError, SourceUnreadable
from agent.repository.ids import ObjectId
from agent.repository.repository import Repository
from agent.repository.splitter import new_splitter
from agent.repository.writer import RepositoryWriter
from agent.snapshots.bridge import Bridge
from agent.snapshots.directory_write import DirectoryObject, Tally
from agent.snapshots.model import (
    DIRECTORY,
    INCOMPLETE_CANCELED,
    INCOMPLETE_CHECKPOINT,
    UNKNOWN_TIME,
    Entry,
    Source,
    Stats,
)
from agent.snapshots.progress import Cancellation, Totals, UploadProgress
from agent.snapshots.upload import UploadOptions, UploadResult, UploadRun, Walked, root_name
from agent.snapshots.upload_chunks import Holes
from agent.snapshots.upload_file import FileUploads, LargeFile, Stored
from agent.snapshots.upload_plan import FilePlan, Plans
from agent.volumes.device import DeviceReader, open_source_device
from agent.volumes.tree_read import Unreadable

BLOCK_SPLITTER = "FIXED-1M"
_MODE = 0o777
_POLL = 0.2


async def upload_device(
    repo: Repository,
    writer: RepositoryWriter,
    source: Source,
    path: str,
    *,
    options: UploadOptions | None = None,
    progress: UploadProgress | None = None,
    cancellation: Cancellation | None = None,
) -> UploadResult:
    """Back up the device or image at `path` as `source` and save the snapshot; `options.velero` as Velero does.

    Everything is flushed when it returns. Raises `SourceNotFound`, `SourceUnreadable`, `InvalidPolicy`, and what the
    repository raises; then nothing was saved but checkpoints.
    """
    run = UploadRun(repo, writer, source, options or UploadOptions(), progress=progress, cancellation=cancellation)
    return await run.do(lambda uploads, bridge: _DeviceUpload(run, path).read(uploads, bridge))


class _Padded:
    """A device with zeros behind its end."""

    def __init__(self, device: DeviceReader, block: int) -> None:
        self._device = device
        self.size = -(-device.size // block) * block

    def readinto_at(self, buffer: memoryview, offset: int) -> int:
        """As a device of `size` bytes does it."""
        got = self._device.readinto_at(buffer, offset)
        end = max(min(len(buffer), self.size - offset), got)
        buffer[got:end] = bytes(end - got)
        return end


class _DeviceUpload:
    """Thread side: one device."""

    def __init__(self, run: UploadRun, path: str) -> None:
        self._run = run
        self._path = path
        self._plans = Plans(run.repo.format.splitter, run.repo.format.index_version, velero=run.options.velero)

    def read(self, uploads: FileUploads, bridge: Bridge) -> Walked:
        run = self._run
        with open_source_device(self._path) as device:
            velero = run.options.velero
            plan = FilePlan(self._plans.splitter if velero else new_splitter(BLOCK_SPLITTER))
            source = _Padded(device, 1 if velero else plan.splitter.min_chunk)
            run.progress.totals = Totals(1, device.size)
            run.progress.directories, run.progress.current = 1, self._path
            holes = Holes(device.data_ranges(), source.size)
            file = uploads.device(LargeFile(root_name(self._path)), source, source.size, holes, plan)
            try:
                stored = self._wait(file.result, file, bridge)
            except CanceledError:
                if not run.cancellation.is_canceled or run.cancellation.is_abandoned:
                    raise
                return Walked(self._root(None, 0, INCOMPLETE_CANCELED), Stats(dir_count=1), INCOMPLETE_CANCELED)
            finally:
                uploads.close()
            size = device.size
        if isinstance(stored, Unreadable):
            raise SourceUnreadable(f"cannot read {self._path!r}: {stored.reason}")
        run.progress.done(1)
        stats = Stats(total_size=size, file_count=1, non_cached_files=1, dir_count=1)
        return Walked(self._root(stored.obj, size, ""), stats)

    def _wait(self, result: Future[Stored | Unreadable], file: LargeFile, bridge: Bridge) -> Stored | Unreadable:
        while True:
            try:
                return result.result(_POLL)
            except TimeoutError:
                self._run.cancellation.check()
                if self._run.checkpoint_due():
                    bridge.call(self._run.save_checkpoint(self._partial(file)))

    def _partial(self, file: LargeFile) -> Entry:
        """What is there, under a name that no later run takes for the device."""
        parts = [part for part in tuple(file.parts) if part.length]
        if not parts:
            return self._root(None, 0, INCOMPLETE_CHECKPOINT)
        obj = self._run.writer.assemble(chunk for part in parts for chunk in part.done())
        name = b".checkpointed.%s.%s" % (file.name, str(uuid.uuid4()).encode())
        return self._root(obj, sum(part.length for part in parts), INCOMPLETE_CHECKPOINT, name)

    def _root(self, obj: ObjectId | None, size: int, incomplete: str, name: bytes | None = None) -> Entry:
        run = self._run
        velero = run.options.velero
        root = os.fsencode(self._path) if velero else root_name(self._path)
        compression = self._plans.metadata(run.policies.effective)
        output, tally = DirectoryObject(run.writer, self._plans.splitter, compression), Tally()
        if obj is not None:
            output.add(_native.entry_prefix(name or root, b"f", _MODE, size, run.start_ns, 0, 0) + obj.encode() + b'"}')
            tally.add_files(1, 0, size, run.start_ns)
        summary = tally.summary(UNKNOWN_TIME, incomplete)
        return Entry(
            name=os.fsdecode(root),
            type=DIRECTORY,
            mode=_MODE,
            mtime_ns=UNKNOWN_TIME,
            obj=output.finish(summary),
            summ=summary,
        )
