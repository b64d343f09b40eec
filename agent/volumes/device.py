"""Block devices and image files: read as one stream with its holes, written by position with zeros left out.

Block volumes are backed up and restored as one file (§10.7). A device has no holes of its own to ask for, an image
file has; on the way back zeros must really be zeros, because a device holds whatever was on it before.
All of it is thread side.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

from agent import _native
from agent.base.errors import SourceUnreadable, TargetExists, VolumeError, VolumeOutOfSpace
from agent.volumes.file_write import write_all_at
from agent.volumes.holes import data_ranges
from agent.volumes.open_file import OpenFile
from agent.volumes.tree_read import source_error
from agent.volumes.tree_write import target_error

if TYPE_CHECKING:
    from typing_extensions import Buffer

ZERO_BLOCK = 4096
"""Zeros are looked for in blocks of this size."""

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16
_ZEROS = bytes(1 << 20)
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)


class DeviceReader(OpenFile):
    """A block device or a regular file, `size` bytes long. Any thread may read."""

    def __init__(self, fd: int, path: str, size: int, *, is_device: bool) -> None:
        super().__init__(fd)
        self.path = path
        self.size = size
        self.is_device = is_device

    def readinto_at(self, buffer: bytearray | memoryview, offset: int) -> int:
        """Fill the buffer from a position; less than its length only at the end. Raises `SourceUnreadable`."""
        try:
            return super().readinto_at(buffer, offset)
        except OSError as error:
            raise SourceUnreadable(f"cannot read {self.path!r} at {offset}: {error.strerror}") from error

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of what is not known to be zeros: an image's holes are left out, a device is one range."""
        if self.is_device:
            return iter([(0, self.size)] if self.size else [])
        return data_ranges(self._fd, self.size)


class DeviceWriter(OpenFile):
    """A block device or image file being restored, `size` bytes of it. Any thread may write, each byte once."""

    def __init__(self, fd: int, path: str, size: int, *, is_device: bool, is_blank: bool) -> None:
        super().__init__(fd)
        self.path = path
        self.size = size
        self.is_device = is_device
        self.is_blank = is_blank
        """Whether everything not yet written reads as zeros: a new or empty image."""

    def read_at(self, offset: int, length: int) -> bytes:
        """What is there now; less than `length` at the end. Raises `VolumeError`."""
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise self._error("read back", error) from error

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write at a position; blocks of zeros are made zeros without writing them where that is possible.

        Raises `VolumeOutOfSpace`, `VolumeError`.
        """
        view = memoryview(data).cast("B")
        at = 0
        try:
            for start, length in _native.data_runs(view, ZERO_BLOCK):
                self._zero(offset + at, start - at)
                write_all_at(self._fd, view[start : start + length], offset + start)
                at = start + length
            self._zero(offset + at, len(view) - at)
        except OSError as error:
            raise self._error("write", error) from error

    def write_zeros(self, offset: int, length: int) -> None:
        """Make a range zeros. Raises `VolumeOutOfSpace`, `VolumeError`."""
        try:
            self._zero(offset, length)
        except OSError as error:
            raise self._error("write zeros to", error) from error

    def finish(self) -> None:
        """Everything is on stable storage. Raises `VolumeError`."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._error("sync", error) from error

    def _zero(self, offset: int, length: int) -> None:
        if length <= 0 or self.is_blank:
            return
        for mode in (_PUNCH_HOLE | _KEEP_SIZE, _ZERO_RANGE | _KEEP_SIZE):
            try:
                _native.allocate(self._fd, mode, offset, length)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
            else:
                return
        zeros = memoryview(_ZEROS)
        for at in range(offset, offset + length, len(zeros)):
            write_all_at(self._fd, zeros[: offset + length - at], at)

    def _error(self, what: str, error: OSError) -> VolumeError:
        if error.errno == errno.ENOSPC and self.is_device:
            return VolumeOutOfSpace(f"cannot {what} {self.path!r}: it ends before the data does")
        return target_error(what, os.fsencode(self.path), error)


def open_source_device(path: str) -> DeviceReader:
    """A block device, or a regular file that is the image of one. Links in `path` are followed.

    Raises `SourceNotFound`, `SourceUnreadable`.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise source_error(path, error) from error
    try:
        is_device = _is_device(fd, path)
        size = os.lseek(fd, 0, os.SEEK_END)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    except OSError as error:
        os.close(fd)
        raise source_error(path, error) from error
    except SourceUnreadable:
        os.close(fd)
        raise
    return DeviceReader(fd, path, size, is_device=is_device)


def open_target_device(path: str, size: int, *, overwrite: bool = False) -> DeviceWriter:
    """A block device of at least `size` bytes, or an image file: a new one, or an old one with `overwrite`.

    An image gets exactly `size` bytes; what was in an old one stays until it is written over, as on a device. A device
    is opened exclusively, so one that is mounted is refused.
    Raises `TargetExists`, `VolumeOutOfSpace` when the device is too small, `VolumeError`.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = _open_target(path, flags, overwrite=overwrite)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise VolumeError(
                f"the device {path!r} is mounted or in use by another program", hint="unmount it first"
            ) from error
        raise target_error("open the target", os.fsencode(path), error) from error
    try:
        is_device = stat.S_ISBLK(os.fstat(fd).st_mode)
        is_blank = False
        if is_device:
            there = os.lseek(fd, 0, os.SEEK_END)
            if there < size:
                raise VolumeOutOfSpace(
                    f"the device {path!r} has {there} bytes, {size} are needed", hint="restore to a larger device"
                )
        elif not stat.S_ISREG(os.fstat(fd).st_mode):
            raise TargetExists(f"the target {path!r} is neither a block device nor a file")
        else:
            is_blank = not os.fstat(fd).st_size
            os.ftruncate(fd, size)
    except OSError as error:
        os.close(fd)
        raise target_error("prepare the target", os.fsencode(path), error) from error
    except VolumeError:
        os.close(fd)
        raise
    return DeviceWriter(fd, path, size, is_device=is_device, is_blank=is_blank)


def _open_target(path: str, flags: int, *, overwrite: bool) -> int:
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        is_device = stat.S_ISBLK(os.stat(path).st_mode)
        if not (is_device or overwrite):
            raise
        # O_EXCL without O_CREAT on a block device: refused while it is mounted or otherwise claimed.
        return os.open(path, flags | (os.O_EXCL if is_device else 0))


def _is_device(fd: int, path: str) -> bool:
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISBLK(mode) or stat.S_ISREG(mode)):
        raise SourceUnreadable(f"{path!r} is neither a block device nor a file", hint="read a directory as a file tree")
    return stat.S_ISBLK(mode)
