"""Where a content lies: one row of an index.

Rows come out of index blobs (`index_read`) and out of packs being written; they go into `index_build`. Several
indexes may know the same content; `winner` says which row counts.
"""

from __future__ import annotations

import msgspec

from agent.repository.ids import ContentId
from agent.storage.base import BlobId


class IndexEntry(msgspec.Struct, frozen=True):
    """A content's place in a pack (§4.5, §4.6)."""

    content: ContentId
    pack: BlobId
    offset: int
    """Bytes from the start of the pack blob; the content's nonce is there."""
    packed_length: int
    """Bytes in the pack: nonce, ciphertext and tag."""
    original_length: int
    """Bytes of the plaintext, decompressed. Version 1 stores none: there it is the packed length less the overhead."""
    time_s: int
    """Unix seconds; decides between rows of the same content."""
    deleted: bool = False
    compression: int = 0
    """Compression header id (§4.2), 0 for none."""
    format_version: int = 3
    key_id: int = 0


def winner(a: IndexEntry, b: IndexEntry) -> IndexEntry:
    """Of two rows of one content the one that counts: later, else not deleted, else by pack name (§4.8)."""
    return a if (a.time_s, not a.deleted, a.pack) >= (b.time_s, not b.deleted, b.pack) else b


def next_time(now_s: int, old: IndexEntry | None) -> int:
    """The time of a new row for a content that `old`, if any, was the row of: so that the new row wins (§4.8)."""
    return now_s if old is None else max(now_s, old.time_s + 1)
