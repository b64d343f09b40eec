"""Files that survive a crash completely or not at all: written aside, synced, renamed, their folder synced.

The blocking half of `filesystem`: runs in its threads, raises plain `OSError`.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress

from agent.base.errors import StorageUnsupported
from agent.storage.base import Buffer

FILE_MODE = 0o600
FOLDER_MODE = 0o700

_PIECE = 8 << 20
_MAX_VECTORS = 512
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})


class Stopped(Exception):
    """The work saw that its owner had canceled it; nobody but the canceled call sees this."""


class DurableWriter:
    """Writes files below one root folder. Thread-safe."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._known_folders = {""}  # folders that are durable themselves

    def write(
        self, folder: str, name: str, data: Sequence[Buffer], canceled: threading.Event, *, keep_existing: bool
    ) -> None:
        """Write `data` to `root/folder/name`, creating the folder.

        With `keep_existing` a file of that name raises `FileExistsError` and stays as it is; a file system without hard
        links raises `StorageUnsupported` for it. Raises `Stopped` soon after `canceled` is set, leaving nothing.
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
                _write_all(fd, data, canceled)
                os.fsync(fd)
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


def read_range(fd: int, offset: int, length: int, canceled: threading.Event) -> bytes:
    """Exactly `length` bytes from `offset`; raises `OSError` when the file shrinks meanwhile."""
    pieces: list[bytes] = []
    while length and not canceled.is_set():
        piece = os.pread(fd, length, offset)
        if not piece:
            raise OSError(errno.EIO, "the file became shorter while it was read")
        pieces.append(piece)
        offset += len(piece)
        length -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _write_all(fd: int, data: Sequence[Buffer], canceled: threading.Event) -> None:
    for vectors in _pieces(data):
        todo = vectors
        while todo:
            if canceled.is_set():
                raise Stopped
            todo = _after(todo, os.writev(fd, todo))


def _pieces(data: Sequence[Buffer]) -> Iterator[list[memoryview]]:
    """`data` cut into lists of at most `_PIECE` bytes and `_MAX_VECTORS` buffers."""
    vectors: list[memoryview] = []
    room = _PIECE
    for buffer in data:
        view = memoryview(buffer)
        while view:
            vectors.append(view[:room])
            room -= len(vectors[-1])
            view = view[len(vectors[-1]) :]
            if not room or len(vectors) == _MAX_VECTORS:
                yield vectors
                vectors, room = [], _PIECE
    if vectors:
        yield vectors


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
