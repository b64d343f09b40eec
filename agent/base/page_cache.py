"""Reads and writes of data that nobody needs again soon: they leave the page cache as they found it.

A volume passes through once. What the page cache would keep of it pushes out what the node's applications
use, and costs more than all else that is done with the bytes where a virtual machine has to ask its host for each page.
Linux has `RWF_DONTCACHE` for this: what is cached already is used and stays. Its first releases, 6.14 and 6.15, raced
with others that write the same pages, so it is asked for from 6.16 on; a file system that does not have it gets the
plain call. Packs in a local folder are read in the plain way: what several files share is asked for again.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing_extensions import Buffer

_RWF_DONTCACHE = 0x80
_SINCE = (6, 16)
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


def flags_for(release: str) -> int:
    """What preadv2(2) and pwritev2(2) are told on this kernel release, `6.18.1-arch1`; 0 where there is nothing."""
    version = re.match(r"(\d+)\.(\d+)", release)
    return _RWF_DONTCACHE if version and (int(version[1]), int(version[2])) >= _SINCE else 0


ONCE: Final = flags_for(os.uname().release)
"""The flags on this machine."""


def read_once(fd: int, buffer: Buffer, offset: int) -> int:
    """preadv(2) into one buffer: how many bytes, 0 at the end. Raises OSError."""
    return _once(os.preadv, fd, buffer, offset)


def write_once(fd: int, buffer: Buffer, offset: int) -> int:
    """pwritev(2) of one buffer: how many bytes. Raises OSError."""
    return _once(os.pwritev, fd, buffer, offset)


def _once(call: Callable[[int, list[Buffer], int, int], int], fd: int, buffer: Buffer, offset: int) -> int:
    if ONCE:
        try:
            return call(fd, [buffer], offset, ONCE)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
    return call(fd, [buffer], offset, 0)
