"""Directory objects as streams (§7.3).

A directory may hold millions of entries, so nobody here ever has a whole one: `DirectoryEncoder` gives the bytes piece
by piece, byte for byte as kopia writes them, so that the same directory has the same content id in both;
`DirectoryParser` takes the bytes piece by piece and gives the raw JSON of the entries, which `decode_entry` turns into
structs. Upload compares and copies raw entries without decoding them; restore, verify and browse use
`parse_directory`. What comes from a repository is hostile until parsed: nesting, the size of one value and the number
of bytes held back are bounded, and everything else is `CorruptDirectory`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator

import msgspec

from agent import _native
from agent.base.errors import CorruptDirectory
from agent.snapshots.model import DirectorySummary, Entry, decode_entry, decode_summary
from agent.storage.base import Buffer

HEAD = b'{"stream":"kopia:directory","entries":'
STREAM = "kopia:directory"

MAX_VALUE = 64 * 1024 * 1024
"""Bytes of one JSON value (an entry, the summary). Kopia's own summaries list every failure below (§14.4)."""
_SLICE = 64 * 1024
_SPACE = b" \t\r\n"
_MAX_KEYS = 1000

_Step = Callable[[bytes, int, list[bytes]], tuple[int, bool]]


class DirectoryEncoder:
    """Gives a directory's bytes piece by piece: `entries` as often as needed, then `end`."""

    __slots__ = ("_started",)

    def __init__(self) -> None:
        self._started = False

    def entries(self, raw: bytes) -> bytes:
        """The bytes for one or more entries, encoded and joined by commas already."""
        if self._started:
            return b"," + raw
        self._started = True
        return HEAD + b"[" + raw

    def copy(self) -> DirectoryEncoder:
        """Another one that goes on from the same place."""
        other = DirectoryEncoder()
        other._started = self._started
        return other

    def end(self, summary: DirectorySummary) -> bytes:
        """The bytes that close the directory; the encoder is not changed, so a checkpoint may take them early."""
        tail = b',"summary":' + summary.to_json() + b"}\n"
        return b"]" + tail if self._started else HEAD + b"null" + tail


def encode_directory(entries: Iterable[Entry], summary: DirectorySummary) -> bytes:
    """A whole small directory."""
    encoder = DirectoryEncoder()
    parts = [encoder.entries(entry.to_json()) for entry in entries]
    return b"".join([*parts, encoder.end(summary)])


class DirectoryParser:
    """A directory object in, raw entries out: `feed` until the bytes end, then `close`.

    Keys come in any order and case, unknown ones are skipped, `entries` may be null or absent (§7.4, §14.3). Memory is
    one unfinished value at most.
    """

    def __init__(self, name: str = "directory") -> None:
        """`name` is for messages: the object id, or a path."""
        self._name = name
        self._rest = b""
        self._step: _Step = self._open
        self._state = 0
        self._key = ""
        self._keys = 0
        self._stream: str | None = None
        self._seen_entries = False
        self._summary: bytes | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """The raw JSON of the entries that are complete now. Raises `CorruptDirectory`."""
        buffer = self._rest + data if self._rest else data
        found: list[bytes] = []
        at = 0
        try:
            while at < len(buffer):
                step = self._step
                at, done = step(buffer, at, found)
                if not done and self._step == step:
                    break
        except (ValueError, msgspec.MsgspecError) as error:
            raise self._corrupt(str(error)) from error
        self._rest = buffer[at:] if at < len(buffer) else b""
        if len(self._rest) > MAX_VALUE:
            raise self._corrupt(f"one value is longer than {MAX_VALUE} bytes")
        return found

    def feed_slices(self, data: Buffer) -> Iterator[list[bytes]]:
        """As `feed`, some entries at a time: those of a content of 8 MiB at once would take twice that again."""
        at = 0
        while at < len(data):
            length = max(_SLICE, len(self._rest))  # doubled while one value goes on, or it would be copied each time
            yield self.feed(bytes(data[at : at + length]))
            at += length

    def close(self) -> DirectorySummary | None:
        """What the directory says of itself, after the last byte. Raises `CorruptDirectory`."""
        if self._step != self._trailing:
            raise self._corrupt("it ends too early")
        if self._stream != STREAM:
            raise self._corrupt(f"its stream type is {self._stream!r}")
        return None if self._summary is None else decode_summary(self._summary)

    def _corrupt(self, what: str) -> CorruptDirectory:
        return CorruptDirectory(
            f"cannot understand the directory {self._name}: {what}",
            hint="`lighter verify` names the snapshots and files that are hit",
        )

    # Each step takes (buffer, position) and returns the new position and whether it got anywhere.

    def _open(self, buffer: bytes, at: int, _found: list[bytes]) -> tuple[int, bool]:
        at, char = _next(buffer, at)
        if not char:
            return at, False
        if char != b"{":
            raise ValueError("it is not a JSON object")
        self._step = self._key_or_end
        return at + 1, True

    def _key_or_end(self, buffer: bytes, at: int, _found: list[bytes]) -> tuple[int, bool]:
        at, char = _next(buffer, at)
        if char == b"}" and self._keys == 0:
            self._step = self._trailing
            return at + 1, True
        if char not in (b'"', b""):
            raise ValueError(f"a key was expected near byte {at}")
        end = _native.scan_value(buffer, at) if char else -1
        if end < 0:
            return at, False
        self._keys += 1
        if self._keys > _MAX_KEYS:
            raise ValueError("it has too many keys")
        self._key = str(msgspec.json.decode(buffer[at:end], type=str)).lower()
        self._step = self._colon
        return end, True

    def _colon(self, buffer: bytes, at: int, _found: list[bytes]) -> tuple[int, bool]:
        at, char = _next(buffer, at)
        if not char:
            return at, False
        if char != b":":
            raise ValueError(f"a colon was expected near byte {at}")
        self._step = self._value
        return at + 1, True

    def _value(self, buffer: bytes, at: int, _found: list[bytes]) -> tuple[int, bool]:
        at, char = _next(buffer, at)
        if not char:
            return at, False
        if self._key == "entries":
            if char == b"[":
                if self._seen_entries:
                    raise ValueError("it lists its entries twice")
                self._seen_entries = True
                self._state = 0
                self._step = self._entries
                return at + 1, True
            if char != b"n":
                raise ValueError("its entries are not a list")
        end = _native.scan_value(buffer, at)
        if end < 0:
            return at, False
        self._known(buffer[at:end])
        self._step = self._after_value
        return end, True

    def _known(self, raw: bytes) -> None:
        if raw == b"null":
            return
        if self._key == "stream":
            self._stream = msgspec.json.decode(raw, type=str)
        elif self._key == "summary":
            self._summary = raw
        elif self._key == "entries":
            raise ValueError("its entries are not a list")

    def _entries(self, buffer: bytes, at: int, found: list[bytes]) -> tuple[int, bool]:
        elements, end, self._state = _native.split_elements(buffer, at, self._state)
        found += [raw for raw in elements if raw != b"null"]
        if self._state == _CLOSED:
            self._step = self._after_value
            return end, True
        return end, False

    def _after_value(self, buffer: bytes, at: int, _found: list[bytes]) -> tuple[int, bool]:
        at, char = _next(buffer, at)
        if not char:
            return at, False
        if char == b"}":
            self._step = self._trailing
        elif char == b",":
            self._step = self._key_or_end
        else:
            raise ValueError(f"a comma was expected near byte {at}")
        return at + 1, True

    def _trailing(self, buffer: bytes, _at: int, _found: list[bytes]) -> tuple[int, bool]:
        """Go's decoder reads one value and does not look further."""
        return len(buffer), True


_CLOSED = 3


def _next(buffer: bytes, at: int) -> tuple[int, bytes]:
    """The next byte that is not white space, and where; empty at the end."""
    while at < len(buffer) and buffer[at] in _SPACE:
        at += 1
    return at, buffer[at : at + 1]


def entry_header(raw: bytes) -> tuple[bytes, str]:
    """Name (UTF-8) and type of a raw entry, without decoding it where that is possible. Raises `CorruptDirectory`.

    A name that was not UTF-8 in the file system comes back as `None` would: as b"", which no file has (§14.13).
    """
    if raw.startswith(b'{"name":"'):
        end = raw.find(b'"', 9)
        if raw.startswith(b'","type":"', end) and raw[end + 11 : end + 12] == b'"' and raw.find(b"\\", 9, end) < 0:
            return raw[9:end], chr(raw[end + 10])
    entry = decode_entry(raw)
    if b"\\ufffd" in raw or b"\\uFFFD" in raw:
        return b"", entry.type
    return entry.name.encode("utf-8", "surrogateescape"), entry.type


async def parse_directory(chunks: AsyncIterable[Buffer], name: str = "directory") -> AsyncIterator[Entry]:
    """The entries of a directory object, one by one, in stored order. Raises `CorruptDirectory`."""
    parser = DirectoryParser(name)
    async for chunk in chunks:
        for raws in parser.feed_slices(chunk):
            for raw in raws:
                yield decode_entry(raw)
    parser.close()


def parse_whole(data: bytes, name: str = "directory") -> tuple[list[Entry], DirectorySummary | None]:
    """All entries and the summary of a directory that is in memory. Raises `CorruptDirectory`."""
    parser = DirectoryParser(name)
    entries = [decode_entry(raw) for raw in parser.feed(data)]
    return entries, parser.close()
