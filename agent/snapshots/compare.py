"""What the parent snapshot knows of a directory, met in step with the walk (§14.9).

Both sides are sorted alike (directories first, then the rest, each by raw name), so comparing is a merge: for each file
the JSON of its entry up to the object id is compared with the start of the parent's raw entry, and equal bytes mean
unchanged, without decoding anything. What differs is decoded once and compared field by field, because another client
may have written the same entry in other words. A parent that is out of order or damaged only costs reading files
again; damage is reported through `warn`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from agent import _native
from agent.base.errors import RepositoryError, SnapshotError
from agent.repository.ids import ObjectId
from agent.snapshots.directory import DirectoryParser, entry_header
from agent.snapshots.model import DIRECTORY, FILE, SYMLINK, decode_entry
from agent.storage.base import Buffer
from agent.volumes.attributes import Attributes, go_mode

ReadObject = Callable[[ObjectId], Iterator[Buffer]]
"""Thread side: an object's bytes, piece by piece."""

_ESCAPED_BAD_BYTE = b"\\ufffd"
_NEVER = b"\0"


class ParentDirectory:
    """One directory of an earlier snapshot. Ask for directories first, then for files, both in ascending order."""

    def __init__(self, obj: ObjectId, read: ReadObject, warn: Callable[[str], None]) -> None:
        self.obj = obj
        self._parts: Iterator[list[bytes]] | None = None
        self._ended = False
        self._read = read
        self._warn = warn
        self._parser = DirectoryParser(obj)
        self._raws: list[bytes] = []
        self._at = 0
        self._head: tuple[bytes, str] | None = None

    def directory(self, name: bytes) -> ObjectId | None:
        """The object of the directory of this name, if there was one."""
        while (head := self._peek()) is not None:
            found, kind = head
            if kind != DIRECTORY or found > name:
                return None
            raw = self._raws[self._at]
            self._advance()
            if found == name:
                return decode_entry(raw).obj or None
        return None

    def match(
        self, names: Sequence[bytes], prefixes: list[bytes], attributes: Sequence[Attributes], found: list[bytes | None]
    ) -> None:
        """Put the raw entry of every unchanged file into `found` where none is yet; `names` has no directories."""
        comparable = prefixes
        if any(_ESCAPED_BAD_BYTE in prefix for prefix in prefixes):
            # Names that are not UTF-8 may have become the same: kopia never takes them over, nor do we (§13.6).
            comparable = [_NEVER if _ESCAPED_BAD_BYTE in prefix else prefix for prefix in prefixes]
        try:
            self._match(names, comparable, attributes, found)
        except (RepositoryError, SnapshotError) as error:
            self._give_up(error)

    def _match(
        self, names: Sequence[bytes], prefixes: list[bytes], attributes: Sequence[Attributes], found: list[bytes | None]
    ) -> None:
        i = 0
        while i < len(names) and (self._at < len(self._raws) or self._fill()):
            run = _native.unchanged_run(prefixes, i, self._raws, self._at)
            if run:
                for n, raw in enumerate(self._raws[self._at : self._at + run], i):
                    if found[n] is None:
                        found[n] = raw
                i += run
                self._at += run
                self._head = None
                continue
            head = self._peek()
            if head is None:
                return
            name, kind = head
            if kind == DIRECTORY or name < names[i]:
                self._advance()
            elif name > names[i]:
                i += 1
            else:
                if found[i] is None and prefixes[i] is not _NEVER:
                    found[i] = _same(self._raws[self._at], prefixes[i], attributes[i])
                self._advance()
                i += 1

    def _peek(self) -> tuple[bytes, str] | None:
        if self._head is None:
            try:
                if self._at < len(self._raws) or self._fill():
                    self._head = entry_header(self._raws[self._at])
            except (RepositoryError, SnapshotError) as error:
                self._give_up(error)
        return self._head

    def _advance(self) -> None:
        self._at += 1
        self._head = None

    def _fill(self) -> bool:
        if self._parts is None:
            self._parts = chain.from_iterable(map(self._parser.feed_slices, self._read(self.obj)))
        self._at = 0
        self._head = None
        self._raws = []
        for raws in self._parts:
            if raws:
                self._raws = raws
                return True
        if not self._ended:
            self._ended = True
            self._parser.close()
        return False

    def _give_up(self, error: Exception) -> None:
        self._warn(f"cannot compare with the directory {self.obj} of an earlier snapshot: {error}")
        self._ended = True
        self._parts = iter(())
        self._raws = []
        self._at = 0
        self._head = None


def _same(raw: bytes, prefix: bytes, attributes: Attributes) -> bytes | None:
    """The new entry of an unchanged file: its metadata from the file system, its object from the parent."""
    entry = decode_entry(raw)
    kind = SYMLINK if attributes.is_symlink else FILE
    unchanged = (
        entry.type == kind
        and entry.mtime_ns == attributes.mtime_ns
        and entry.mode == go_mode(attributes.mode)
        and entry.uid == attributes.uid
        and entry.gid == attributes.gid
        and entry.size == attributes.size
    )
    return prefix + entry.obj.encode() + b'"}' if unchanged and entry.obj else None
