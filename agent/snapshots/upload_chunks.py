"""Chunks of large files between the thread that reads and the threads that hash: buffers, order, holes."""

from __future__ import annotations

import mmap
import threading
from array import array
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Protocol

from agent.repository.ids import ObjectId
from agent.snapshots.progress import Cancellation

_POLL = 0.2


class ChunkSource(Protocol):
    """What large files and devices are read from. Thread side, by several threads."""

    def readinto_at(self, buffer: memoryview, offset: int) -> int:
        """Fill the buffer; less only at the end. Raises OSError."""
        ...


class Slabs:
    """A fixed number of large buffers, touched as far as they are used, handed round for the whole run."""

    def __init__(self, size: int, count: int, cancellation: Cancellation) -> None:
        self.size = size
        self._cancellation = cancellation
        self._free: SimpleQueue[mmap.mmap] = SimpleQueue()
        self._left = count
        self._lock = threading.Lock()

    def take(self) -> Slab:
        """A free one; waits for it. Raises `CanceledError`."""
        while True:
            try:
                return Slab(self, self._free.get_nowait())
            except Empty:
                with self._lock:
                    if self._left:
                        self._left -= 1
                        return Slab(self, mmap.mmap(-1, self.size))
            try:
                return Slab(self, self._free.get(timeout=_POLL))
            except Empty:
                self._cancellation.check()

    def give_back(self, buffer: mmap.mmap) -> None:
        """Nobody looks at it any more."""
        self._free.put(buffer)


class Slab:
    """A buffer in use by its reader and by the chunks that lie in it."""

    __slots__ = ("_buffer", "_lock", "_slabs", "_users", "view")

    def __init__(self, slabs: Slabs, buffer: mmap.mmap) -> None:
        self._slabs = slabs
        self._buffer = buffer
        self._users = 1
        self._lock = threading.Lock()
        self.view = memoryview(buffer)

    def use(self) -> None:
        """One more."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """One less; after the last the buffer goes back."""
        with self._lock:
            self._users -= 1
            last = not self._users
        if last:
            self._slabs.give_back(self._buffer)


class Chunks:
    """The chunks of a file or part, put in any order, kept in theirs; a few bytes each. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lengths = array("Q")
        self._objects: list[bytes] = []
        self._early: dict[int, tuple[int, ObjectId]] = {}
        self._given = 0
        self._failure: BaseException | None = None

    def number(self) -> int:
        """The number of the next chunk. Called by the reader only."""
        self._given += 1
        return self._given - 1

    def put(self, number: int, length: int, obj: ObjectId) -> None:
        """The chunk of this number is written."""
        with self._changed:
            self._early[number] = (length, obj)
            while (chunk := self._early.pop(len(self._lengths), None)) is not None:
                self._lengths.append(chunk[0])
                self._objects.append(chunk[1].encode())
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """A chunk could not be written."""
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def check(self) -> None:
        """Raise why a chunk could not be written, if one could not."""
        if self._failure is not None:
            raise self._failure

    def wait(self, cancellation: Cancellation) -> None:
        """Until every chunk that was numbered is there. Raises what failed, `CanceledError`."""
        with self._changed:
            while self._failure is None and len(self._lengths) < self._given:
                self._changed.wait(_POLL)
                cancellation.check()
        self.check()

    def done(self) -> Iterator[tuple[int, ObjectId]]:
        """(length, object id) of the chunks from the first to the last before a gap."""
        with self._changed:
            lengths, objects = self._lengths[:], self._objects[:]
        return ((length, ObjectId(obj.decode())) for length, obj in zip(lengths, objects, strict=True))

    @property
    def given(self) -> int:
        """How many were numbered."""
        return self._given

    @property
    def length(self) -> int:
        """Bytes of what `done` gives."""
        with self._changed:
            return sum(self._lengths)


class Holes:
    """Which stretches of a file are zeros that nobody has to read. Asked with rising offsets; not thread-safe."""

    def __init__(self, data: Iterator[tuple[int, int]] | None = None, size: int = 0) -> None:
        """`data` gives (offset, length) of what is not a hole below `size`; None: nothing is known to be one."""
        self._data = data
        self._size = size
        self._begin = self._end = 0

    def zeros_at(self, offset: int, end: int | None) -> int:
        """How many bytes from `offset` on are a hole, below `end`."""
        if self._data is None:
            return 0
        while self._end <= offset:
            self._begin, length = next(self._data, (self._size, 1 << 62))
            self._end = self._begin + length
        stop = min(self._begin, self._size) if end is None else min(self._begin, self._size, end)
        return max(stop - offset, 0)
