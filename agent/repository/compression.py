"""Compressed bodies: a header id and a compressor's stream (§4.2).

Everything that any release of kopia wrote is read. Written are the zstd and DEFLATE families; any encoder of a format
will do, so a name says what is wanted of it, not whose code it is. Decompression never yields more than the caller
expects.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Protocol

import msgspec
import pyzstd

from agent.base.errors import AlgorithmUnsupported, CorruptContent
from agent.repository import s2
from agent.storage.base import Buffer

NO_COMPRESSION = 0
ZSTD_FASTEST = 0x1101
"""What metadata is compressed with unless a policy says otherwise."""
HEADER_SIZE = 4

_FIRST_FEED = 4096
_MAX_FEED = 1024 * 1024
_SMALL_FEED = 32 * 1024


class _Family(Enum):
    GZIP = "gzip"
    ZSTD = "zstd"
    S2 = "s2"
    LZ4 = "lz4"
    DEFLATE = "deflate"


class _Compressor(msgspec.Struct, frozen=True):
    name: str
    family: _Family
    level: int = 0


_COMPRESSORS: Mapping[int, _Compressor] = MappingProxyType(
    {
        0x1000: _Compressor("gzip", _Family.GZIP, 6),
        0x1001: _Compressor("gzip-best-speed", _Family.GZIP, 1),
        0x1002: _Compressor("gzip-best-compression", _Family.GZIP, 9),
        0x1100: _Compressor("zstd", _Family.ZSTD, 3),
        0x1101: _Compressor("zstd-fastest", _Family.ZSTD, 1),
        0x1102: _Compressor("zstd-better-compression", _Family.ZSTD, 7),
        0x1103: _Compressor("zstd-best-compression", _Family.ZSTD, 11),
        0x1200: _Compressor("s2-default", _Family.S2),
        0x1201: _Compressor("s2-better", _Family.S2),
        0x1202: _Compressor("s2-parallel-4", _Family.S2),
        0x1203: _Compressor("s2-parallel-8", _Family.S2),
        0x1300: _Compressor("pgzip", _Family.GZIP, 6),
        0x1301: _Compressor("pgzip-best-speed", _Family.GZIP, 1),
        0x1302: _Compressor("pgzip-best-compression", _Family.GZIP, 9),
        0x1400: _Compressor("lz4", _Family.LZ4),
        0x1500: _Compressor("deflate-default", _Family.DEFLATE, 6),
        0x1501: _Compressor("deflate-best-speed", _Family.DEFLATE, 1),
        0x1502: _Compressor("deflate-best-compression", _Family.DEFLATE, 9),
    }
)
_IDS = MappingProxyType({compressor.name: header_id for header_id, compressor in _COMPRESSORS.items()})
COMPRESSOR_NAMES = tuple(_IDS)
_GZIP_WINDOW, _RAW_WINDOW = 31, -15


def header_id_of(name: str) -> int:
    """The header id of a compressor's name; 0 for `none` and the empty name. Raises `AlgorithmUnsupported`."""
    if name in {"", "none"}:
        return NO_COMPRESSION
    header_id = _IDS.get(name)
    if header_id is None:
        raise AlgorithmUnsupported(f"there is no compressor {name[:80]!r}", hint=f"known are {', '.join(_IDS)}")
    return header_id


def compressor_name(header_id: int) -> str:
    """The name of a header id; `none` for 0. Raises `AlgorithmUnsupported`."""
    return _compressor(header_id).name if header_id else "none"


def compress(header_id: int, data: Buffer) -> bytes:
    """`data` compressed, with its header. Raises `AlgorithmUnsupported` for what is only read: lz4 and s2."""
    compressor = _compressor(header_id)
    header = header_id.to_bytes(HEADER_SIZE, "big")
    match compressor.family:
        case _Family.ZSTD:
            return header + pyzstd.compress(data, compressor.level)
        case _Family.GZIP:
            return header + zlib.compress(data, compressor.level, _GZIP_WINDOW)
        case _Family.DEFLATE:
            return header + zlib.compress(data, compressor.level, _RAW_WINDOW)
        case _:
            raise AlgorithmUnsupported(
                f"writing with the compressor {compressor.name} is not supported, only reading",
                hint="choose zstd, zstd-fastest or zstd-better-compression in the policy",
            )


def compress_if_smaller(header_id: int, data: Buffer) -> tuple[Buffer, int]:
    """A content's body and the header id to record: `data` itself and 0 unless compressing saves bytes."""
    if header_id == NO_COMPRESSION:
        return data, NO_COMPRESSION
    body = compress(header_id, data)
    return (body, header_id) if len(body) < len(data) else (data, NO_COMPRESSION)


def decompress(data: Buffer, max_length: int, *, header_id: int | None = None) -> bytes:
    """The plaintext of a compressed body.

    `header_id` is the one on record, where there is one. Raises `CorruptContent` when the header is another one, the
    stream is damaged or cut short, or holds more than `max_length` bytes; `AlgorithmUnsupported` for an unknown header.
    """
    pieces = list(_pieces(data, max_length, header_id, _MAX_FEED))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def decompress_into(out: memoryview, data: Buffer, *, header_id: int | None = None) -> int:
    """As `decompress`, to the start of `out` and with little memory besides; the length of the plaintext."""
    end = 0
    for piece in _pieces(data, len(out), header_id, _SMALL_FEED):
        start, end = end, end + len(piece)
        out[start:end] = piece
    return end


def _pieces(data: Buffer, max_length: int, header_id: int | None, max_feed: int) -> Iterator[bytes]:
    view = memoryview(data)
    found = int.from_bytes(view[:HEADER_SIZE], "big")
    if len(view) < HEADER_SIZE or header_id not in {None, found}:
        raise CorruptContent(f"a compressed content begins with header {found:#x}, expected {header_id or 0:#x}")
    compressor = _compressor(found)
    stream = view[HEADER_SIZE:]
    match compressor.family:
        case _Family.ZSTD:
            yield from _frames(pyzstd.ZstdDecompressor, stream, max_length, max_feed, compressor.name)
        case _Family.GZIP:
            yield from _frames(lambda: zlib.decompressobj(_GZIP_WINDOW), stream, max_length, max_feed, compressor.name)
        case _Family.DEFLATE:
            yield from _frames(lambda: zlib.decompressobj(_RAW_WINDOW), stream, max_length, max_feed, compressor.name)
        case _Family.LZ4:
            import lz4.frame  # noqa: PLC0415  # slow to import, and seldom met

            yield from _frames(lz4.frame.LZ4FrameDecompressor, stream, max_length, max_feed, compressor.name)
        case _Family.S2:
            yield s2.decompress(stream, max_length)


def _compressor(header_id: int) -> _Compressor:
    compressor = _COMPRESSORS.get(header_id)
    if compressor is None:
        raise AlgorithmUnsupported(f"a content is compressed with the unknown compressor {header_id:#x}")
    return compressor


class _Decompressor(Protocol):
    """What the libraries' decompressors of one frame have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes | None: ...
    def decompress(self, data: Buffer, max_length: int) -> bytes: ...


def _frames(
    new: Callable[[], _Decompressor], stream: memoryview, max_length: int, max_feed: int, name: str
) -> Iterator[bytes]:
    """All frames (members) of a stream. Each is fed in growing pieces, so that many tiny ones cost no more than few."""
    room = max_length
    at = 0
    while at < len(stream):
        frame = new()
        feed = _FIRST_FEED
        while not frame.eof:
            if at >= len(stream):
                raise CorruptContent(f"a content compressed with {name} is cut short")
            fed = stream[at : at + feed]
            try:
                piece = frame.decompress(fed, room + 1)
            except (zlib.error, pyzstd.ZstdError, RuntimeError, EOFError) as error:
                raise CorruptContent(f"a content compressed with {name} does not decompress: {error}") from error
            room -= len(piece)
            if room < 0:
                raise CorruptContent(
                    f"a content compressed with {name} holds more than the {max_length} bytes on record"
                )
            yield piece
            at += len(fed)
            feed = min(feed * 2, max_feed)
        at -= len(frame.unused_data or b"")
