"""The names of one directory in Kopia's order, in bounded memory.

Kopia stores directories first, then everything else, each by raw name bytes (§14.13). Sorting needs all names before
the first is known; beyond a threshold sorted runs go to a temporary file that has no name, and are merged from there.
"""

from __future__ import annotations

import heapq
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

from agent import _native

NAMES_IN_MEMORY = 16_384
_READ_SIZE = 4 * 1024
_UNKNOWN, _DIRECTORY = 0, 4  # DT_UNKNOWN, DT_DIR
_DIRECTORY_OR_UNKNOWN = (_DIRECTORY, _UNKNOWN)


class NameSpill:
    """Sorted runs of one tree in one nameless temporary file. Thread-safe."""

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._end = 0
        self._live = 0
        self._lock = threading.Lock()

    def write(self, names: list[bytes]) -> tuple[int, int]:
        """Append a sorted run; (offset, length) to read it back."""
        data = b"\0".join(names) + b"\0" if names else b""
        with self._lock:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder, prefix="names-")  # noqa: SIM115
            self._live += 1
            start = self._end
            self._file.seek(start)
            self._file.write(data)
            self._end += len(data)
        return start, len(data)

    def read(self, start: int, length: int) -> Iterator[bytes]:
        """The names of a run."""
        rest = b""
        end = start + length
        while start < end:
            with self._lock:
                if self._file is None:
                    raise ValueError("the tree was closed")
                self._file.seek(start)
                data = self._file.read(min(_READ_SIZE, end - start))
            if not data:
                raise OSError("the temporary file of directory names was cut short")
            start += len(data)
            *whole, rest = (rest + data).split(b"\0")
            yield from whole

    def release(self, runs: int) -> None:
        """The caller is done with this many runs; when nobody needs any, the file is emptied."""
        with self._lock:
            self._live -= runs
            if not self._live and self._file is not None:
                self._file.truncate(0)
                self._end = 0

    def close(self) -> None:
        """Let the file go."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


class SortedNames:
    """All names of one directory at one moment, sorted, each once."""

    def __init__(self, spill: NameSpill, *, in_memory: int = NAMES_IN_MEMORY) -> None:
        self._spill = spill
        self._in_memory = in_memory
        self._directories: list[bytes] = []
        self._others: list[bytes] = []
        self._directory_runs: list[tuple[int, int]] = []
        self._other_runs: list[tuple[int, int]] = []
        self.count = 0

    def list(self, directory: int) -> None:
        """Take every name of an open directory from its current position to its end. Raises OSError."""
        while batch := _native.list_names(directory):
            others = [name for name, d_type in batch if d_type not in _DIRECTORY_OR_UNKNOWN]
            self._others += others
            if len(others) < len(batch):
                self._directories += [name for name, d_type in batch if d_type == _DIRECTORY]
                unknown = [name for name, d_type in batch if d_type == _UNKNOWN]
                for name, status in zip(unknown, _native.stat_many(directory, unknown), strict=True):
                    is_directory = not isinstance(status, int) and status.is_directory
                    (self._directories if is_directory else self._others).append(name)
            self.count += len(batch)
            if len(self._directories) + len(self._others) >= self._in_memory:
                self._spill_run()
        self._directories.sort()
        self._others.sort()

    @property
    def held(self) -> int:
        """How many names are in memory."""
        return len(self._directories) + len(self._others)

    def __iter__(self) -> Iterator[bytes]:
        yield from _merge(self._spill, self._directory_runs, self._directories)
        yield from _merge(self._spill, self._other_runs, self._others)

    def close(self) -> None:
        """Give the runs back."""
        if runs := len(self._directory_runs) + len(self._other_runs):
            self._spill.release(runs)
        self._directory_runs, self._other_runs, self._directories, self._others = [], [], [], []

    def _spill_run(self) -> None:
        for names, runs in ((self._directories, self._directory_runs), (self._others, self._other_runs)):
            if names:
                names.sort()
                runs.append(self._spill.write(names))
                names.clear()


def _merge(spill: NameSpill, runs: list[tuple[int, int]], rest: list[bytes]) -> Iterator[bytes]:
    names = heapq.merge(*(spill.read(*run) for run in runs), rest) if runs else iter(rest)
    last = b""
    for name in names:
        if name != last:  # a directory that changes while it is listed may name an entry twice
            yield name
            last = name
