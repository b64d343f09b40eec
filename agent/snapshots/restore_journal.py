"""How a killed restore finds out what it had done: one marker file, nothing per file.

While a restore runs, its target's root holds an empty file named after the root object being restored. An entry gets
its size first, then its owner, mode and time in this order, so an entry that has all of them is complete; and
its change time, which nobody can set, tells whether it was written after the marker. So a restore that finds its
marker takes an entry as done when its metadata is right and it changed after the marker did, and writes everything
else again. An entry that was there before the first attempt is older than the marker and is treated as the caller
asked. The marker is removed when the restore has come to its end; the name cannot be in the snapshot, since no
directory can hold its own object id.
"""

from __future__ import annotations

import contextlib
import os
import stat

import msgspec

from agent.repository.ids import ObjectId
from agent.snapshots.model import FILE, SYMLINK, Entry
from agent.volumes.attributes import posix_mode
from agent.volumes.tree_write import WriteOptions, target_error

_PREFIX = ".lighter-restore-"


class Journal(msgspec.Struct, frozen=True):
    """The marker of one restore in the root of its target. Thread side."""

    path: bytes
    name: bytes
    started_ns: int
    """The change time of the marker, by the target's own clock."""
    resumed: bool
    """Whether an earlier attempt left the marker."""

    def wrote(self, status: os.stat_result) -> bool:
        """Whether this restore, or an earlier attempt of it, touched the entry."""
        return status.st_ctime_ns >= self.started_ns

    def completed(self, status: os.stat_result, entry: Entry, options: WriteOptions) -> bool:
        """Whether an earlier attempt finished this file or symbolic link."""
        if not self.resumed or not self.wrote(status):
            return False
        if entry.type == FILE:
            if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
                return False
            if options.modes and stat.S_IMODE(status.st_mode) != posix_mode(entry.mode):
                return False
        elif entry.type != SYMLINK or not stat.S_ISLNK(status.st_mode) or status.st_size != entry.size:
            return False
        if options.owners and (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
            return False
        return options.times and status.st_mtime_ns == entry.mtime_ns

    def end(self) -> None:
        """Remove the marker. Raises `VolumeError`."""
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
        except OSError as error:
            raise target_error("remove the marker", self.path, error) from error


def begin(target: bytes, root: ObjectId) -> Journal:
    """Place the marker in a directory that exists, or find that of an earlier attempt. Raises `VolumeError`."""
    name = os.fsencode(_PREFIX + root)
    path = os.path.join(target, name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        try:
            fd = os.open(path, flags | os.O_EXCL, 0o600)
            resumed = False
        except FileExistsError:
            fd = os.open(path, flags, 0o600)
            resumed = True
        try:
            started_ns = os.fstat(fd).st_ctime_ns
        finally:
            os.close(fd)
    except OSError as error:
        raise target_error("place the marker", path, error) from error
    return Journal(path, name, started_ns, resumed)
