"""Reading S2 streams (§4.2, §14.18): Snappy's framing with another identifier, larger blocks and repeated offsets.

No library here reads S2, and only repositories whose policy named an `s2-…` compressor hold any; `compression` calls
this. The checksums inside are not looked at: contents are authenticated before they are decompressed, and hashed
afterwards.
"""

from __future__ import annotations

from agent.base.errors import CorruptContent

_STREAM_IDENTIFIERS = (b"S2sTwO", b"sNaPpY")
_COMPRESSED, _PLAIN, _FIRST_SKIPPABLE, _IDENTIFIER = 0x00, 0x01, 0x80, 0xFF
_MAX_BLOCK = 4 * 1024 * 1024
_CHECKSUM = 4
_MAX_LENGTH_BYTES = 5


def decompress(stream: bytes | memoryview, max_length: int) -> bytes:
    """What an S2 (or Snappy) stream holds. Raises `CorruptContent`, also for more than `max_length` bytes."""
    out = bytearray()
    view = memoryview(stream)
    at = 0
    identified = False
    while at < len(view):
        if len(view) - at < 4:
            raise CorruptContent("an S2 stream ends inside a chunk header")
        kind, length = view[at], int.from_bytes(view[at + 1 : at + 4], "little")
        body = view[at + 4 : at + 4 + length]
        if len(body) != length:
            raise CorruptContent("an S2 stream ends inside a chunk")
        at += 4 + length
        if kind == _IDENTIFIER:
            if bytes(body) not in _STREAM_IDENTIFIERS:
                raise CorruptContent("not an S2 stream: unknown stream identifier")
            identified = True
        elif not identified:
            raise CorruptContent("not an S2 stream: it does not begin with a stream identifier")
        elif kind in (_COMPRESSED, _PLAIN):
            if length < _CHECKSUM:
                raise CorruptContent("an S2 chunk is too short for its checksum")
            room = min(_MAX_BLOCK, max_length - len(out))
            out += _block(bytes(body[_CHECKSUM:]), room) if kind == _COMPRESSED else _plain(body[_CHECKSUM:], room)
        elif kind < _FIRST_SKIPPABLE:
            raise CorruptContent(f"an S2 stream holds a chunk of unknown kind {kind:#04x}")
    return bytes(out)


def _plain(body: memoryview, room: int) -> memoryview:
    if len(body) > room:
        raise CorruptContent("an S2 stream holds more than was recorded for it")
    return body


def _block(block: bytes, room: int) -> bytearray:
    """A compressed block: the length of what it holds, then literals and copies."""
    size, at = _decoded_size(block)
    if size > room:
        raise CorruptContent("an S2 stream holds more than was recorded for it")
    out = bytearray()
    offset = 0
    while at < len(block):
        tag = block[at]
        if tag & 3 == 0:
            at, length = _literal(block, at)
            out += block[at : at + length]
            at += length
            if at > len(block):
                raise CorruptContent("an S2 block ends inside a literal")
        else:
            at, distance, length = _copy(block, at)
            offset = distance or offset
            start = len(out) - offset
            if offset == 0 or start < 0 or length > size - len(out):
                raise CorruptContent("an S2 block copies from or to outside of itself")
            if length <= offset:
                out += out[start : start + length]
            else:
                out += (out[start:] * (length // offset + 1))[:length]
        if len(out) > size:
            raise CorruptContent("an S2 block holds more than it says")
    if len(out) != size:
        raise CorruptContent("an S2 block holds less than it says")
    return out


def _decoded_size(block: bytes) -> tuple[int, int]:
    size = 0
    for at, byte in enumerate(block[:_MAX_LENGTH_BYTES]):
        size |= (byte & 0x7F) << (7 * at)
        if byte < 0x80:
            return size, at + 1
    raise CorruptContent("an S2 block does not say its size")


def _literal(block: bytes, at: int) -> tuple[int, int]:
    """(where the literal begins, its length)."""
    code = block[at] >> 2
    if code < 60:
        return at + 1, code + 1
    extra = code - 59
    return at + 1 + extra, _number(block, at + 1, extra) + 1


def _copy(block: bytes, at: int) -> tuple[int, int, int]:
    """(where the next tag begins, offset or 0 for the last one again, length)."""
    tag = block[at]
    code = tag >> 2
    if tag & 3 == 1:
        distance = (tag & 0xE0) << 3 | _number(block, at + 1, 1)
        code &= 7
        if distance or code < 5:
            return at + 2, distance, code + 4
        extra = code - 4
        return at + 2 + extra, 0, _number(block, at + 2, extra) + (8, 260, 65_540)[extra - 1]
    width = 2 if tag & 3 == 2 else 4
    distance = _number(block, at + 1, width)
    if distance == 0:
        raise CorruptContent("an S2 block copies from nowhere")
    return at + 1 + width, distance, code + 1


def _number(block: bytes, at: int, width: int) -> int:
    if at + width > len(block):
        raise CorruptContent("an S2 block ends inside a tag")
    return int.from_bytes(block[at : at + width], "little")
