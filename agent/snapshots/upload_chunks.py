"""What large files on their way share: buffers, the order of chunks, parts still to be read, holes."""

from __future__ import annotations

import mmap
import threading
from array import array
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Protocol, cast

from agent.repository.ids import ObjectId
from agent.snapshots.progress import Cancellation

_POLL = 0.2
_USUAL = 6 * 1024 * 1024
"""Of a slab, what the chunks of most splitters fill."""


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

    def take(self) -> memoryview:
        """A free one; waits for it. Raises `CanceledError`."""
        while (slab := self.take_if_free()) is None:
            try:
                return memoryview(self._free.get(timeout=_POLL))
            except Empty:
                self._cancellation.check()
        return slab

    def take_if_free(self) -> memoryview | None:
        """A free one, None when all are in use."""
        try:
            return memoryview(self._free.get_nowait())
        except Empty:
            with self._lock:
                if not self._left:
                    return None
                self._left -= 1
            return memoryview(mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))

    def give_back(self, slab: memoryview) -> None:
        """Nobody looks at it any more. What of it is seldom needed takes no memory until it is needed again."""
        mapping = cast(mmap.mmap, slab.obj)
        if self.size > _USUAL:
            mapping.madvise(mmap.MADV_DONTNEED, _USUAL, self.size - _USUAL)
        self._free.put(mapping)


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


class PartQueue:
    """The parts of one file, for however many threads read it. Thread-safe."""

    def __init__(self, count: int) -> None:
        self._changed = threading.Condition()
        self._numbers = iter(range(count))
        self._active = 0
        self._failure: BaseException | None = None

    def run(self, read: Callable[[int], None]) -> None:
        """Read parts by their number as long as there are any; a failure is kept for `wait`."""
        while True:
            with self._changed:
                number = None if self._failure else next(self._numbers, None)
                if number is None:
                    return
                self._active += 1
            failure: BaseException | None = None
            try:
                read(number)
            except BaseException as error:  # noqa: BLE001 - raised again by `wait`
                failure = error
            with self._changed:
                self._failure = self._failure or failure
                self._active -= 1
                self._changed.notify_all()

    def wait(self) -> None:
        """Until nobody reads any more. Raises what failed first."""
        with self._changed:
            self._changed.wait_for(lambda: not self._active)
            if self._failure is not None:
                raise self._failure


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
