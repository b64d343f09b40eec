"""Names of things in a repository: contents, objects, manifests.

A content id is kept as its *index key*: one prefix byte (0x00 for none, else an ASCII letter `g`..`z`) and the raw
hash. That is the form that indexes are sorted by, so look-ups and sorting need no conversion. Its text form
(§4.1) appears in object ids and messages only. Object ids (§6.1) are text, as they stand in directory entries.
"""

from __future__ import annotations

import re
from typing import NewType

import msgspec

from agent.base.errors import CorruptObject

ContentId = NewType("ContentId", bytes)
"""Index key: prefix byte || hash (16, 28 or 32 bytes)."""

ObjectId = NewType("ObjectId", str)
ManifestId = NewType("ManifestId", str)

NO_PREFIX = 0
_HEX = re.compile(r"([g-z]?)((?:[0-9a-fA-F]{2})+)\Z", re.ASCII)
_MAX_HASH = 32


def content_id(prefix: int, digest: bytes) -> ContentId:
    """The content id of a hash; `prefix` is `NO_PREFIX` or the code of a letter."""
    return ContentId(bytes((prefix,)) + digest)


def content_text(cid: ContentId) -> str:
    """The text form: optional prefix letter and lower-case hex."""
    return (chr(cid[0]) if cid[0] else "") + cid[1:].hex()


def parse_content_id(text: str) -> ContentId:
    """The content id of a text form, hex in either case. Raises `CorruptObject`.

    The empty text is the empty id, a prefix byte alone: a legal name that no content has (§13.5).
    """
    if not text:
        return ContentId(b"\0")
    match = _HEX.match(text)
    if match is None or len(match[2]) > 2 * _MAX_HASH:
        raise CorruptObject(f"not a content id: {text[:80]!r}")
    return ContentId((match[1].encode() or b"\0") + bytes.fromhex(match[2]))


class ParsedObjectId(msgspec.Struct, frozen=True):
    """An object id taken apart."""

    indirection: int
    """How many lists lie above the data."""
    compressed: bool
    """The content's plaintext is an object-level compressed stream (`Z`)."""
    content: ContentId


def parse_object_id(text: str) -> ParsedObjectId:
    """Take `I`* [`Z`] [`D`] contentID apart (§6.1, §13.5). Raises `CorruptObject`."""
    rest = text.lstrip("I")
    indirection = len(text) - len(rest)
    compressed = rest.startswith("Z")
    if compressed:
        if indirection:
            raise CorruptObject(f"not an object id: {text[:80]!r}")
        rest = rest[1:]
    rest = rest.removeprefix("D")
    try:
        return ParsedObjectId(indirection, compressed, parse_content_id(rest))
    except CorruptObject as error:
        raise CorruptObject(f"not an object id: {text[:80]!r}") from error
