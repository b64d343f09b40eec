"""Files that a test has just written, as if they had lain on disk for long."""

import os
from pathlib import Path


def forget(path: Path) -> None:
    """Have nothing of the file in the page cache."""
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
