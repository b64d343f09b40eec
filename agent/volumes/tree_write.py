"""The write side of a file tree: a restore target that cannot write outside its root.

Restore fills a volume with this. Names come from a snapshot that somebody else may have made, and the target may be
changed by others while it is filled; so every name is checked to be one component, and everything happens by directory
descriptor without following links. Small files and links go in native batches, large files by position from several
threads. A directory gets its owner, mode and time when it and all directories below it are complete: `seal` says
that nothing more comes, the rest follows from counting. Nothing is synced before `sync`.
All of it is thread side and thread-safe.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import stat
import threading
from collections.abc import Container, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

from agent import _native
from agent.base import page_cache
from agent.base.errors import TargetExists, UnsafeName, VolumeError, VolumeOutOfSpace
from agent.volumes.file_write import FileWriter, Metadata, apply_metadata
from agent.volumes.handles import DEFAULT_OPEN_DIRECTORIES, DirectoryHandles, DirectoryNode, is_entry_name
from agent.volumes.remove import remove_entry, remove_extra

if TYPE_CHECKING:
    from typing_extensions import Buffer

    _Item = tuple[bytes, Buffer, int, int, int, int]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_OWNER, _MODE, _TIMES, _REPLACE = 1, 2, 4, 8
_ONLY_OWNER = 0o700


class Existing(enum.Enum):
    """What to do where something is already. Existing directories are always used as they are."""

    OVERWRITE = "overwrite"
    SKIP = "skip"
    FAIL = "fail"


class WriteOptions(msgspec.Struct, frozen=True):
    """How a target is written. `replace_directories` lets a file take the place of a whole directory."""

    existing: Existing = Existing.OVERWRITE
    owners: bool = True
    modes: bool = True
    times: bool = True
    sparse: bool = False
    replace_directories: bool = False


DEFAULT_OPTIONS = WriteOptions()


class NewEntry(msgspec.Struct, frozen=True, gc=False):
    """A small file with its data, or a symbolic link with its target."""

    name: bytes
    data: Buffer
    metadata: Metadata


class Failure(msgspec.Struct, frozen=True, gc=False):
    """One entry that was not written, and the errno that says why (EEXIST: it was there already)."""

    name: bytes
    error: int

    @property
    def reason(self) -> str:
        """The system's words for it."""
        return os.strerror(self.error)


class Written(msgspec.Struct, frozen=True):
    """What became of a batch. `denied` entries are written but owner, mode or time was refused."""

    written: int
    skipped: int
    denied: int
    failures: list[Failure]


def check_name(name: bytes) -> None:
    """Raise `UnsafeName` for a name that is not exactly one component of a path."""
    if not is_entry_name(name):
        raise UnsafeName(
            f"the snapshot holds an entry named {os.fsdecode(name)!r}, which is not a name a directory can hold",
            hint="this snapshot was not made by a backup of a file system; do not trust it",
        )


class _Target:
    """What the writers of one tree share."""

    def __init__(self, handles: DirectoryHandles, options: WriteOptions) -> None:
        self.handles = handles
        self.options = options
        self.lock = threading.Lock()
        self.denied = 0

    @property
    def flags(self) -> int:
        options = self.options
        return (
            (_OWNER if options.owners else 0)
            | (_MODE if options.modes else 0)
            | (_TIMES if options.times else 0)
            | (_REPLACE if options.existing is Existing.OVERWRITE else 0)
        )


class DirectoryWriter:
    """One directory of the target. `seal` it when nothing more comes."""

    def __init__(self, target: _Target, node: DirectoryNode, parent: DirectoryWriter | None, *, created: bool) -> None:
        self._target = target
        self._node = node
        self._parent = parent
        self._open = 1
        self._metadata: Metadata | None = None
        self.created = created
        """False when the directory was there already."""

    @property
    def path(self) -> bytes:
        """The path for messages."""
        return self._node.path()

    @property
    def denied(self) -> int:
        """Large files and directories of the whole target whose owner, mode or time was refused so far."""
        return self._target.denied

    def write_files(self, entries: Sequence[NewEntry]) -> Written:
        """Create small files. Raises `UnsafeName` before anything is done, `VolumeOutOfSpace`."""
        return self._create(entries, links=False)

    def write_links(self, entries: Sequence[NewEntry]) -> Written:
        """Create symbolic links. Raises `UnsafeName` before anything is done, `VolumeOutOfSpace`."""
        return self._create(entries, links=True)

    def make_directory(self, name: bytes) -> DirectoryWriter:
        """A directory below this one, for its owner alone until it is sealed; one that is there is used.

        Raises `UnsafeName`, `TargetExists` when something else is there and must stay, `VolumeOutOfSpace`,
        `VolumeError`.
        """
        check_name(name)
        handles = self._target.handles
        replaced = False
        while True:
            try:
                created = self._make(name)
                node, status = handles.enter(self._node, name)
                break
            except OSError as error:
                if error.errno == errno.EACCES and self._allow_owner(name):
                    continue
                in_the_way = error.errno in (errno.ENOTDIR, errno.ELOOP)
                if not in_the_way or replaced or self._target.options.existing is not Existing.OVERWRITE:
                    raise self._error(name, "make the directory", error) from error
            replaced = True
            with handles.pinned(self._node) as fd:
                self._unlink(name, fd)
        if not created and status.st_uid == os.geteuid() and status.st_mode & _ONLY_OWNER != _ONLY_OWNER:
            with handles.pinned(node) as fd:
                os.chmod(fd, stat.S_IMODE(status.st_mode) | _ONLY_OWNER)
        with self._target.lock:
            self._open += 1
        return DirectoryWriter(self._target, node, self, created=created)

    def _allow_owner(self, name: bytes) -> bool:
        """Let the owner into a directory that is shut even to it, such as a sealed one; whether that helps."""
        with contextlib.suppress(OSError), self._target.handles.pinned(self._node) as directory:
            fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                status = os.fstat(fd)
                if status.st_uid == os.geteuid() and status.st_mode & _ONLY_OWNER != _ONLY_OWNER:
                    os.chmod(f"/proc/self/fd/{fd}", stat.S_IMODE(status.st_mode) | _ONLY_OWNER)
                    return True
            finally:
                os.close(fd)
        return False

    def create_file(self, name: bytes, size: int) -> FileWriter | None:
        """A large file to be written by position; None when one is there and stays. `size` is allocated first.

        Raises `UnsafeName`, `TargetExists`, `VolumeOutOfSpace` (also when `size` cannot be had), `VolumeError`.
        """
        check_name(name)
        options = self._target.options
        with self._target.handles.pinned(self._node) as directory:
            replaced = False
            while True:
                try:
                    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                    fd = os.open(name, flags, 0o600 if options.modes else 0o666, dir_fd=directory)
                    break
                except FileExistsError as error:
                    if options.existing is Existing.SKIP:
                        return None
                    if options.existing is Existing.FAIL or replaced:
                        raise self._error(name, "create", error) from error
                    replaced = True
                    self._unlink(name, directory)
                except OSError as error:
                    raise self._error(name, "create", error) from error
            writer = self._file_writer(fd, directory, name)
        try:
            writer.allocate(size)
        except BaseException:
            writer.abort()
            raise
        return writer

    def reopen_file(self, name: bytes) -> FileWriter | None:
        """A file that is there in part, to be written on; None when it cannot be: it is a link, or shared by links.

        Raises `UnsafeName`, `VolumeError`.
        """
        check_name(name)
        with self._target.handles.pinned(self._node) as directory:
            try:
                fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EISDIR):
                    return None
                raise self._error(name, "reopen", error) from error
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                os.close(fd)
                return None
            return self._file_writer(fd, directory, name)

    def _file_writer(self, fd: int, directory: int, name: bytes) -> FileWriter:
        options = self._target.options
        return FileWriter(
            fd,
            os.dup(directory),
            name,
            self.path,
            owners=options.owners,
            modes=options.modes,
            times=options.times,
            sparse=options.sparse,
        )

    def remove_extra(self, keep: Container[bytes]) -> int:
        """Remove what is in this directory and not in `keep`; whole trees, links not followed, mounts not entered.

        Returns how many entries of this directory were removed. Raises `VolumeError` with the first that cannot be.
        """
        try:
            return remove_extra(self._target.handles, self._node, keep)
        except OSError as error:
            raise self._error(b"", "remove what is not in the snapshot from", error) from error

    def statuses(self, names: Sequence[bytes]) -> list[os.stat_result | None]:
        """What is there already, links not followed; None where nothing is. Raises `VolumeError`."""
        found: list[os.stat_result | None] = []
        with self._target.handles.pinned(self._node) as fd:
            for name in names:
                try:
                    found.append(os.stat(name, dir_fd=fd, follow_symlinks=False))
                except FileNotFoundError:
                    found.append(None)
                except OSError as error:
                    raise self._error(name, "look at", error) from error
        return found

    def remove(self, name: bytes) -> None:
        """Remove one entry that is no directory; nothing happens when it is gone. Raises `VolumeError`."""
        check_name(name)
        with self._target.handles.pinned(self._node) as fd:
            try:
                os.unlink(name, dir_fd=fd)
            except FileNotFoundError:
                return
            except OSError as error:
                raise self._error(name, "remove", error) from error

    def seal(self, metadata: Metadata | None) -> None:
        """Nothing more is created here directly; with None the directory keeps the owner, mode and time it has.

        The metadata is applied when every directory below is sealed too, at once if they are. Raises `VolumeError`.
        """
        self._metadata = metadata
        done: DirectoryWriter | None = self
        failure: VolumeError | None = None
        while done is not None:
            with self._target.lock:
                done._open -= 1
                if done._open:
                    break
            try:
                done._apply()
            except VolumeError as error:
                failure = failure or error
            self._target.handles.leave(done._node)
            done = done._parent
        if failure is not None:
            raise failure

    def sync(self) -> None:
        """Everything written so far is on stable storage. Raises `VolumeError`."""
        try:
            with self._target.handles.pinned(self._node) as fd:
                _native.sync_filesystem(fd)
        except OSError as error:
            raise self._error(b"", "sync", error) from error

    def close(self) -> None:
        """For the root: close all descriptors of the target; what is not sealed keeps what it has."""
        if self._parent is None:
            self._target.handles.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _create(self, entries: Sequence[NewEntry], *, links: bool) -> Written:
        for entry in entries:
            check_name(entry.name)
        items = [_item(entry) for entry in entries]
        flags = self._target.flags

        def create(fd: int, some: list[_Item]) -> list[int]:
            if links:
                return _native.symlink_many(fd, some, flags)
            return _native.create_many(fd, some, flags, page_cache.ONCE)

        existing = self._target.options.existing
        try:
            with self._target.handles.pinned(self._node) as fd:
                outcomes = create(fd, items)
                if self._target.options.replace_directories and existing is Existing.OVERWRITE:
                    for i, outcome in enumerate(outcomes):
                        if outcome in (errno.EISDIR, errno.EPERM) and _is_directory(entries[i].name, fd):
                            remove_entry(self._target.handles, self._node, entries[i].name)
                            outcomes[i] = create(fd, [items[i]])[0]
        except OSError as error:
            raise self._error(b"", "write into", error) from error
        skipped = denied = 0
        failures: list[Failure] = []
        for entry, outcome in zip(entries, outcomes, strict=True):
            if outcome < 0:
                denied += 1
            elif outcome == errno.EEXIST and existing is Existing.SKIP:
                skipped += 1
            elif outcome in _FULL:
                raise self._error(entry.name, "write", OSError(outcome, os.strerror(outcome)))
            elif outcome:
                failures.append(Failure(entry.name, outcome))
        return Written(len(entries) - skipped - len(failures), skipped, denied, failures)

    def _make(self, name: bytes) -> bool:
        with self._target.handles.pinned(self._node) as fd:
            try:
                os.mkdir(name, _ONLY_OWNER if self._target.options.modes else 0o777, dir_fd=fd)
            except FileExistsError:
                return False
        return True

    def _unlink(self, name: bytes, directory: int) -> None:
        try:
            if self._target.options.replace_directories:
                remove_entry(self._target.handles, self._node, name)
            else:
                os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._error(name, "replace", error) from error

    def _apply(self) -> None:
        metadata, options = self._metadata, self._target.options
        if metadata is None:
            return
        try:
            with self._target.handles.pinned(self._node) as fd:
                applied = apply_metadata(fd, metadata, owners=options.owners, modes=options.modes, times=options.times)
        except OSError as error:
            raise self._error(b"", "set the owner, mode and time of", error) from error
        if not applied:
            with self._target.lock:
                self._target.denied += 1

    def _error(self, name: bytes, what: str, error: OSError) -> VolumeError:
        return target_error(what, os.path.join(self.path, name) if name else self.path, error)


def open_target(
    path: str | bytes,
    options: WriteOptions = DEFAULT_OPTIONS,
    *,
    open_directories: int = DEFAULT_OPEN_DIRECTORIES,
) -> DirectoryWriter:
    """The root of a restore target, made when it is not there. Links in `path` itself are followed, none below it.

    Raises `VolumeError`, `TargetExists` when it is no directory.
    """
    try:
        try:
            os.mkdir(path, _ONLY_OWNER)
            created = True
        except FileExistsError:
            created = False
        handles = DirectoryHandles(path, limit=open_directories)
    except NotADirectoryError as error:
        raise TargetExists(
            f"cannot restore a folder to {os.fsdecode(path)!r}: that, or what it lies in, is no folder",
            hint="remove what is there, or restore elsewhere",
        ) from error
    except OSError as error:
        raise target_error("open the target", os.fsencode(path), error) from error
    return DirectoryWriter(_Target(handles, options), handles.root, None, created=created)


def target_error(what: str, path: bytes, error: OSError) -> VolumeError:
    """The error for something that could not be done below a restore target."""
    message = f"cannot {what} {os.fsdecode(path)!r}: {error.strerror}"
    if error.errno in _FULL:
        return VolumeOutOfSpace(message, hint="make room or restore into a larger volume")
    if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.ELOOP, errno.EISDIR):
        return TargetExists(message, hint="choose to overwrite or skip what is there, or restore elsewhere")
    return VolumeError(message)


def _item(entry: NewEntry) -> _Item:
    metadata = entry.metadata
    return entry.name, entry.data, metadata.mode, metadata.uid, metadata.gid, metadata.mtime_ns


def _is_directory(name: bytes, directory: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        return False
