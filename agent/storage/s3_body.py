"""Request bodies made of the caller's buffers.

aiohttp would copy a large body whole, or hand the caller's memory to the transport, which may still send from it after
a canceled request. Here each piece is copied once, while it is hot, right before it is sent. A token bucket says how
large the next piece may be and when.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import zlib
from collections.abc import AsyncIterator, Sequence

from agent.storage.base import Buffer
from agent.storage.pace import TokenBucket

_PIECE = 256 << 10


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
