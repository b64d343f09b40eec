"""From sealed bytes in a pack to a verified content: decrypt, decompress, hash (§3.2, §4.2).

Everything that leaves a pack goes through `ContentCodec.open`, so nobody ever sees bytes that are not what their id
says. Kopia stops at decryption; the hash costs a little more and also finds what was damaged before it was sealed.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from typing import TypeVar

from agent.base.errors import AlgorithmUnsupported, CorruptContent
from agent.base.scratch import scratch
from agent.repository.compression import decompress, decompress_into
from agent.repository.encryption import IV_SIZE, Cipher
from agent.repository.hashing import Hasher
from agent.repository.ids import NO_PREFIX, ContentId, content_text
from agent.repository.index_entry import IndexEntry
from agent.storage.base import Buffer

S = TypeVar("S", bound=Buffer)
B = TypeVar("B", bound=Buffer)

MAX_CONTENT_LENGTH = (1 << 28) - 1
"""Of plaintext, as indexes of version 2 can hold it."""
MAX_PACKED_LENGTH = 1 << 29
"""Sealed, with error correction at its worst."""

IN_PLACE = 64 << 10
"""Sealed contents from this length on are decrypted where they lie, when they may be overwritten."""

_TO_FILE = 1 << 20
"""Of metadata, the part of a huge directory for one: longer ones are decompressed into nameless files."""


class ContentCodec:
    """Opens sealed contents; any thread may call it."""

    __slots__ = ("_cipher", "_hasher")

    def __init__(self, hasher: Hasher, cipher: Cipher) -> None:
        self._hasher = hasher
        self._cipher = cipher

    def open(self, entry: IndexEntry, sealed: Buffer) -> Buffer:
        """The plaintext of the content that `entry` describes. Raises `CorruptContent`, `AlgorithmUnsupported`."""
        return self.open_all([entry], [sealed])[0]

    def open_all(self, entries: Sequence[IndexEntry], sealed: Sequence[Buffer]) -> list[Buffer]:
        """As `open`, several at once, whose hashes cost less together."""
        data: list[Buffer] = [
            self._unseal(entry, each, self._cipher.open) for entry, each in zip(entries, sealed, strict=True)
        ]
        self._check_hashes(entries, data)
        return data

    def open_all_in_place(self, entries: Sequence[IndexEntry], sealed: Sequence[memoryview]) -> list[Buffer]:
        """As `open_all`; large contents are decrypted where they lie when that is writable, and overwrite it."""
        data = [self._unseal(entry, each, self._open_in_place) for entry, each in zip(entries, sealed, strict=True)]
        self._check_hashes(entries, data)
        return data

    def _open_in_place(self, sealed: memoryview, iv: bytes) -> Buffer:
        if sealed.readonly or len(sealed) < IN_PLACE:
            return self._cipher.open(sealed, iv)
        return self._cipher.open_in_place(sealed, iv)

    @staticmethod
    def _unseal(entry: IndexEntry, sealed: S, cipher: Callable[[S, bytes], B]) -> B | Buffer:
        if entry.key_id:
            raise AlgorithmUnsupported(
                f"{describe(entry)} is sealed with key number {entry.key_id}, which is not known"
            )
        try:
            data = cipher(sealed, entry.content[-IV_SIZE:])
            if entry.compression:
                if entry.original_length < _TO_FILE or entry.content[0] == NO_PREFIX:
                    return decompress(data, entry.original_length, header_id=entry.compression)
                out = memoryview(scratch(entry.original_length))
                return out[: decompress_into(out, data, header_id=entry.compression)]
        except CorruptContent as error:
            raise CorruptContent(f"{describe(entry)} is damaged: {error.message}") from error
        return data

    def matches(self, cid: ContentId, data: Buffer) -> bool:
        """Whether `data` hashes to what the id says."""
        return hmac.compare_digest(self._hasher(data), cid[1:])

    def _check_hashes(self, entries: Sequence[IndexEntry], data: Sequence[Buffer]) -> None:
        for entry, digest in zip(entries, self._hasher.many(data), strict=True):
            if not hmac.compare_digest(digest, entry.content[1:]):
                raise CorruptContent(f"{describe(entry)} decrypts, but to other bytes than its id says")


def describe(entry: IndexEntry) -> str:
    """A content for messages: its id, pack, offset and length."""
    where = f"pack {entry.pack} at {entry.offset}, {entry.packed_length} bytes"
    return f"content {content_text(entry.content)} ({where})"
