"""A single regular file as the source of a snapshot, whose root is then the file itself (§7.2).

Called by `upload.py` in the run's thread, in place of the walk. The file is opened below its folder like every other
file, so that what is read is what was looked at. One that is as the parent says is not read again.
"""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import msgspec

from agent.base.errors import CanceledError, SourceUnreadable
from agent.repository.ids import ObjectId
from agent.snapshots.directory_write import UploadSink
from agent.snapshots.model import FILE, INCOMPLETE_CANCELED, INCOMPLETE_CHECKPOINT, DirectorySummary, Entry, Stats
from agent.snapshots.policy import Policy
from agent.snapshots.progress import Cancellation, UploadProgress
from agent.snapshots.upload_file import FileUploads, LargeFile, Stored
from agent.snapshots.upload_plan import Plans
from agent.volumes.attributes import Attributes, go_mode
from agent.volumes.tree_read import DirectoryReader, Unreadable, open_directory

_POLL = 0.2


class SingleFile(msgspec.Struct, frozen=True):
    """What came of it."""

    root: Entry
    stats: Stats
    incomplete: str
    warnings: tuple[str, ...]


class SingleFileUpload:
    """One file. Thread side."""

    def __init__(
        self,
        sink: UploadSink,
        uploads: FileUploads,
        plans: Plans,
        policy: Policy,
        *,
        cancellation: Cancellation,
        progress: UploadProgress,
        due: Callable[[], bool],
        save: Callable[[Entry], None],
    ) -> None:
        """`due` tells whether it is time for a checkpoint, `save` makes one visible."""
        self._sink = sink
        self._uploads = uploads
        self._plans = plans
        self._policy = policy
        self._cancellation = cancellation
        self._progress = progress
        self._due = due
        self._save = save

    def upload(self, path: str, name: bytes, parents: Sequence[Entry]) -> SingleFile:
        """Store the file that `path` leads to, under `name`. Raises `SourceNotFound`, `SourceUnreadable`."""
        folder, base = os.path.split(os.path.realpath(path))
        with open_directory(folder) as reader:
            found = reader.look_up(os.fsencode(base))
            if isinstance(found, Unreadable):
                raise SourceUnreadable(f"cannot read {path!r}: {found.reason}")
            root = _entry(os.fsdecode(name), found.attributes)
            for parent in parents:
                if _same(parent, root):
                    return self._take_over(root, parent.obj)
            return self._read(path, root, reader, os.fsencode(base), found.attributes)

    def _take_over(self, root: Entry, obj: ObjectId) -> SingleFile:
        self._progress.done(1, cached=1, cached_bytes=root.size)
        stats = Stats(total_size=root.size, cached_files=1)
        return SingleFile(_whole(root, obj, root.size), stats, "", ())

    def _read(self, path: str, root: Entry, reader: DirectoryReader, base: bytes, before: Attributes) -> SingleFile:
        self._progress.current = root.name
        plan = self._plans.file(self._policy, os.fsencode(root.name), root.size)
        file = self._uploads.large(reader, base, root.size, plan)
        try:
            stored = self._wait(file.result, file, root)
        except CanceledError:
            partial = self._partial(file, root, INCOMPLETE_CANCELED)
            if partial is None or not self._cancellation.is_canceled or self._cancellation.is_abandoned:
                raise
            return SingleFile(partial, Stats(), INCOMPLETE_CANCELED, ())
        finally:
            self._uploads.close()
        if isinstance(stored, Unreadable):
            raise SourceUnreadable(f"cannot read {path!r}: {stored.reason}")
        self._progress.done(1)
        after = stored.attributes
        changed = stored.size != before.size or (after is not None and after.mtime_ns != before.mtime_ns)
        warnings = (f"{root.name} changed while it was read",) if changed else ()
        stats = Stats(total_size=stored.size, file_count=stored.parts, non_cached_files=1)
        return SingleFile(_whole(root, stored.obj, stored.size), stats, "", warnings)

    def _wait(self, result: Future[Stored | Unreadable], file: LargeFile, root: Entry) -> Stored | Unreadable:
        while True:
            try:
                return result.result(_POLL)
            except TimeoutError:
                self._cancellation.check()
                if self._due() and (partial := self._partial(file, root, INCOMPLETE_CHECKPOINT)) is not None:
                    self._save(partial)

    def _partial(self, file: LargeFile, root: Entry, reason: str) -> Entry | None:
        """What is there of the first part, under a name that no later run takes for the file."""
        first = next(iter(tuple(file.parts)), None)
        if first is None or not (size := first.length):
            return None
        obj = self._sink.assemble(first.done())
        name = f".checkpointed.{root.name}.{uuid.uuid4()}"
        summary = DirectorySummary(size=size, files=1, max_time_ns=root.mtime_ns, incomplete=reason)
        return msgspec.structs.replace(root, name=name, size=size, obj=obj, summ=summary)


def is_single_file(path: str) -> bool:
    """Whether a path leads to a regular file."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _entry(name: str, attributes: Attributes) -> Entry:
    """The file as it is found, without its content."""
    return Entry(
        name=name,
        type=FILE,
        mode=go_mode(attributes.mode),
        size=attributes.size,
        mtime_ns=attributes.mtime_ns,
        uid=attributes.uid,
        gid=attributes.gid,
    )


def _whole(root: Entry, obj: ObjectId, size: int) -> Entry:
    summary = DirectorySummary(size=size, files=1, max_time_ns=root.mtime_ns)
    return msgspec.structs.replace(root, size=size, obj=obj, summ=summary)


def _same(parent: Entry, root: Entry) -> bool:
    def seen(entry: Entry) -> tuple[object, ...]:
        return entry.type, entry.name, entry.mode, entry.size, entry.mtime_ns, entry.uid, entry.gid

    return bool(parent.obj) and seen(parent) == seen(root)
