"""What a restore needs next, bounded: windows of files over contents, pending directories, doubtful names.

Restore walks a snapshot and fills a `Window` until it holds enough files or bytes; the window knows which distinct
contents are needed and where each goes, so that one content is fetched once however many files share it. Pending
directories wait in a `SpillingStack`, whose tail lies in a nameless file, so that a million of them cost no memory.
Verify uses the same windows and writes nothing. Everything here is pure but for that file; single-threaded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from types import TracebackType
from typing import IO, Generic, NamedTuple, Self, TypeVar

import msgspec

from agent.repository.ids import ContentId

WINDOW_FILES = 1_024
WINDOW_BYTES = 64 << 20
STACK_BLOCK = 2_048

J = TypeVar("J")
T = TypeVar("T")


class Piece(NamedTuple, Generic[J]):
    """One content at one place of one file."""

    job: J
    offset: int
    length: int
    """Bytes of the file."""
    content: ContentId
    compressed: bool
    """The content is an object-level compressed stream (`Z`)."""


class Window(Generic[J]):
    """Pieces of files, by the content that each needs.

    `J` is the caller's idea of a file. A file may have pieces in several windows; a window closes between pieces.
    """

    def __init__(self, max_files: int = WINDOW_FILES, max_bytes: int = WINDOW_BYTES) -> None:
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._pieces: dict[ContentId, list[Piece[J]]] = {}
        self._count = 0
        self.bytes = 0
        """Bytes of the distinct contents."""

    def add(self, piece: Piece[J]) -> None:
        """One more piece to be had."""
        pieces = self._pieces.get(piece.content)
        if pieces is None:
            self._pieces[piece.content] = [piece]
            self.bytes += piece.length
        else:
            pieces.append(piece)
        self._count += 1

    @property
    def full(self) -> bool:
        """Whether this should be worked off before anything is added."""
        return self._count >= self._max_files or self.bytes >= self._max_bytes

    @property
    def contents(self) -> list[ContentId]:
        """Each needed content once, in the order of first need."""
        return list(self._pieces)

    @property
    def pieces(self) -> list[Piece[J]]:
        """All of them, by content."""
        return [piece for pieces in self._pieces.values() for piece in pieces]

    def take(self, content: ContentId) -> list[Piece[J]]:
        """Where a content goes. It can be taken once."""
        return self._pieces.pop(content, [])

    def __bool__(self) -> bool:
        return bool(self._pieces)


class SpillingStack(Generic[T]):
    """A stack whose lower part lies in a nameless temporary file, in blocks."""

    def __init__(
        self, decode: Callable[[bytes], list[T]], *, block: int = STACK_BLOCK, folder: str | None = None
    ) -> None:
        """`decode` reads back what msgspec's MessagePack encoder makes of a list of items."""
        self._decode = decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._block = block
        self._folder = folder
        self._top: list[T] = []
        self._spilled: list[tuple[int, int]] = []
        self._file: IO[bytes] | None = None

    def push(self, item: T) -> None:
        """Put one item on top."""
        self._top.append(item)
        if len(self._top) >= 2 * self._block:
            self._spill(self._top[: self._block])
            del self._top[: self._block]

    def pop(self) -> T | None:
        """Take the item on top; `None` when there is none."""
        if not self._top and self._spilled:
            self._top = self._unspill()
        return self._top.pop() if self._top else None

    def _spill(self, items: list[T]) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by close()
        offset, length = self._spilled[-1] if self._spilled else (0, 0)
        data = self._encode(items)
        self._file.seek(offset + length)
        self._file.write(data)
        self._spilled.append((offset + length, len(data)))

    def _unspill(self) -> list[T]:
        assert self._file is not None  # noqa: S101 - a block is only known once the file is there
        offset, length = self._spilled.pop()
        self._file.seek(offset)
        return self._decode(self._file.read(length))

    def close(self) -> None:
        """Drop what is left."""
        self._top.clear()
        self._spilled.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class NameOrder:
    """Tells which names of one directory could have stood there before.

    Entries come in ascending order within directories and within the rest (§7.3), and a strictly ascending name is new.
    Whatever breaks the order (names that became equal or out of order by U+FFFD, §14.13; duplicates by a broken or
    hostile writer) is doubtful: restore treats those last and one by one, so that duplicates are noticed and the
    last one wins as in kopia's readers, without remembering every name.
    """

    def __init__(self) -> None:
        self._highest: dict[bool, str] = {}

    def doubtful(self, name: str, *, is_directory: bool) -> bool:
        """Whether an entry of this name may have come already."""
        highest = self._highest.get(is_directory)
        if highest is not None and name <= highest:
            return True
        self._highest[is_directory] = name
        return False
