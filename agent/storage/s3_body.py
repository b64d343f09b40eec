"""Request bodies made of the caller's buffers, and responses read into one.

aiohttp would copy a large body whole, or hand the caller's memory to the transport, which may still send from it after
a canceled request. Here each piece is copied once, while it is hot, right before it is sent. A token bucket says how
large the next piece may be and when; where it makes an answer wait, TCP's own flow control makes the store wait.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
import sys
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Protocol

from agent.base.errors import StorageUnavailable
from agent.storage.base import Buffer
from agent.storage.pace import TokenBucket

_PIECE = 256 << 10
_LEAST_BUFFER = 16 << 10
_HELD_BUFFER = 128 << 10
_SO_BUF_LOCK = 72
"""Linux 5.14: whether the size of a buffer was set by hand."""


class ResponseReader(Protocol):
    """aiohttp's stream of a response."""

    async def read(self, n: int = -1) -> bytes:
        """Up to `n` bytes as they come, none at the end."""
        ...


class SocketHolder(Protocol):
    """aiohttp's connection of a response."""

    @property
    def transport(self) -> asyncio.BaseTransport | None:
        """Its transport, as long as there is one."""
        ...


class PiecewiseBody:
    """A body for botocore (file-like: `read`, `seek`, `tell`) and aiohttp (async iterable) over several buffers."""

    def __init__(self, data: Sequence[Buffer], bucket: TokenBucket) -> None:
        self._bucket = bucket
        self._views = [view for buffer in data if (view := memoryview(buffer))]
        self._length = sum(map(len, self._views))
        self._position = 0

    def __len__(self) -> int:
        return self._length

    def __bool__(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes from the position on; botocore's signer reads so."""
        end = self._length if size < 0 else min(self._position + size, self._length)
        data = b"".join(self.slice(self._position, end))
        self._position = end
        return data

    def seek(self, position: int) -> int:
        """Set the position."""
        self._position = position
        return position

    def tell(self) -> int:
        """The position."""
        return self._position

    def slice(self, start: int, end: int) -> list[memoryview]:
        """The caller's memory from `start` to `end`, without copies."""
        parts = []
        for view in self._views:
            if start < len(view) and end > 0:
                parts.append(view[max(start, 0) : end])
            start -= len(view)
            end -= len(view)
        return parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for view in self._views:
            start = 0
            while start < len(view):
                end = start + await self._bucket.allow(min(_PIECE, len(view) - start))
                yield bytes(view[start:end])
                start = end


def checksum_option(algorithm: str) -> str:
    """The client's option that carries a digest of `algorithm`."""
    return "ContentMD5" if algorithm == "MD5" else "Checksum" + algorithm


async def digest(algorithm: str, data: Sequence[Buffer]) -> str:
    """Base64 of the checksum as S3 headers carry it, computed in a thread. `algorithm` is one of `CHECKSUMS`."""
    return await asyncio.to_thread(_digest, algorithm, data)


def _digest(algorithm: str, data: Sequence[Buffer]) -> str:
    if algorithm == "CRC32":
        crc = 0
        for buffer in data:
            crc = zlib.crc32(buffer, crc)
        return base64.b64encode(crc.to_bytes(4, "big")).decode()
    if algorithm == "CRC32C":
        from awscrt.checksums import crc32c  # noqa: PLC0415  # optional; `S3Config` has checked that it is there

        crc = 0
        for buffer in data:
            crc = crc32c(bytes(buffer), crc)
        return base64.b64encode(crc.to_bytes(4, "big")).decode()
    hasher = hashlib.new(algorithm, usedforsecurity=False)
    for buffer in data:
        hasher.update(buffer)
    return base64.b64encode(hasher.digest()).decode()


def bound_read_ahead(connection: SocketHolder | None, rate: float) -> None:
    """Tell the system to take in only so much ahead of a reader that is held to `rate` bytes a second (0: no limit).

    Else its buffers, which grow to megabytes, would fill at the speed of the wire.
    """
    transport = connection.transport if connection is not None else None
    raw = transport.get_extra_info("socket") if transport is not None else None
    if raw is None or sys.platform != "linux":
        return
    with suppress(OSError):  # a courtesy: a kernel that refuses it only has larger buffers
        if rate > 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, min(max(int(rate), _LEAST_BUFFER), _HELD_BUFFER))
        elif raw.getsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK):
            raw.setsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK, 0)  # may grow by itself again


async def read_exactly(reader: ResponseReader, length: int, bucket: TokenBucket, what: str) -> bytearray:
    """`length` bytes of a response in one buffer. Raises `StorageUnavailable` when it holds more or fewer."""
    data = bytearray(length)
    position = 0
    while position < length:
        granted = await bucket.allow(min(_PIECE, length - position))
        chunk = await reader.read(granted)
        bucket.give_back(granted - len(chunk))
        if not chunk:
            raise StorageUnavailable(f"{what}: the answer ended after {position} of {length} bytes")
        data[position : position + len(chunk)] = chunk
        position += len(chunk)
    if await reader.read(1):
        raise StorageUnavailable(f"{what}: the answer is longer than the {length} bytes it announced")
    return data
