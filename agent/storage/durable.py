"""Files that survive a crash completely or not at all: written aside, synced, renamed, their folder synced.

The blocking half of `filesystem`: runs in its threads, raises plain `OSError`. What moves bytes is a generator of
steps: it yields how many bytes it would like to move next and is sent how many it may, so that its owner can pace it.

A writer that crashed leaves its temporary file behind; readers and listings do not look at such names. The first write
into a folder removes those that nobody touched for a day, by the storage's own clock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

import msgspec

from agent.base.errors import StorageUnsupported
from agent.storage.base import Buffer

T = TypeVar("T")

FILE_MODE = 0o600
FOLDER_MODE = 0o700

_PIECE = 8 << 20
_DIRECT_FROM = 4 << 20
_DIRECT_PIECE = 32 << 20
_DIRECT_BLOCK = 4096
_MAX_VECTORS = 512
_TEMPORARY = re.compile(r".+\.tmp\.[0-9a-f]{16}\Z").match
_STALE_SECONDS = 24 * 3600.0
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})


Steps = Generator[int, int, T]
"""Yields the bytes it would like to move next, more than 0; is sent how many it may; returns its result."""


class Done(msgspec.Struct, Generic[T], frozen=True):
    """What steps returned."""

    value: T


class Stopped(Exception):
    """The work saw that its owner had canceled it; nobody but the canceled call sees this."""


class DurableWriter:
    """Writes files below one root folder. Thread-safe."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._known_folders = {""}  # folders that are durable themselves
        self._swept_folders: set[str] = set()

    def write(
        self, folder: str, name: str, data: Sequence[Buffer], canceled: threading.Event, *, keep_existing: bool
    ) -> Steps[None]:
        """Write `data` to `root/folder/name`, creating the folder.

        With `keep_existing` a file of that name raises `FileExistsError` and stays as it is; a file system without hard
        links raises `StorageUnsupported` for it. Raises `Stopped` soon after `canceled` is set; that, and closing the
        generator, leaves nothing.
        """
        if folder not in self._known_folders:
            self._make_folder(folder)
        path = os.path.join(self._root, folder, name)
        temporary = f"{path}.tmp.{secrets.token_hex(8)}"
        if keep_existing and os.path.exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        fd = self._create(temporary, folder)
        try:
            try:
                yield from _write_all(fd, data, canceled)
                os.fsync(fd)
                now = os.fstat(fd).st_mtime
            finally:
                os.close(fd)
            if canceled.is_set():
                raise Stopped
            if keep_existing:
                _link(temporary, path)
                os.unlink(temporary)
            else:
                os.rename(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_folder(os.path.dirname(path))
        if folder not in self._swept_folders:
            self._swept_folders.add(folder)
            _remove_stale(os.path.dirname(path), now - _STALE_SECONDS)

    def _create(self, path: str, folder: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return os.open(path, flags, FILE_MODE)
        except FileNotFoundError:  # somebody tidied the empty folder away
            self._make_folder(folder)
            return os.open(path, flags, FILE_MODE)

    def _make_folder(self, folder: str) -> None:
        path = self._root
        for part in folder.split("/") if folder else ():
            parent, path = path, os.path.join(path, part)
            with suppress(FileExistsError):
                os.mkdir(path, FOLDER_MODE)
            _sync_folder(parent)
        self._known_folders.add(folder)


def advance(steps: Steps[T], granted: int | None, unlimited: Callable[[], bool]) -> Done[T] | int:
    """Go on with `granted` bytes (None: start), and on while all may pass: the result, or what is wanted next."""
    try:
        wanted = next(steps) if granted is None else steps.send(granted)
        while unlimited():
            wanted = steps.send(wanted)
    except StopIteration as end:
        return Done(end.value)
    return wanted


def read_into(fd: int, offset: int, data: memoryview, canceled: threading.Event) -> Steps[None]:
    """Fill `data` from `offset`; raises `OSError` when the file shrinks meanwhile."""
    length = len(data)
    position = 0
    while position < length:
        end = position + (yield min(length - position, _PIECE))
        while position < end:
            if canceled.is_set():
                raise Stopped
            count = os.preadv(fd, [data[position:end]], offset + position)
            if not count:
                raise OSError(errno.EIO, "the file became shorter while it was read")
            position += count


def _write_all(fd: int, data: Sequence[Buffer], canceled: threading.Event) -> Steps[None]:
    todo = [view for buffer in data if (view := memoryview(buffer))]
    if todo and len(todo[0]) >= _DIRECT_FROM:
        todo = _after(todo, (yield from _write_direct(fd, todo[0], canceled)))
    left = sum(map(len, todo))
    while left:
        granted = yield min(left, _PIECE)
        left -= granted
        while granted:
            if canceled.is_set():
                raise Stopped
            written = os.writev(fd, _first(todo, granted))
            granted -= written
            todo = _after(todo, written)


def _write_direct(fd: int, data: memoryview, canceled: threading.Event) -> Steps[int]:
    """Write whole blocks of a pack past the page cache; how many bytes that were, 0 where it is not possible.

    The kernel's copy into the page cache costs more than hashing does, and packs push what others need out of it.
    """
    if not _set_direct(fd, True):
        return 0
    end = len(data) - len(data) % _DIRECT_BLOCK
    written = granted = 0
    try:
        while written < end:
            granted += yield min(end - granted, _DIRECT_PIECE)
            while granted - written >= _DIRECT_BLOCK:
                if canceled.is_set():
                    raise Stopped
                written += os.write(fd, data[written : granted - granted % _DIRECT_BLOCK])
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: this file system wants another alignment
            raise
    finally:
        _set_direct(fd, False)
    return written


def _set_direct(fd: int, wanted: bool) -> bool:
    """Turn O_DIRECT on or off; False where the file system does not have it."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def _first(vectors: list[memoryview], length: int) -> list[memoryview]:
    """The first `length` bytes of `vectors`, or less when that takes more buffers than one call may have."""
    first: list[memoryview] = []
    for view in vectors[:_MAX_VECTORS]:
        first.append(view[:length])
        length -= len(first[-1])
        if not length:
            break
    return first


def _after(vectors: list[memoryview], written: int) -> list[memoryview]:
    for index, view in enumerate(vectors):
        if written < len(view):
            return [view[written:], *vectors[index + 1 :]]
        written -= len(view)
    return []


def _link(existing: str, new: str) -> None:
    try:
        os.link(existing, new)
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise StorageUnsupported(
                f"cannot write {new} only if it is absent: {error.strerror}",
                hint="this file system has no hard links",
            ) from error
        raise


def _sync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:  # network and FUSE file systems often cannot sync a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EROFS):
            raise
    finally:
        os.close(fd)


def _remove_stale(folder: str, before: float) -> None:
    """Remove what crashed writers left in `folder`; whatever cannot be removed stays."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY(entry.name):
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode) and status.st_mtime < before:
                        os.unlink(entry.path)
