"""Looking ahead of a walk, so that what it asks for is in the kernel's caches by then.

Where inodes are not cached, a walk waits for each in turn, in the one thread that also makes the snapshot's
directories. Another thread, without the interpreter lock, looks at the same names a little earlier and keeps nothing of
what it sees: it changes how long a walk takes, never what it finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from agent import _native
from agent.volumes.handles import DirectoryHandles, DirectoryNode

_NAMES_OF_A_JOB = 4_096
"""Two jobs are ahead at most."""


class LookAhead:
    """The thread that looks, for one tree; it starts with the first job. Close it before the tree's descriptors."""

    def __init__(self, handles: DirectoryHandles) -> None:
        self._handles = handles
        self._stop = bytearray(1)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="look")

    def at(self, node: DirectoryNode, names: Sequence[bytes]) -> Future[int]:
        """Look at these names of a directory."""
        return self._thread.submit(self._look, node, names, 0)

    def into(self, node: DirectoryNode, names: Sequence[bytes]) -> Future[int]:
        """Look at these directories and at what is in them, until that is enough; the number of directories done."""
        return self._thread.submit(self._look, node, names, _NAMES_OF_A_JOB)

    def close(self) -> None:
        """Stop looking, within one system call."""
        self._stop[0] = 1
        self._thread.shutdown(cancel_futures=True)

    def _look(self, node: DirectoryNode, names: Sequence[bytes], below: int) -> int:
        with suppress(OSError), self._handles.pinned(node) as fd:  # the walk will find and name what is wrong
            return _native.look_ahead(fd, names, below, self._stop)
        return len(names)


class DirectoriesAhead:
    """Directories of one batch, which a walk enters one after the other."""

    def __init__(self, look: LookAhead, node: DirectoryNode, names: Sequence[bytes]) -> None:
        self._look = look
        self._node = node
        self._names = names
        self._job: Future[int] | None = None
        self._start = 0
        """Of the newest job; the next begins when the walk has come here."""

    def reached(self, place: int) -> None:
        """The walk enters the directory at this place of the list."""
        if place < self._start:
            return
        end = place + 1
        if self._job is not None:
            if not self._job.done():
                return
            end = max(end, self._start + self._job.result())
        if end < len(self._names):
            self._start = end
            self._job = self._look.into(self._node, self._names[end : end + _NAMES_OF_A_JOB])
