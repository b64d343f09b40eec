"""Memory in a temporary file without a name: off the heap, gone when nobody uses it.

What lies in it long the kernel can put on disk, so it takes nothing from what a container is allowed. Without a place
for temporary files, or where that place is memory itself, it is anonymous memory.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from contextlib import suppress

from agent import _native

_Buffer = bytes | bytearray | memoryview

_IN_MEMORY = {0x01021994, 0x858458F6}
"""tmpfs, ramfs."""


class FileMemory(mmap.mmap):
    """Memory that is a part of a file."""


def scratch(size: int) -> mmap.mmap:
    """`size` writable zero bytes, at least one; `FileMemory` where that can be had.

    The place for them is taken at once: a write into a mapping for which the disk has no room would end the process.
    """
    with suppress(OSError), tempfile.TemporaryFile() as file:
        if _native.file_system_magic(file.fileno()) not in _IN_MEMORY:
            os.posix_fallocate(file.fileno(), 0, size)
            return FileMemory(file.fileno(), size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def unnamed_mapping(data: _Buffer) -> memoryview:
    """A read-only mapping of a copy of `data`."""
    view = memoryview(data)
    if not view:
        return memoryview(b"")
    with suppress(OSError), tempfile.TemporaryFile() as file:
        write_all(file.fileno(), view)
        return memoryview(mmap.mmap(file.fileno(), len(view), access=mmap.ACCESS_READ))
    mapping = mmap.mmap(-1, len(view))
    mapping.write(view)
    return memoryview(mapping).toreadonly()


def write_all(fd: int, data: _Buffer) -> None:
    """Write every byte of `data`. Raises `OSError`."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
