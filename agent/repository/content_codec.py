"""From sealed bytes in a pack to a verified content: decrypt, decompress, hash (§3.2, §4.2).

Everything that leaves a pack goes through `ContentCodec.open`, so nobody ever sees bytes that are not what their id
says. Kopia stops at decryption; the hash costs a little more and also finds what was damaged before it was sealed.
"""

from __future__ import annotations

import hmac

from agent.base.errors import AlgorithmUnsupported, CorruptContent
from agent.repository.compression import decompress
from agent.repository.encryption import IV_SIZE, Cipher
from agent.repository.hashing import Hasher
from agent.repository.ids import ContentId, content_text
from agent.repository.index_entry import IndexEntry
from agent.storage.base import Buffer

MAX_CONTENT_LENGTH = (1 << 28) - 1
"""Of plaintext, as indexes of version 2 can hold it."""
MAX_PACKED_LENGTH = 1 << 29
"""Sealed, with error correction at its worst."""

IN_PLACE = 64 << 10
"""Sealed contents from this length on are decrypted where they lie, when they may be overwritten."""


class ContentCodec:
    """Opens sealed contents; any thread may call it."""

    __slots__ = ("_cipher", "_hasher")

    def __init__(self, hasher: Hasher, cipher: Cipher) -> None:
        self._hasher = hasher
        self._cipher = cipher

    def open(self, entry: IndexEntry, sealed: Buffer) -> bytes:
        """The plaintext of the content that `entry` describes. Raises `CorruptContent`, `AlgorithmUnsupported`."""
        _check_key(entry)
        try:
            data = self._cipher.open(sealed, entry.content[-IV_SIZE:])
            if entry.compression:
                data = decompress(data, entry.original_length, header_id=entry.compression)
        except CorruptContent as error:
            raise _damaged(entry, error) from error
        self._check_hash(entry, data)
        return data

    def open_in_place(self, entry: IndexEntry, sealed: memoryview) -> Buffer:
        """As `open`; a large content is decrypted where it lies when `sealed` is writable, and overwrites it."""
        if sealed.readonly or entry.packed_length < IN_PLACE:
            return self.open(entry, sealed)
        _check_key(entry)
        try:
            data = self._cipher.open_in_place(sealed, entry.content[-IV_SIZE:])
            if entry.compression:
                data = decompress(data, entry.original_length, header_id=entry.compression)
        except CorruptContent as error:
            raise _damaged(entry, error) from error
        self._check_hash(entry, data)
        return data

    def matches(self, cid: ContentId, data: Buffer) -> bool:
        """Whether `data` hashes to what the id says."""
        return hmac.compare_digest(self._hasher(data), cid[1:])

    def _check_hash(self, entry: IndexEntry, data: Buffer) -> None:
        if not self.matches(entry.content, data):
            raise CorruptContent(f"{describe(entry)} decrypts, but to other bytes than its id says")


def _check_key(entry: IndexEntry) -> None:
    if entry.key_id:
        raise AlgorithmUnsupported(f"{describe(entry)} is sealed with key number {entry.key_id}, which is not known")


def _damaged(entry: IndexEntry, error: CorruptContent) -> CorruptContent:
    return CorruptContent(f"{describe(entry)} is damaged: {error.message}")


def describe(entry: IndexEntry) -> str:
    """A content for messages: its id, pack, offset and length."""
    where = f"pack {entry.pack} at {entry.offset}, {entry.packed_length} bytes"
    return f"content {content_text(entry.content)} ({where})"
