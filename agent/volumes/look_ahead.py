"""Looking ahead of a walk, so that it need not wait for inodes.

Where inodes are not cached, a walk waits for each in turn, in the one thread that also makes the snapshot's
directories. Another thread, without the interpreter lock, looks into the directories that come next. What it found is
used when the walk comes within a moment and opens the same directory; else it is forgotten, and has at least filled the
kernel's caches. What cannot be looked at is left to the walk, which finds and names what is wrong.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import msgspec

from agent import _native
from agent.volumes.attributes import Attributes
from agent.volumes.handles import DirectoryHandles, DirectoryNode

_NAMES_OF_A_JOB = 2_048
_NAMES_HELD = 4 * _NAMES_OF_A_JOB
_A_MOMENT_NS = 1_000_000_000
_PATIENCE = 0.2
"""Seconds that a walk waits for a job that looks into its next directory; then it looks itself."""


class Survey(msgspec.Struct, frozen=True, array_like=True):
    """What was in a directory when it was looked into."""

    dev: int
    ino: int
    when_ns: int
    count: int
    records: bytes

    def is_of(self, node: DirectoryNode) -> bool:
        """Whether it is of this directory, and as good as if it were made now."""
        same = (self.dev, self.ino) == (node.dev, node.ino)
        return same and time.monotonic_ns() - self.when_ns < _A_MOMENT_NS

    def found(self) -> tuple[list[bytes], list[Attributes | int]]:
        """Names in Kopia's order (§14.13), and for each its attributes or an errno."""
        return _native.surveyed(self.count, self.records)


class LookAhead:
    """The thread that looks, for one tree; it starts with the first job. Close it before the tree's descriptors."""

    def __init__(self, handles: DirectoryHandles) -> None:
        self._handles = handles
        self._stop = bytearray(1)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="look")
        self._lock = threading.Lock()
        self._found: dict[tuple[DirectoryNode, bytes], Survey] = {}
        self._held = 0

    def at(self, node: DirectoryNode, names: Sequence[bytes]) -> None:
        """Look at these names of a directory."""
        self._thread.submit(self._look_at, node, names)

    def into(self, node: DirectoryNode, names: Sequence[bytes]) -> Future[int]:
        """Look into these directories until that is enough; how many are done."""
        return self._thread.submit(self._look_into, node, names)

    def take(self, node: DirectoryNode, name: bytes) -> Survey | None:
        """What was found in a directory of this directory, once."""
        with self._lock:
            return self._pop(node, name)

    def close(self) -> None:
        """Stop looking, within one system call."""
        self._stop[0] = 1
        self._thread.shutdown(cancel_futures=True)

    def _look_at(self, node: DirectoryNode, names: Sequence[bytes]) -> None:
        with suppress(OSError), self._handles.pinned(node) as fd:
            _native.warm(fd, names, self._stop)

    def _look_into(self, node: DirectoryNode, names: Sequence[bytes]) -> int:
        try:
            with self._handles.pinned(node) as fd:
                found = _native.survey(fd, names, _NAMES_OF_A_JOB, self._stop)
        except OSError:
            return len(names)
        with self._lock:
            for name, survey in zip(names, found, strict=False):
                self._pop(node, name)
                if survey is not None:
                    self._found[node, name] = kept = Survey(*survey)
                    self._held += kept.count + 1
            while self._held > _NAMES_HELD:
                self._pop(*next(iter(self._found)))
        return len(found)

    def _pop(self, node: DirectoryNode, name: bytes) -> Survey | None:
        found = self._found.pop((node, name), None)
        if found is not None:
            self._held -= found.count + 1
        return found


class DirectoriesAhead:
    """Directories of one batch, which a walk enters one after the other."""

    def __init__(self, look: LookAhead, node: DirectoryNode, names: Sequence[bytes]) -> None:
        self._look = look
        self._node = node
        self._names = names
        self._job: Future[int] | None = None
        self._start = 0
        """Of the newest job; when the walk has come here, the next one begins."""

    def reached(self, place: int) -> None:
        """The walk enters the directory at this place of the list."""
        if place < self._start:
            return
        end = place + 1
        if self._job is not None:
            try:
                end = max(end, self._start + self._job.result(_PATIENCE))
            except TimeoutError:
                end = len(self._names)
        if end < len(self._names):
            self._job = self._look.into(self._node, self._names[end : end + _NAMES_OF_A_JOB])
        self._start = end
