"""What the file system says of one entry, and mode bits as Kopia stores them.

Reading, comparing and restoring all speak `Attributes`; it is made by the million, so it is a native type. Kopia stores
Go's mode bits, not POSIX ones (§7.3).
"""

from __future__ import annotations

import os
import stat

from agent._native import Attributes

__all__ = ["GO_SETGID", "GO_SETUID", "GO_STICKY", "Attributes", "attributes_of", "go_mode", "posix_mode"]

GO_SETUID = 1 << 23
GO_SETGID = 1 << 22
GO_STICKY = 1 << 20


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
