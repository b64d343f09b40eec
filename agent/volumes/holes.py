"""Where a sparse file has data, so that nobody reads or writes its holes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator


def data_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of each stretch of data below `size`, in order; everything between them is a hole of zeros.

    Moves the file position. A file system that knows no holes gives the whole file. Raises OSError when the file
    cannot be asked at all. A file that changes meanwhile gives ranges that are in order and below `size` all the same.
    """
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                yield at, size - at
                return
            raise
        start, end = max(start, at), min(end, size)
        if start >= size:
            return
        if end <= start:
            # Cut short or rewritten between the two questions: take the rest as data, the reader finds the end.
            yield start, size - start
            return
        yield start, end - start
        at = end
