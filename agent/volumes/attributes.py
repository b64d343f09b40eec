"""What the file system says of one entry, and mode bits as Kopia stores them.

Reading, comparing and restoring all speak `Attributes`; it is made by the million, so it is a Struct without cycle
collection and is filled straight from the tuples of the native batches. Kopia stores Go's mode bits, not POSIX ones
(§7.3).
"""

from __future__ import annotations

import enum
import os
import stat
from typing import TypeAlias

import msgspec

StatTuple: TypeAlias = tuple[int, int, int, int, int, int, int, int, int]
"""(mode, size, mtime_ns, uid, gid, dev, ino, nlink, rdev), as the native batches return it."""

GO_SETUID = 1 << 23
GO_SETGID = 1 << 22
GO_STICKY = 1 << 20


class FileKind(enum.IntEnum):
    """The type of an entry; the values are those of `d_type`."""

    UNKNOWN = 0
    FIFO = 1
    CHARACTER_DEVICE = 2
    DIRECTORY = 4
    BLOCK_DEVICE = 6
    FILE = 8
    SYMLINK = 10
    SOCKET = 12


_KINDS = {kind.value: kind for kind in FileKind}


def kind_of_type(d_type: int) -> FileKind:
    """The kind of a `d_type` value, `UNKNOWN` when there is none."""
    return _KINDS.get(d_type, FileKind.UNKNOWN)


class Attributes(msgspec.Struct, frozen=True, gc=False):
    """lstat of one entry. `mode` is the whole st_mode, times are nanoseconds since 1970."""

    mode: int
    size: int
    mtime_ns: int
    uid: int
    gid: int
    dev: int = 0
    ino: int = 0
    nlink: int = 1
    rdev: int = 0

    @property
    def kind(self) -> FileKind:
        """File, directory, symbolic link or one of the special types."""
        return _KINDS.get(self.mode >> 12, FileKind.UNKNOWN)

    @property
    def permissions(self) -> int:
        """POSIX permission, set-id and sticky bits: `mode & 07777`."""
        return self.mode & 0o7777

    @property
    def is_directory(self) -> bool:
        """Whether this is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether this is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        """Whether this is a symbolic link."""
        return stat.S_ISLNK(self.mode)


def attributes_of(status: os.stat_result) -> Attributes:
    """`Attributes` of what `os.stat` and its kin return."""
    return Attributes(
        status.st_mode,
        status.st_size,
        status.st_mtime_ns,
        status.st_uid,
        status.st_gid,
        status.st_dev,
        status.st_ino,
        status.st_nlink,
        status.st_rdev,
    )


def go_mode(posix: int) -> int:
    """The 12 POSIX bits of a mode as Go's `os.FileMode` keeps them (§7.3); type bits are dropped."""
    bits = posix & 0o777
    if posix & 0o7000:
        bits |= GO_SETUID if posix & stat.S_ISUID else 0
        bits |= GO_SETGID if posix & stat.S_ISGID else 0
        bits |= GO_STICKY if posix & stat.S_ISVTX else 0
    return bits


def posix_mode(go: int) -> int:
    """The 12 POSIX bits of a Go mode (§7.3); bits that have no POSIX meaning are dropped."""
    bits = go & 0o777
    if go > 0o777:
        bits |= stat.S_ISUID if go & GO_SETUID else 0
        bits |= stat.S_ISGID if go & GO_SETGID else 0
        bits |= stat.S_ISVTX if go & GO_STICKY else 0
    return bits
