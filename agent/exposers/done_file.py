"""The file that tells a waiting pod that a volume is restored (contract §7.3), in a volume that nobody trusts.

The pod's init container waits for `.velero/<uid of the restore>` at the root of each volume. Whoever writes files in
the volume, a pod that shares it or the backup itself, may have put a link, a file or a deep tree in its way, and may
change it at any time. So every step is relative to an open directory and follows no link; the worst that is left to
the other side is a pod that waits for ever.

All functions are thread side.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import Final

from agent.base.errors import DoneFileFailed
from agent.volumes.handles import DirectoryHandles, DirectoryNode, is_entry_name
from agent.volumes.remove import remove_entry

DONE_FOLDER: Final = ".velero"

_FOLDER = DONE_FOLDER.encode()
_FOLDER_MODE = 0o755
_FILE_MODE = 0o644
_MAX_NAME = 255
_HINT = "the pod stays in its init container: delete it and restore again"


def write_done_file(root: str, uid: str) -> None:
    """Have exactly `.velero/<uid>` in the volume at `root`, durably; what was called `.velero` before is gone.

    Raises `DoneFileFailed`. May be called again: a file that is there already stays.
    """
    name = _file_name(uid)
    try:
        with _opened(root) as handles:
            try:
                _write(handles, name)
            except OSError:
                with contextlib.suppress(OSError):  # what may not last must not be seen
                    remove_entry(handles, handles.root, _FOLDER)
                raise
    except OSError as error:
        raise DoneFileFailed(f"cannot tell the pod that {root} is restored: {_reason(error)}", hint=_HINT) from error


def remove_done_folder(root: str, uid: str) -> bool:
    """Remove `.velero` from the volume at `root` if it holds the done file of the restore `uid`; whether it did.

    A `.velero` that the application made itself stays. Raises `DoneFileFailed`.
    """
    name = _file_name(uid)
    try:
        with _opened(root) as handles:
            if not _has_file(handles, name):
                return False
            remove_entry(handles, handles.root, _FOLDER)
    except OSError as error:
        raise DoneFileFailed(f"cannot remove {DONE_FOLDER} from {root}: {_reason(error)}") from error
    return True


def _file_name(uid: str) -> bytes:
    name = uid.encode(errors="surrogateescape")
    if len(name) > _MAX_NAME or not is_entry_name(name):
        raise DoneFileFailed(f"the uid {uid[:_MAX_NAME]!r} of the restore cannot be the name of a file", hint=_HINT)
    return name


@contextlib.contextmanager
def _opened(root: str) -> Iterator[DirectoryHandles]:
    """The root of the volume, which is a directory itself and no link to one."""
    handles = DirectoryHandles(root)
    try:
        status = os.lstat(root)
        if not stat.S_ISDIR(status.st_mode) or (status.st_dev, status.st_ino) != (handles.root.dev, handles.root.ino):
            raise NotADirectoryError("it is a link to a directory, or was replaced just now")
        yield handles
    finally:
        handles.close()


def _has_file(handles: DirectoryHandles, name: bytes) -> bool:
    """Whether there is a directory `.velero` with a plain file of this name in it."""
    try:
        folder, _ = handles.enter(handles.root, _FOLDER)
    except OSError:
        return False
    try:
        with handles.pinned(folder) as fd:
            return stat.S_ISREG(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except OSError:
        return False
    finally:
        handles.leave(folder)


def _write(handles: DirectoryHandles, name: bytes) -> None:
    if not _has_file(handles, name):
        remove_entry(handles, handles.root, _FOLDER)
        _create(handles, name)
    with handles.pinned(handles.root) as fd:
        os.fsync(fd)


def _create(handles: DirectoryHandles, name: bytes) -> None:
    with handles.pinned(handles.root) as fd:
        os.mkdir(_FOLDER, _FOLDER_MODE, dir_fd=fd)
    folder, _ = handles.enter(handles.root, _FOLDER)
    try:
        _create_file(handles, folder, name)
    finally:
        handles.leave(folder)


def _create_file(handles: DirectoryHandles, folder: DirectoryNode, name: bytes) -> None:
    with handles.pinned(folder) as folder_fd:
        os.fchmod(folder_fd, _FOLDER_MODE)  # mkdir obeys the umask
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file_fd = os.open(name, flags, _FILE_MODE, dir_fd=folder_fd)
        try:
            os.fchmod(file_fd, _FILE_MODE)
            os.fsync(file_fd)
        finally:
            os.close(file_fd)
        os.fsync(folder_fd)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
