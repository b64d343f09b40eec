"""The layout of a pack blob (§4.3, §4.4) and the copies of the format blob in it (§2.8).

    [recovery block] preamble  sealed contents…  padding  sealed local index  postamble

Pure functions over bytes: the content writer lays packs out with them, the repair of lost indexes reads packs
backwards with them. Normal reads never look at any of this; they go by index entries alone.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib
from collections.abc import Callable

import msgspec

from agent.base.errors import CorruptBlob, CorruptFormat
from agent.repository.session import SessionId
from agent.storage.base import BlobId, Buffer

DATA_PREFIX = "p"
METADATA_PREFIX = "q"
PREAMBLE_LENGTH = 32
PADDING_UNIT = 4096
TAIL_LENGTH = 8192
"""The postamble, and usually the local index, lie within this many bytes of a pack's end."""
RECOVERY_CHUNK_LENGTH = 65536
"""A recovery block lies within this many bytes of a blob's start or end."""

_MAX_RECOVERY_LENGTH = 65000
_RECOVERY_KEY = b"kopia-repository"
_CHECKSUM_LENGTH = 32
_LENGTH_LENGTH = 2
_MAX_POSTAMBLE = 255
_MIN_POSTAMBLE = 5
_MAX_VARINT_SHIFT = 63
_RANDOM_NAME_LENGTH = 16
_VERSION = 1


def pack_prefix(content_prefix: int) -> str:
    """The letter of the packs that hold contents with this prefix byte: `q` when there is one, else `p`."""
    return METADATA_PREFIX if content_prefix else DATA_PREFIX


def new_pack_id(prefix: str, session: SessionId, random: Callable[[int], bytes]) -> BlobId:
    """A fresh pack name; `random(n)` gives n random bytes."""
    return BlobId(f"{prefix}{random(_RANDOM_NAME_LENGTH).hex()}-{session}")


def padding_length(length: int) -> int:
    """How many random bytes follow the contents of a pack of `length` bytes so far: 1 to 4096, never none."""
    return PADDING_UNIT - length % PADDING_UNIT


class Postamble(msgspec.Struct, frozen=True):
    """Where a pack says that its sealed local index is. Not authenticated: only a hint for recovery."""

    iv: bytes
    """The full hash of the plaintext local index."""
    offset: int
    length: int


def encode_postamble(postamble: Postamble) -> bytes:
    """The last bytes of a pack."""
    body = b"".join(
        (
            _uvarint(_VERSION),
            _uvarint(len(postamble.iv)),
            postamble.iv,
            _uvarint(postamble.offset),
            _uvarint(postamble.length),
        )
    )
    body += zlib.crc32(body).to_bytes(4)
    if len(body) > _MAX_POSTAMBLE:
        raise CorruptBlob(f"a local index with an initialisation vector of {len(postamble.iv)} bytes cannot be located")
    return body + bytes((len(body),))


def find_postamble(tail: Buffer) -> Postamble | None:
    """The postamble that ends `tail`, the last bytes of a pack; None when there is no valid one."""
    view = memoryview(tail)
    length = view[-1] if view else 0
    if length < _MIN_POSTAMBLE or length >= len(view):
        return None
    body = bytes(view[-1 - length : -1])
    payload, checksum = body[:-4], body[-4:]
    if zlib.crc32(payload).to_bytes(4) != checksum:
        return None
    try:
        version, position = _read_uvarint(payload, 0)
        iv_length, position = _read_uvarint(payload, position)
        iv, position = payload[position : position + iv_length], position + iv_length
        offset, position = _read_uvarint(payload, position)
        index_length, position = _read_uvarint(payload, position)
    except ValueError:
        return None
    if version != _VERSION:
        return None
    return Postamble(iv, offset, index_length)


def encode_recovery_block(format_blob: bytes) -> bytes:
    """The copy of the format blob that starts every pack when the password cannot be changed (§2.8, §13.1)."""
    length = len(format_blob) + _CHECKSUM_LENGTH
    if length > _MAX_RECOVERY_LENGTH:
        raise CorruptFormat(f"a format blob of {len(format_blob)} bytes is too long to be copied into packs")
    marker = length.to_bytes(_LENGTH_LENGTH, "little")
    return marker + format_blob + hmac.digest(_RECOVERY_KEY, format_blob, hashlib.sha256) + marker


def find_recovery_block(head: Buffer, tail: Buffer) -> bytes | None:
    """The format blob that a pack carries at its start or end; None when it carries none.

    `head` and `tail` are the first and last `RECOVERY_CHUNK_LENGTH` bytes of the pack, or all of it.
    """
    start, end = memoryview(head), memoryview(tail)
    length = int.from_bytes(start[:_LENGTH_LENGTH], "little")
    found = _checked(start[_LENGTH_LENGTH : _LENGTH_LENGTH + length], length)
    if found is None:
        length = int.from_bytes(end[-_LENGTH_LENGTH:], "little")
        stop = len(end) - _LENGTH_LENGTH
        found = _checked(end[max(0, stop - length) : max(0, stop)], length)
    return found


def _checked(block: memoryview, length: int) -> bytes | None:
    if len(block) != length or not _CHECKSUM_LENGTH < length <= _MAX_RECOVERY_LENGTH:
        return None
    body, checksum = bytes(block[:-_CHECKSUM_LENGTH]), bytes(block[-_CHECKSUM_LENGTH:])
    return body if hmac.compare_digest(hmac.digest(_RECOVERY_KEY, body, hashlib.sha256), checksum) else None


def _uvarint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_uvarint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > _MAX_VARINT_SHIFT:
            raise ValueError("not a varint")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
