"""Write sessions: their ids, and the markers that protect what they have not committed yet.

A session is what one flush commits (§1.1, §8.6, §14.5). Its id is part of the name of every pack and index blob that it
writes, and its marker blob keeps maintenance from taking packs that no index names yet for orphans. Maintenance of
any client decrypts and parses every marker, so what is written here has to be exactly right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NewType

import msgspec

from agent.base.errors import CorruptBlob
from agent.base.times import NANOSECONDS, format_rfc3339, parse_rfc3339
from agent.repository import gojson
from agent.storage.base import BlobId, Buffer

SessionId = NewType("SessionId", str)

MARKER_PREFIX = "s"
_SEPARATOR = "-"
_RANDOM_LENGTH = 8
_EPOCH_START_S = 946_684_800
_EPOCH_LENGTH_S = 30 * 24 * 3600


def session_epoch(unix_s: int) -> str:
    """The number of 30-day periods since 2000 in hex, which ends every session id."""
    return f"{max(0, unix_s - _EPOCH_START_S) // _EPOCH_LENGTH_S:x}"


def new_session_id(now_ns: int, random: Callable[[int], bytes]) -> SessionId:
    """A fresh session id; `random(n)` gives n random bytes."""
    return SessionId(f"{MARKER_PREFIX}{random(_RANDOM_LENGTH).hex()}{session_epoch(now_ns // NANOSECONDS)}")


def session_of_blob(blob_id: BlobId) -> SessionId | None:
    """The session that wrote a pack, index blob or marker: the first part after the first `-` that starts with `s`."""
    for part in blob_id.split(_SEPARATOR)[1:]:
        if part.startswith(MARKER_PREFIX):
            return SessionId(part)
    return None


class SessionMarker(msgspec.Struct, frozen=True):
    """The plaintext of a marker blob, which is sealed under prefix `s` with the session id as suffix."""

    id: SessionId
    start_ns: int
    """Unix nanoseconds."""
    checkpoint_ns: int
    """When the session was last known to live; 96 hours later its packs lose their protection."""
    username: str
    hostname: str


class _MarkerJson(msgspec.Struct, frozen=True, rename="camel"):
    id: str
    start_time: str
    checkpoint_time: str
    username: str = ""
    hostname: str = ""


_DECODER = msgspec.json.Decoder(_MarkerJson)


def encode_marker(marker: SessionMarker) -> bytes:
    """The JSON of a marker as kopia writes it."""
    return gojson.encode(
        _MarkerJson(
            marker.id,
            format_rfc3339(marker.start_ns),
            format_rfc3339(marker.checkpoint_ns),
            marker.username,
            marker.hostname,
        )
    )


def parse_marker(plaintext: Buffer, blob_id: BlobId) -> SessionMarker:
    """A marker from its decrypted JSON. Raises `CorruptBlob`."""
    parsed = gojson.decode(_DECODER, plaintext, f"session marker {blob_id}", CorruptBlob)
    try:
        return SessionMarker(
            SessionId(parsed.id),
            parse_rfc3339(parsed.start_time),
            parse_rfc3339(parsed.checkpoint_time),
            parsed.username,
            parsed.hostname,
        )
    except ValueError as error:
        raise CorruptBlob(f"session marker {blob_id} holds a time that is none: {error}") from error
