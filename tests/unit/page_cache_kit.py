"""Files that a test has just written, as if they had lain on disk for long; and what of a file is in memory."""

import ctypes
import mmap
import os
from pathlib import Path


def forget(path: Path) -> None:
    """Have nothing of the file in the page cache."""
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def cached_pages(path: Path) -> int:
    """mincore(2) of the whole file."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        resident = (ctypes.c_ubyte * (len(mapped) // mmap.PAGESIZE))()
        start = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None, use_errno=True).mincore(
            ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(len(mapped)), resident
        )
        del start
        assert not failed, os.strerror(ctypes.get_errno())
        return sum(page & 1 for page in resident)
