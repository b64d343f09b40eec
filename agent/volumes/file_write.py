"""One large file being restored: written by position from several threads, metadata last."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

from agent import _native
from agent.base.errors import VolumeError, VolumeOutOfSpace
from agent.base.page_cache import write_once

if TYPE_CHECKING:
    from typing_extensions import Buffer

_ZERO_BLOCK = 4096
_WRITE = 512 << 10
_REFUSED = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP, errno.EROFS)


class Metadata(msgspec.Struct, frozen=True, gc=False):
    """Owner, the 12 POSIX mode bits and modification time of an entry to be written."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int


class FileWriter:
    """A new regular file. End it with `finish`, or with `abort`, which removes it."""

    def __init__(
        self, fd: int, parent: int, name: bytes, folder: bytes, *, owners: bool, modes: bool, times: bool, sparse: bool
    ) -> None:
        """Take over both descriptors: the file and the directory it is in."""
        self._fd = fd
        self._parent = parent
        self._name = name
        self._path = os.path.join(folder, name)
        self._owners = owners
        self._modes = modes
        self._times = times
        self._sparse = sparse

    def allocate(self, size: int) -> None:
        """Give the file its size; unless it may be sparse, also its blocks where the file system can reserve them.

        Raises `VolumeOutOfSpace` when they cannot be had, `VolumeError`.
        """
        try:
            os.ftruncate(self._fd, size)
            if size and not self._sparse:
                _native.allocate(self._fd, 0, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise self._error("allocate", error) from error

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write at a position; thread-safe. Raises `VolumeOutOfSpace`, `VolumeError`."""
        view = memoryview(data).cast("B")
        runs = _native.data_runs(view, _ZERO_BLOCK) if self._sparse else [(0, len(view))]
        try:
            for start, length in runs:
                write_all_at(self._fd, view[start : start + length], offset + start)
        except OSError as error:
            raise self._error("write", error) from error

    def read_at(self, offset: int, length: int) -> bytes:
        """What is there now; less than `length` at the end of the file. Raises `VolumeError`."""
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise self._error("read back", error) from error

    def finish(self, metadata: Metadata) -> bool:
        """Apply owner, mode and time and close; False when some of it was refused. Raises `VolumeError`."""
        try:
            applied = apply_metadata(self._fd, metadata, owners=self._owners, modes=self._modes, times=self._times)
            fd, self._fd = self._fd, -1
            os.close(fd)
        except OSError as error:
            raise self._error("finish", error) from error
        os.close(self._parent)
        self._parent = -1
        return applied

    def abort(self) -> None:
        """Close and remove the file; nothing happens when it is finished."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._parent >= 0:
            with contextlib.suppress(OSError):  # what is left behind is what the caller already failed for
                os.unlink(self._name, dir_fd=self._parent)
            os.close(self._parent)
            self._parent = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.abort()

    def _error(self, what: str, error: OSError) -> VolumeError:
        message = f"cannot {what} {os.fsdecode(self._path)!r}: {error.strerror}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return VolumeOutOfSpace(message, hint="make room or restore into a larger volume")
        return VolumeError(message)


def write_all_at(fd: int, data: memoryview, offset: int) -> None:
    """pwrite until all is written. Raises OSError.

    In pieces: for a large write Linux takes page cache in units of 2 MiB, and those are what a virtual machine gives
    back to its host and has to ask for again, at ten times the price.
    """
    done = 0
    while done < len(data):
        put = write_once(fd, data[done : done + _WRITE], offset + done)
        if not put:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done += put


def apply_metadata(fd: int, metadata: Metadata, *, owners: bool, modes: bool, times: bool) -> bool:
    """Owner, then mode, then time of an open file or directory; False when any of it was refused.

    Set-id bits are left out when the owner was refused: they belong to the stored owner. Raises OSError
    for other failures.
    """
    applied = True
    mode = metadata.mode & 0o7777
    if owners:
        try:
            os.chown(fd, metadata.uid, metadata.gid)
        except OSError as error:
            applied = _refused(error)
            mode &= ~(stat.S_ISUID | stat.S_ISGID)
    if modes:
        try:
            os.chmod(fd, mode)
        except OSError as error:
            applied = _refused(error)
    if times:
        try:
            os.utime(fd, ns=(metadata.mtime_ns, metadata.mtime_ns))
        except OSError as error:
            applied = _refused(error)
    return applied


def _refused(error: OSError) -> bool:
    if error.errno not in _REFUSED:
        raise error
    return False
