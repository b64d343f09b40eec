"""One directory object while it is being made (§7.3, §6.2).

Upload adds entries as they become known, in order, and closes the directory when the last is there; nobody holds more
of it than the chunk that is not cut yet. A checkpoint can be taken at any time: it shares the chunks that are written.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from typing import Protocol

from agent.base.scratch import scratch
from agent.repository.ids import NO_PREFIX, ContentId, ObjectId, content_text
from agent.repository.object_writer import ObjectPart, PartWriter
from agent.repository.splitter import Splitter
from agent.snapshots.directory import DirectoryEncoder
from agent.snapshots.model import MAX_SUMMARY_ERRORS, DirectorySummary, EntryError
from agent.storage.base import Buffer

DIRECTORY_PREFIX = ord("k")
_IN_MEMORY = 1024 * 1024
_SCAN_LENGTH = 256 * 1024
"""So much is added before it is looked for the end of a chunk: then little more than one chunk is ever held."""


class UploadSink(Protocol):
    """What of a `RepositoryWriter` an upload needs. Thread side, thread-safe; may wait for the store."""

    def write_content(self, data: Buffer, prefix: int = NO_PREFIX, compression: int = 0) -> ContentId:
        """The id of this content, which is in the repository after the next flush."""
        ...

    def write_contents(
        self, data: Sequence[Buffer], prefix: int = NO_PREFIX, compression: int = 0
    ) -> Sequence[ContentId]:
        """The ids of these contents, in order."""
        ...

    def new_part(self, compression: int = 0, splitter: str | None = None) -> PartWriter:
        """Begin a file that is written bytes by bytes."""
        ...

    def concatenate(self, parts: Iterable[ObjectPart], compression: int | None = None) -> ObjectId:
        """The object made of these parts in order; `compression` is that of its list."""
        ...

    def assemble(
        self, entries: Iterable[tuple[int, ObjectId]], prefix: int = NO_PREFIX, compression: int | None = None
    ) -> ObjectId:
        """The object made of these (length, object id), in order, at least one; `compression` is that of its list."""
        ...


class Tally:
    """A directory's summary while entries are added (§7.3, §14.2)."""

    __slots__ = ("dirs", "entries", "errors", "failed", "files", "ignored_errors", "max_time_ns", "size", "symlinks")

    def __init__(self) -> None:
        self.entries = 0
        self.size = 0
        self.files = 0
        self.symlinks = 0
        self.dirs = 0
        self.max_time_ns = 0
        self.failed = 0
        self.ignored_errors = 0
        self.errors: list[EntryError] = []

    def add_files(self, files: int, symlinks: int, size: int, max_time_ns: int) -> None:
        """So many entries that are no directories; `size` is that of the files among them."""
        self.entries += files + symlinks
        self.files += files
        self.symlinks += symlinks
        self.size += size
        self.max_time_ns = max(self.max_time_ns, max_time_ns)

    def add_directory(self, summary: DirectorySummary, mtime_ns: int) -> None:
        """A directory with all that is below it."""
        self.entries += 1
        self.size += summary.size
        self.files += summary.files
        self.symlinks += summary.symlinks
        self.dirs += summary.dirs
        self.max_time_ns = max(self.max_time_ns, summary.max_time_ns, mtime_ns)
        self.failed += summary.failed
        self.ignored_errors += summary.ignored_errors
        self._list(summary.errors)

    def add_error(self, error: EntryError, *, ignored: bool) -> None:
        """An entry that is missing because it could not be read."""
        if ignored:
            self.ignored_errors += 1
        else:
            self.failed += 1
        self._list((error,))

    def copy(self) -> Tally:
        """The same numbers again."""
        other = Tally()
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        other.errors = list(self.errors)
        return other

    def summary(self, mtime_ns: int, incomplete: str = "") -> DirectorySummary:
        """As it stands; `mtime_ns` is the directory's own, which counts when it is empty."""
        return DirectorySummary(
            size=self.size,
            files=self.files,
            symlinks=self.symlinks,
            dirs=self.dirs + 1,
            max_time_ns=self.max_time_ns if self.entries else mtime_ns,
            incomplete=incomplete,
            failed=self.failed,
            ignored_errors=self.ignored_errors,
            errors=tuple(self.errors),
        )

    def _list(self, errors: Sequence[EntryError]) -> None:
        if errors:
            self.errors = sorted([*self.errors, *errors], key=lambda e: e.path.encode("utf-8", "surrogateescape"))
            del self.errors[MAX_SUMMARY_ERRORS:]


class _Uncut:
    """The bytes of a directory that belong to no chunk yet: beyond 1 MiB they lie in a nameless file."""

    __slots__ = ("_file", "_memory", "_usual", "length")

    def __init__(self, usual: int) -> None:
        """`usual` bytes are enough as a rule."""
        self._usual = usual
        self._memory = bytearray()
        self._file: mmap.mmap | None = None
        self.length = 0

    def append(self, data: Buffer) -> None:
        """Add bytes to the end."""
        end = self.length + len(data)
        if self._file is None and end <= _IN_MEMORY:
            self._memory += data
        else:
            self._with_room(end)[self.length : end] = data
        self.length = end

    def view(self) -> memoryview:
        """All of them. To be released before anything is added or dropped."""
        return memoryview(self._memory if self._file is None else self._file)[: self.length]

    def drop(self, length: int) -> None:
        """Take so many from the start."""
        self.length -= length
        if self._file is None:
            del self._memory[:length]
        else:
            self._file.move(0, length, self.length)

    def _with_room(self, length: int) -> mmap.mmap:
        if self._file is None or len(self._file) < length:
            larger = scratch(max(self._usual, 2 * length))
            with self.view() as view:
                larger[: self.length] = view
            self._file = larger
            self._memory.clear()
        return self._file


class DirectoryObject:
    """A directory on its way into the repository. Thread side."""

    __slots__ = (
        "_chunks",
        "_compression",
        "_encoder",
        "_list_compression",
        "_scanned",
        "_sink",
        "_splitter",
        "_uncut",
    )

    def __init__(
        self, sink: UploadSink, splitter: Splitter, compression: int, list_compression: int | None = None
    ) -> None:
        """`splitter` is the repository's own, `compression` a header id (§4.2), `list_compression` that of the list of
        a directory of several chunks; None: the sink's own.
        """
        self._sink = sink
        self._splitter = splitter
        self._compression = compression
        self._list_compression = list_compression
        self._encoder = DirectoryEncoder()
        self._uncut = _Uncut(splitter.max_chunk + 2 * _SCAN_LENGTH)
        self._scanned = 0
        self._chunks: list[tuple[int, ObjectId]] = []

    def add(self, raw: bytes) -> None:
        """One or more entries, encoded and joined by commas."""
        self._uncut.append(self._encoder.entries(raw))
        if self._uncut.length - self._scanned >= _SCAN_LENGTH:
            self._cut()

    def finish(self, summary: DirectorySummary) -> ObjectId:
        """Close the directory; the object id."""
        self._uncut.append(self._encoder.end(summary))
        self._cut()
        return self._sink.assemble(self._with_last(), DIRECTORY_PREFIX, self._list_compression)

    def checkpoint(self, more: Sequence[bytes], summary: DirectorySummary) -> ObjectId:
        """The directory as it stands with `more` entries behind; it goes on as if nothing had been."""
        other = DirectoryObject(self._sink, self._splitter, self._compression, self._list_compression)
        other._encoder = self._encoder.copy()
        with self._uncut.view() as view:
            other._uncut.append(view)
        other._scanned = self._scanned
        other._chunks += self._chunks
        for raw in more:
            other.add(raw)
        return other.finish(summary)

    def _with_last(self) -> Iterable[tuple[int, ObjectId]]:
        if self._uncut.length:
            self._put(self._uncut.length)
        return self._chunks

    def _cut(self) -> None:
        while True:
            with self._uncut.view() as view:
                cut = self._splitter.find_cut(view, len(view), self._scanned)
            if not cut:
                self._scanned = self._uncut.length
                return
            self._put(cut)

    def _put(self, length: int) -> None:
        with self._uncut.view() as view, view[:length] as chunk:
            content = self._sink.write_content(chunk, DIRECTORY_PREFIX, self._compression)
        self._chunks.append((length, ObjectId(content_text(content))))
        self._uncut.drop(length)
        self._scanned = 0
