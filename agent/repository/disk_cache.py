"""A folder of files that were expensive to get: authenticated, byte-limited, shared by processes, safe to lose.

`index_cache` and `content_cache` keep decrypted indexes and whole packs here. What is read back is what this
repository's key signed under that name, else it counts as absent and is fetched anew. Files are never changed, only
renamed into place and unlinked, so that a mapping of one that was evicted meanwhile stays good.

The lock file holds the number of bytes in the folder, or "unknown" while somebody changes it: whoever finds that after
a crash counts again. Without a folder, `PrivateCache` keeps the same bytes in unnamed temporary files.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from agent.base.scratch import unnamed_mapping, write_all
from agent.storage.base import Buffer

_MAC_SIZE = 32
_PIECE = 256 << 10
_LOCK = ".lock"
_TEMPORARY = ".new"
_UNKNOWN = b"?"
_KEEP_AFTER_EVICTION = 0.9
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}\Z", re.ASCII)


class LocalCache(Protocol):
    """Where `index_cache` and `content_cache` keep bytes. Thread side, thread-safe."""

    def get(self, name: str) -> memoryview | None:
        """What was put under this name, mapped; None when it is not there (any more) or was damaged."""
        ...

    def put(self, name: str, data: Buffer) -> memoryview:
        """Keep these bytes; the result is a mapping of them that stays good whatever happens to the file."""
        ...

    def discard(self, name: str) -> None:
        """Forget this one."""
        ...

    def close(self) -> None:
        """Forget what only this process sees. Mappings given out stay good."""
        ...


class CountedCache:
    """A `LocalCache` that counts what was found in `inner` and what was not."""

    def __init__(self, inner: LocalCache) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self.hits = 0
        self.misses = 0

    def get(self, name: str) -> memoryview | None:
        """See `LocalCache`."""
        found = self._inner.get(name)
        with self._lock:
            if found is None:
                self.misses += 1
            else:
                self.hits += 1
        return found

    def put(self, name: str, data: Buffer) -> memoryview:
        """See `LocalCache`."""
        return self._inner.put(name, data)

    def discard(self, name: str) -> None:
        """See `LocalCache`."""
        self._inner.discard(name)

    def close(self) -> None:
        """See `LocalCache`."""
        self._inner.close()


class PrivateCache:
    """Unnamed temporary files, gone with the process. The oldest are dropped beyond `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._total = 0
        self._maps: OrderedDict[str, memoryview] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> memoryview | None:
        """See `LocalCache`."""
        with self._lock:
            view = self._maps.get(name)
            if view is not None:
                self._maps.move_to_end(name)
            return view

    def put(self, name: str, data: Buffer) -> memoryview:
        """See `LocalCache`."""
        view = unnamed_mapping(data)
        with self._lock:
            self._drop(name)
            self._maps[name] = view
            self._total += len(view)
            while self._total > self._limit and len(self._maps) > 1:
                self._drop(next(iter(self._maps)))
        return view

    def discard(self, name: str) -> None:
        """See `LocalCache`."""
        with self._lock:
            self._drop(name)

    def close(self) -> None:
        """See `LocalCache`."""
        with self._lock:
            self._maps.clear()
            self._total = 0

    def _drop(self, name: str) -> None:
        view = self._maps.pop(name, None)
        if view is not None:
            self._total -= len(view)


class DiskCache:
    """Files `name` = data || MAC below `folder`, at most `limit` bytes of them. See `LocalCache`."""

    def __init__(self, folder: str, key: bytes, limit: int) -> None:
        """`key` is the local cache key (§3.3), at most 64 bytes. Makes the folder, for this user only.

        Raises `OSError` when it cannot.
        """
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._folder = folder
        self._key = key
        self._limit = limit

    def get(self, name: str) -> memoryview | None:
        """See `LocalCache`. Reads the whole file once, to verify it; only what is looked at later gets mapped in."""
        path = self._path(name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            length = os.fstat(fd).st_size - _MAC_SIZE
            if length >= 0 and self._is_whole(fd, name, length):
                with suppress(OSError):
                    os.utime(fd)
                return memoryview(mmap.mmap(fd, length + _MAC_SIZE, access=mmap.ACCESS_READ))[:length]
        except OSError:
            return None
        finally:
            os.close(fd)
        self.discard(name)
        return None

    def put(self, name: str, data: Buffer) -> memoryview:
        """See `LocalCache`. What cannot be kept within the limit, or not written, stays in an unnamed file."""
        path = self._path(name)
        size = len(data) + _MAC_SIZE
        if size > self._limit:
            return unnamed_mapping(data)
        temporary = os.path.join(self._folder, _TEMPORARY)
        mac = self._mac(name)
        mac.update(data)
        try:
            with self._changing() as total:
                total.value -= self._size(path)
                self._make_room(total, size, keep=name)
                fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                try:
                    write_all(fd, data)
                    write_all(fd, mac.digest())
                    view = memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_READ))[:-_MAC_SIZE]
                finally:
                    os.close(fd)
                os.replace(temporary, path)
                total.value += size
                return view
        except OSError:
            return unnamed_mapping(data)

    def discard(self, name: str) -> None:
        """See `LocalCache`."""
        path = self._path(name)
        with suppress(OSError), self._changing() as total:
            size = self._size(path)
            os.unlink(path)
            total.value -= size

    def close(self) -> None:
        """The files stay for the next process."""

    def _path(self, name: str) -> str:
        if not _NAME.match(name):
            name = "_" + hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()
        return os.path.join(self._folder, name)

    def _is_whole(self, fd: int, name: str, length: int) -> bool:
        """Whether the `length` bytes at the start of the file are what was put under `name`: their MAC follows."""
        mac = self._mac(name)
        piece = memoryview(bytearray(min(length, _PIECE)))
        done = 0
        while done < length:
            count = os.preadv(fd, [piece[: length - done]], done)
            if not count:
                return False
            mac.update(piece[:count])
            done += count
        return os.pread(fd, _MAC_SIZE, length) == mac.digest()

    def _mac(self, name: str) -> hashlib.blake2b:
        """Of the name; the data has to follow."""
        mac = hashlib.blake2b(len(name).to_bytes(4), key=self._key, digest_size=_MAC_SIZE)
        mac.update(name.encode("utf-8", "surrogateescape"))
        return mac

    @staticmethod
    def _size(path: str) -> int:
        try:
            return os.lstat(path).st_size
        except FileNotFoundError:
            return 0

    @contextmanager
    def _changing(self) -> Iterator[_Total]:
        """The lock of the folder, and the bytes in it. Left by an error, they are counted again by the next one."""
        fd = os.open(os.path.join(self._folder, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            stored = os.pread(fd, 32, 0)
            os.pwrite(fd, _UNKNOWN, 0)
            total = _Total(int(stored) if stored.isdigit() else self._count())
            yield total
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d" % max(0, total.value), 0)
        finally:
            os.close(fd)

    def _files(self) -> list[tuple[int, int, str]]:
        """(last use, size, path) of every file kept."""
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    found.append((status.st_mtime_ns, status.st_size, entry.path))
        return found

    def _count(self) -> int:
        return sum(size for _, size, _ in self._files())

    def _make_room(self, total: _Total, size: int, *, keep: str) -> None:
        if total.value + size <= self._limit:
            return
        files = sorted(self._files())
        kept = self._path(keep)
        total.value = sum(length for _, length, path in files if path != kept)
        goal = max(0, int(self._limit * _KEEP_AFTER_EVICTION) - size)
        for _, length, path in files:
            if total.value <= goal:
                break
            if path != kept:
                os.unlink(path)
                total.value -= length


class _Total:
    """A number that the holder of the lock changes."""

    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value
