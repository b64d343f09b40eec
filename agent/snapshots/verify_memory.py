"""What a verification need not look at again, in bounded memory.

Both forms forget rather than grow: what was forgotten is verified once more, which costs time and nothing else. Keys
are hashes of 64 bits, so that two different things pass for one in one of some ten million runs over a million things.
"""

from __future__ import annotations

import mmap
from array import array

SLOTS = 1 << 20


class Remembered:
    """Byte strings or texts by their hash, each in the one slot that its hash names; a later one takes it over.

    8 bytes a slot, of which the system provides those that are used.
    """

    def __init__(self, slots: int = SLOTS) -> None:
        self._slots = memoryview(mmap.mmap(-1, 8 * slots)).cast("q")

    def add(self, key: bytes | str) -> None:
        """Remember this one."""
        self.add_hash(_hash(key))

    def add_hash(self, value: int) -> None:
        """The same, by the hash of the key."""
        self._slots[value % len(self._slots)] = value

    def __contains__(self, key: bytes | str) -> bool:
        value = _hash(key)
        return self._slots[value % len(self._slots)] == value


class Walked:
    """Directories with all that is below them, and files, that an earlier snapshot proved good; by a key of the caller.

    What is walked in a snapshot is noted with its path and counts from the end of that snapshot, when it is known
    what failed: contents are judged long after the directory that led to them. An object above something that failed
    is walked again in the next snapshot.
    """

    def __init__(self, limit: int = SLOTS // 2) -> None:
        self._limit = limit
        self._good = Remembered()
        self._objects = array("q")
        self._paths = array("q")
        self._failed: set[int] | None = set()

    def __contains__(self, key: str) -> bool:
        return key in self._good

    def add(self, key: str, path: str) -> None:
        """What the key stands for was walked at this path of the snapshot."""
        if len(self._objects) < self._limit:
            self._objects.append(_hash(key))
            self._paths.append(hash(path))

    def fail(self, path: str) -> None:
        """What is at this path cannot be restored: neither it nor anything above it is good."""
        if self._failed is None:
            return
        while True:
            self._failed.add(hash(path))
            if not path:
                break
            path = path.rpartition("/")[0]
        if len(self._failed) > self._limit:
            self._failed = None

    def end_snapshot(self) -> None:
        """Everything in the snapshot has been judged."""
        if self._failed is not None:
            for value, path in zip(self._objects, self._paths, strict=True):
                if path not in self._failed:
                    self._good.add_hash(value)
        self._objects, self._paths, self._failed = array("q"), array("q"), set()


def _hash(key: bytes | str) -> int:
    """Never 0, which is what an empty slot holds."""
    return hash(key) or 1
