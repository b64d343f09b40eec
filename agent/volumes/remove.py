"""Removing whole trees by descriptor: links are not followed, other file systems are not entered."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Container

from agent import _native
from agent.volumes.handles import DirectoryHandles, DirectoryNode


def remove_extra(handles: DirectoryHandles, node: DirectoryNode, keep: Container[bytes]) -> int:
    """Remove every entry of a directory that is not in `keep`; how many.

    Raises OSError with the first that cannot be removed.
    """
    removed = 0
    while True:
        before = removed
        with handles.pinned(node) as fd:
            os.lseek(fd, 0, os.SEEK_SET)
            while batch := _native.list_names(fd):
                for name, _ in batch:
                    if name not in keep:
                        remove_entry(handles, node, name)
                        removed += 1
        # Removing while listing may hide names from the listing; a pass that finds nothing is the proof.
        if removed == before:
            return removed


def remove_entry(handles: DirectoryHandles, parent: DirectoryNode, name: bytes) -> None:
    """Remove one entry and all below it; nothing happens when it is gone.

    Raises OSError: EBUSY for a directory on another file system.
    """
    if _unlinked(handles, parent, name):
        return
    stack = [_enter(handles, parent, name)]
    while stack:
        node = stack[-1]
        below = _first_directory(handles, node)
        if below is not None:
            stack.append(_enter(handles, node, below))
            continue
        stack.pop()
        handles.leave(node)
        above = stack[-1] if stack else parent
        with handles.pinned(above) as fd, contextlib.suppress(FileNotFoundError):
            os.rmdir(node.name, dir_fd=fd)


def _unlinked(handles: DirectoryHandles, parent: DirectoryNode, name: bytes) -> bool:
    """Whether the name is gone: False for a directory."""
    with handles.pinned(parent) as fd:
        try:
            os.unlink(name, dir_fd=fd)
        except FileNotFoundError:
            return True
        except OSError as error:
            # POSIX says EPERM for a directory, Linux EISDIR.
            if error.errno not in (errno.EISDIR, errno.EPERM):
                raise
            status = _native.stat_many(fd, [name])[0]
            if isinstance(status, int) or not status.is_directory:
                raise
            return False
    return True


def _enter(handles: DirectoryHandles, parent: DirectoryNode, name: bytes) -> DirectoryNode:
    node, status = handles.enter(parent, name)
    if status.st_dev != parent.dev:
        handles.leave(node)
        raise OSError(errno.EBUSY, "another file system is mounted there", node.path())
    return node


def _first_directory(handles: DirectoryHandles, node: DirectoryNode) -> bytes | None:
    """Remove what is no directory; the name of a directory that is left, or None when nothing is."""
    while True:
        found = False
        with handles.pinned(node) as fd:
            os.lseek(fd, 0, os.SEEK_SET)
            while batch := _native.list_names(fd):
                found = True
                for name, _ in batch:
                    if not _unlinked(handles, node, name):
                        return name
        if not found:
            return None
