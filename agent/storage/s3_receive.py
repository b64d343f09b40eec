"""The body of an answer, straight from its socket into one buffer.

aiohttp copies a body three times before a reader has it in one piece, and wakes the reader for every quarter of a
megabyte; over gigabytes that costs more than decrypting them. So as soon as aiohttp has read the head of an answer, the
connection is given to a protocol of asyncio's buffered kind, until the announced number of bytes is there. Then aiohttp
has it back, for the next request. Whatever goes wrong meanwhile ends the connection, as it does in aiohttp.

A token bucket says when the next piece may come; TCP's own flow control makes the store wait as long.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from agent.base.errors import StorageUnavailable
from agent.storage.pace import TokenBucket

if TYPE_CHECKING:
    from aiohttp import ClientResponse
    from aiohttp.client_proto import ResponseHandler

_PIECE = 1 << 20
_LEAST_BUFFER = 16 << 10
_HELD_BUFFER = 128 << 10
_SO_BUF_LOCK = 72
"""Linux 5.14: whether the size of a buffer was set by hand."""


async def receive(response: ClientResponse, view: memoryview, bucket: TokenBucket, silence: float, what: str) -> None:
    """Fill `view` with a response's body, which is as long. The caller closes the response in any case.

    Raises `StorageUnavailable`, with `what` as the beginning of its message, when the body is longer or shorter or when
    nothing comes for `silence` seconds; and what aiohttp raises.
    """
    length = len(view)
    content = response.content
    early = b"".join(iter(content.read_nowait, b""))
    if len(early) > length:
        raise StorageUnavailable(f"{what}: the answer is longer than the {length} bytes it announced")
    view[: len(early)] = early
    receiver = None
    if not content.is_eof():
        receiver = _take_over(response, view, len(early), silence, what)
    elif len(early) < length:
        raise StorageUnavailable(f"{what}: the answer ended after {len(early)} of {length} bytes")
    position = 0
    while position < length:
        position += await bucket.allow(min(_PIECE, length - position))
        if receiver is not None:
            await receiver.fill(position)
    if receiver is not None:
        receiver.hand_back()
        content.feed_eof()


def _take_over(response: ClientResponse, view: memoryview, position: int, silence: float, what: str) -> _Receiver:
    connection = response.connection
    handler = connection.protocol if connection is not None else None
    transport = handler.transport if handler is not None else None
    if handler is None or transport is None or transport.is_closing():
        raise StorageUnavailable(f"{what}: the connection was lost after {position} of {len(view)} bytes")
    return _Receiver(handler, transport, view, position, silence, what)


class _Receiver(asyncio.BufferedProtocol):
    """Fills a buffer from a connection. It reads nothing ahead: between two fills the transport is paused."""

    def __init__(
        self,
        handler: ResponseHandler,
        transport: asyncio.Transport,
        view: memoryview,
        position: int,
        silence: float,
        what: str,
    ) -> None:
        self._handler = handler
        self._transport = transport
        self._view = view
        self._position = self._end = position
        self._silence = silence
        self._what = what
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._lost = ""
        self._full: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle
        handler.read_timeout = None  # the silence is watched here
        handler.start_timeout()
        transport.pause_reading()
        transport.set_protocol(self)

    async def fill(self, end: int) -> None:
        """Wait until everything before `end` is there."""
        if self._position >= end:
            return
        self._end = end
        self._full = self._loop.create_future()
        self._heard = self._loop.time()
        self._timer = self._loop.call_later(self._silence, self._listen)
        try:
            if self._lost:
                self._fail(self._lost)
            else:
                self._transport.resume_reading()
            await self._full
        finally:
            self._timer.cancel()
            self._full = None

    def hand_back(self) -> None:
        """Give the connection back to aiohttp, still paused."""
        self._transport.set_protocol(self._handler)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self._view[self._position : self._end]

    def buffer_updated(self, nbytes: int) -> None:
        """So many came."""
        self._position += nbytes
        self._heard = self._loop.time()
        if self._position >= self._end:
            self._transport.pause_reading()
            if self._full is not None and not self._full.done():
                self._full.set_result(None)

    def eof_received(self) -> None:
        """The store sends nothing more."""
        self._fail("the answer ended")
        self._handler.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, by whatever side."""
        self._fail(f"the connection was lost: {exc}" if exc else "the answer ended")
        self._handler.connection_lost(exc)

    def _listen(self) -> None:
        """Give up when it has been silent for too long, else look again then."""
        left = self._heard + self._silence - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._listen)
        else:
            self._fail(f"nothing came for {self._silence:g} seconds")

    def _fail(self, reason: str) -> None:
        self._lost = self._lost or reason
        if self._full is not None and not self._full.done():
            where = f"after {self._position} of {len(self._view)} bytes"
            self._full.set_exception(StorageUnavailable(f"{self._what}: {self._lost} {where}"))


def bound_read_ahead(response: ClientResponse, rate: float) -> None:
    """Tell the system to take in only so much ahead of a reader that is held to `rate` bytes a second (0: no limit).

    Else its buffers, which grow to megabytes, would fill at the speed of the wire.
    """
    transport = response.connection.transport if response.connection is not None else None
    raw = transport.get_extra_info("socket") if transport is not None else None
    if raw is None or sys.platform != "linux":
        return
    with suppress(OSError):  # a courtesy: a kernel that refuses it only has larger buffers
        if rate > 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, min(max(int(rate), _LEAST_BUFFER), _HELD_BUFFER))
        elif raw.getsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK):
            raw.setsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK, 0)  # may grow by itself again
