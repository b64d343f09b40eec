"""Open directories of one tree, bounded in number.

A tree may be deeper than a process may have files open, and no path may be looked up twice (somebody could swap a
directory for a symbolic link in between). So directories are nodes that know their parent and identity, and descriptors
are a cache: one that was given up is opened again, component by component from the nearest open ancestor with
`O_NOFOLLOW`, and must be the same directory as before. The read side and the write side both stand on this.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator

DEFAULT_OPEN_DIRECTORIES = 128
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def is_entry_name(name: bytes) -> bool:
    """Whether this is one component of a path that cannot lead elsewhere."""
    return name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name


class DirectoryNode:
    """One directory of a tree: where it hangs and which directory it is."""

    __slots__ = ("dev", "fd", "ino", "name", "parent", "pins")

    def __init__(self, parent: DirectoryNode | None, name: bytes, dev: int, ino: int, fd: int) -> None:
        self.parent = parent
        self.name = name
        self.dev = dev
        self.ino = ino
        self.fd = fd
        self.pins = 0

    def path(self) -> bytes:
        """The path for messages: the root's as it was given, then the names."""
        names: list[bytes] = []
        node: DirectoryNode | None = self
        while node is not None:
            names.append(node.name)
            node = node.parent
        return b"/".join(reversed(names))


class DirectoryHandles:
    """At most about `limit` open directories below one root; the root stays open. Thread-safe."""

    def __init__(self, root: str | bytes, *, limit: int = DEFAULT_OPEN_DIRECTORIES) -> None:
        """Open the root, following links in its path. Raises OSError."""
        fd = os.open(root, (_DIRECTORY_FLAGS & ~os.O_NOFOLLOW))
        try:
            status = os.fstat(fd)
        except OSError:
            os.close(fd)
            raise
        self.root = DirectoryNode(None, os.fsencode(root).rstrip(b"/"), status.st_dev, status.st_ino, fd)
        self._limit = limit
        self._open: OrderedDict[DirectoryNode, None] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close every descriptor; nothing may be pinned."""
        with self._lock:
            for node in [*self._open, self.root]:
                if node.fd >= 0:
                    os.close(node.fd)
                    node.fd = -1
            self._open.clear()

    @contextlib.contextmanager
    def pinned(self, node: DirectoryNode) -> Iterator[int]:
        """The descriptor of a directory, kept open meanwhile.

        Raises OSError; ESTALE when another directory has taken its place since.
        """
        with self._lock:
            if node.fd < 0:
                self._reopen(node)
            elif node.parent is not None:
                self._open.move_to_end(node)
            node.pins += 1
            fd = node.fd
        try:
            yield fd
        finally:
            with self._lock:
                node.pins -= 1

    def enter(self, parent: DirectoryNode, name: bytes) -> tuple[DirectoryNode, os.stat_result]:
        """Open a directory below another, links not followed.

        Raises OSError; EINVAL for a name that is no single component.
        """
        if not is_entry_name(name):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
        with self.pinned(parent) as parent_fd:
            fd = os.open(name, _DIRECTORY_FLAGS, dir_fd=parent_fd)
        try:
            status = os.fstat(fd)
        except OSError:
            os.close(fd)
            raise
        node = DirectoryNode(parent, name, status.st_dev, status.st_ino, fd)
        with self._lock:
            self._remember(node)
        return node, status

    def leave(self, node: DirectoryNode) -> None:
        """Give the descriptor of a directory back; the node can still be pinned again."""
        with self._lock:
            if node.parent is not None and node.fd >= 0 and not node.pins:
                self._open.pop(node, None)
                os.close(node.fd)
                node.fd = -1

    def _remember(self, node: DirectoryNode) -> None:
        self._open[node] = None
        if len(self._open) <= self._limit:
            return
        for victim in self._open:
            if not victim.pins and victim is not node:
                del self._open[victim]
                os.close(victim.fd)
                victim.fd = -1
                return

    def _reopen(self, node: DirectoryNode) -> None:
        """Walk down from the nearest open ancestor; what is opened on the way stays in the cache."""
        missing: list[DirectoryNode] = []
        at: DirectoryNode = node
        while at.fd < 0:
            missing.append(at)
            if at.parent is None:
                raise OSError(errno.EBADF, "the tree was closed", self.root.name)
            at = at.parent
        for child in reversed(missing):
            fd = os.open(child.name, _DIRECTORY_FLAGS, dir_fd=at.fd)
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) != (child.dev, child.ino):
                os.close(fd)
                raise OSError(errno.ESTALE, "another directory has taken its place", child.path())
            child.fd = fd
            self._remember(child)
            at = child
