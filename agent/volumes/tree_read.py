"""The read side of a file tree: directories in Kopia's order, attributes and small files in native batches.

Upload walks a volume with this. Everything below the root is reached by descriptor and name without following links, so
a tree that changes under the walk can give wrong data but never another tree. What cannot be read is a value
(`Unreadable`), because one bad file must not end a backup; only the root raises. Names are raw bytes.
All of it is thread side; readers of one tree may be used from several threads, one reader's `batches` by one at a time.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from agent import _native
from agent.base import page_cache
from agent.base.errors import SourceNotFound, SourceUnreadable, VolumeError
from agent.volumes.attributes import Attributes, attributes_of
from agent.volumes.handles import DEFAULT_OPEN_DIRECTORIES, DirectoryHandles, DirectoryNode, is_entry_name
from agent.volumes.holes import data_ranges
from agent.volumes.look_ahead import DirectoriesAhead, LookAhead, Survey
from agent.volumes.names import NAMES_IN_MEMORY, NameSpill, SortedNames
from agent.volumes.open_file import OpenFile

BATCH_NAMES = 2_000
_FEW_NAMES = 1_024
_TRUE_SIZES = frozenset({0xEF53, 0x58465342, 0x9123683E, 0x01021994})
"""ext2 to ext4, XFS, Btrfs and tmpfs: only this kernel changes their files, so lstat has the length that a read would
find. Others may say what once was so (NFS), or 0 for whatever has no length yet (proc, FUSE)."""
_READS_EVERYTHING = 0b110
"""CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH."""
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class TreeEntry(msgspec.Struct, frozen=True, gc=False):
    """One name of a directory and what lstat says of it."""

    name: bytes
    attributes: Attributes


class Unreadable(msgspec.Struct, frozen=True, gc=False):
    """One name that could not be looked at or read: the errno says why."""

    name: bytes
    error: int

    @property
    def reason(self) -> str:
        """The system's words for it."""
        return os.strerror(self.error)


class FileContent(msgspec.Struct, frozen=True, gc=False):
    """A regular file as it was when it was read; `data` is None when it is larger than the caller wanted."""

    name: bytes
    attributes: Attributes
    data: bytes | None


class LinkTarget(msgspec.Struct, frozen=True, gc=False):
    """Where a symbolic link points."""

    name: bytes
    target: bytes


class FileReader(OpenFile):
    """An open regular file, for those too large for a batch."""

    def __init__(self, fd: int, attributes: Attributes) -> None:
        super().__init__(fd)
        self.attributes = attributes

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill the buffer from the current position; less than its length only at the end of the file.

        Raises OSError.
        """
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            got = os.readv(self._fd, [view[done:]])
            if not got:
                break
            done += got
        return done

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of what is not a hole, up to the size at opening; moves the position."""
        return data_ranges(self._fd, self.attributes.size)

    @property
    def may_have_holes(self) -> bool:
        """Whether fewer blocks are allocated than the size needs; asking is one cheap call."""
        status = os.fstat(self._fd)
        return status.st_blocks * 512 < status.st_size


class _Tree:
    """What the readers of one tree share: descriptors, spilled names, the budget of names in memory."""

    def __init__(self, handles: DirectoryHandles, spill: NameSpill, names_in_memory: int) -> None:
        self.handles = handles
        self.spill = spill
        self.look_ahead = LookAhead(handles)
        self._names_left = names_in_memory
        self._few = min(_FEW_NAMES, names_in_memory)
        self._true_sizes: dict[int, bool] = {}
        self._lock = threading.Lock()

    def has_true_sizes(self, node: DirectoryNode) -> bool:
        known = self._true_sizes.get(node.dev)
        if known is None:
            with self.handles.pinned(node) as fd:
                known = self._true_sizes[node.dev] = _native.file_system_magic(fd) in _TRUE_SIZES
        return known

    def list(self, fd: int) -> SortedNames:
        with self._lock:
            allowed = max(self._names_left, self._few)
        names = SortedNames(self.spill, in_memory=allowed)
        try:
            names.list(fd)
        except BaseException:
            names.close()
            raise
        with self._lock:
            self._names_left -= names.held
        return names

    def close(self) -> None:
        self.look_ahead.close()
        self.handles.close()
        self.spill.close()

    def drop(self, names: SortedNames) -> None:
        with self._lock:
            self._names_left += names.held
        names.close()


class DirectoryReader:
    """One directory. Close it when its entries are done; closing the root closes the tree.

    Every method raises OSError when the directory itself cannot be reached any more (it was removed or replaced while
    its descriptor was given up); failures of single entries are values.
    """

    def __init__(self, tree: _Tree, node: DirectoryNode, attributes: Attributes, survey: Survey | None = None) -> None:
        self._tree = tree
        self._node = node
        self._survey = survey
        self.attributes = attributes

    @property
    def path(self) -> bytes:
        """The path for messages."""
        return self._node.path()

    def batches(self, size: int = BATCH_NAMES) -> Iterator[list[TreeEntry | Unreadable]]:
        """All entries in Kopia's order (§14.13), at most `size` a batch. Names that vanish meanwhile are left out.

        The names are those of the first call. Raises OSError when the directory cannot be listed.
        """
        survey, self._survey = self._survey, None
        if survey is not None and survey.is_of(self._node):
            entries = _entries(*survey.found())
            yield from (entries[start : start + size] for start in range(0, len(entries), size))
            return
        handles = self._tree.handles
        with handles.pinned(self._node) as fd:
            os.lseek(fd, 0, os.SEEK_SET)
            names = self._tree.list(fd)
        try:
            remaining = iter(names)
            batch = list(islice(remaining, size))
            while batch:
                with handles.pinned(self._node) as fd:
                    found = _native.stat_many(fd, batch)
                if after := list(islice(remaining, size)):
                    self._tree.look_ahead.at(self._node, after)
                yield _entries(batch, found)
                batch = after
        finally:
            self._tree.drop(names)

    def directories_ahead(self, names: Sequence[bytes]) -> DirectoriesAhead:
        """For a walk that enters these directories below this one in turn."""
        return DirectoriesAhead(self._tree.look_ahead, self._node, names)

    def look_up(self, name: bytes) -> TreeEntry | Unreadable:
        """One entry by name; ENOENT when there is none."""
        with self._tree.handles.pinned(self._node) as fd:
            (status,) = _native.stat_many(fd, [name])
        return Unreadable(name, status) if isinstance(status, int) else TreeEntry(name, status)

    def is_known_empty(self, attributes: Attributes) -> bool:
        """Whether opening a file of this directory would find nothing: neither bytes nor that it must not be read."""
        return (
            attributes.size == 0
            and not self.crosses_mount(attributes)
            and _reads_everything()
            and self._tree.has_true_sizes(self._node)
        )

    def read_files(
        self, names: Sequence[bytes], limit: int, *, total: int, at_once: int = 1
    ) -> list[FileContent | Unreadable]:
        """Small regular files whole, in the order of `names`; together at most `total` bytes are read.

        `at_once` of them are open and asked for, so that the volume's latency counts once for all of these.

        Files with more than `limit` bytes, and those for which `total` has no room, have no data: take `open_file`.
        The attributes are those of the open file before its first byte was read.
        """
        with self._tree.handles.pinned(self._node) as fd:
            found = _native.read_many(fd, names, limit, total, page_cache.ONCE, at_once)
        return [
            Unreadable(name, item) if isinstance(item, int) else FileContent(name, *item)
            for name, item in zip(names, found, strict=True)
        ]

    def read_links(self, names: Sequence[bytes]) -> list[LinkTarget | Unreadable]:
        """Targets of symbolic links, in the order of `names`."""
        with self._tree.handles.pinned(self._node) as fd:
            found = _native.readlink_many(fd, names)
        return [
            Unreadable(name, item) if isinstance(item, int) else LinkTarget(name, item)
            for name, item in zip(names, found, strict=True)
        ]

    def open_file(self, name: bytes) -> FileReader | Unreadable:
        """A regular file for streaming. Directories are EISDIR, other types ESTALE."""
        try:
            with self._tree.handles.pinned(self._node) as directory:
                fd = _open_file(name, directory)
            try:
                attributes = attributes_of(os.fstat(fd))
                if not attributes.is_file:
                    os.close(fd)
                    return Unreadable(name, errno.EISDIR if attributes.is_directory else errno.ESTALE)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            except OSError:
                os.close(fd)
                raise
        except OSError as error:
            return Unreadable(name, error.errno or errno.EIO)
        return FileReader(fd, attributes)

    def open_linked(self, name: bytes) -> int:
        """A descriptor of what a name leads to, links followed, also out of the tree; the caller closes it.

        Raises OSError.
        """
        if not is_entry_name(name):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
        with self._tree.handles.pinned(self._node) as directory:
            return os.open(name, _FILE_FLAGS & ~os.O_NOFOLLOW, dir_fd=directory)

    def is_inside(self, fd: int) -> bool:
        """Whether an open file lies in this tree, as far as the system can tell its path."""
        with self._tree.handles.pinned(self._tree.handles.root) as root:
            top, path = (os.fsencode(os.readlink(f"/proc/self/fd/{n}")) for n in (root, fd))
        return path.startswith(top.rstrip(b"/") + b"/")

    def open_directory(self, name: bytes) -> DirectoryReader | Unreadable:
        """A directory below this one. A link or file in its place is ENOTDIR or ELOOP."""
        survey = self._tree.look_ahead.take(self._node, name)
        try:
            node, status = self._tree.handles.enter(self._node, name)
        except OSError as error:
            return Unreadable(name, error.errno or errno.EIO)
        return DirectoryReader(self._tree, node, attributes_of(status), survey)

    def crosses_mount(self, attributes: Attributes) -> bool:
        """Whether an entry of this directory lies on another file system."""
        return attributes.dev != self._node.dev

    def close(self) -> None:
        """Give the descriptor back; for the root: of the whole tree."""
        if self._node.parent is None:
            self._tree.close()
        else:
            self._tree.handles.leave(self._node)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_directory(
    path: str | bytes,
    *,
    open_directories: int = DEFAULT_OPEN_DIRECTORIES,
    names_in_memory: int = NAMES_IN_MEMORY,
    spill_folder: str | None = None,
) -> DirectoryReader:
    """The root of a tree. Links in `path` itself are followed, none below it.

    At most about `open_directories` descriptors are held for the tree, however deep it is, and `names_in_memory` names
    (a few more in each listing that goes on); what is beyond goes to a nameless file in `spill_folder`.
    Raises `SourceNotFound`, `SourceUnreadable`.
    """
    try:
        handles = DirectoryHandles(path, limit=open_directories)
        status = os.fstat(handles.root.fd)
    except OSError as error:
        raise source_error(path, error) from error
    tree = _Tree(handles, NameSpill(spill_folder), names_in_memory)
    return DirectoryReader(tree, handles.root, attributes_of(status))


def source_error(path: str | bytes, error: OSError) -> VolumeError:
    """The error for a source that cannot be opened."""
    name = os.fsdecode(path)
    if error.errno == errno.ENOENT:
        return SourceNotFound(f"there is nothing at {name!r} to read", hint="check the path")
    if error.errno == errno.ENOTDIR:
        return SourceUnreadable(f"{name!r} is not a directory", hint="name a directory, or read it as a file or device")
    return SourceUnreadable(f"cannot open {name!r}: {error.strerror}", hint="check its permissions and its mount")


def _entries(names: Sequence[bytes], found: Sequence[Attributes | int]) -> list[TreeEntry | Unreadable]:
    """What lstat said of names; those that have vanished are left out."""
    entries: list[TreeEntry | Unreadable] = []
    for name, status in zip(names, found, strict=True):
        if not isinstance(status, int):
            entries.append(TreeEntry(name, status))
        elif status != errno.ENOENT:
            entries.append(Unreadable(name, status))
    return entries


@cache
def _reads_everything() -> bool:
    """Whether this process may read files whatever their modes say."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) & _READS_EVERYTHING)
    return False


def _open_file(name: bytes, directory: int) -> int:
    if not is_entry_name(name):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    try:
        return os.open(name, _FILE_FLAGS | os.O_NOATIME, dir_fd=directory)
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise
        return os.open(name, _FILE_FLAGS, dir_fd=directory)
