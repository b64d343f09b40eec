"""A descriptor with an owner: read by position from any thread, closed once."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from agent.base.page_cache import read_once


class OpenFile:
    """Owns a descriptor. Use it as a context manager, or `close` it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def readinto_at(self, buffer: bytearray | memoryview, offset: int) -> int:
        """Fill the buffer from a position; less than its length only at the end of the file. Raises OSError."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            got = read_once(self._fd, view[done:], offset + done)
            if not got:
                break
            done += got
        return done

    def close(self) -> None:
        """Close the file; again does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()
