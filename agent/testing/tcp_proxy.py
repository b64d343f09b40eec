"""A TCP proxy on loopback that damages what passes: cuts, stalls, corrupts. For tests of real clients and servers."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Self

import msgspec

_SEND_BUFFER = 64 << 10


class TcpFaults(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to each new connection; -1: nothing. Positions are bytes of one direction."""

    cut_up_after: int = -1
    """Close both sides once so much went to the server."""
    cut_down_after: int = -1
    """Close both sides once so much went to the client."""
    stall_down_after: int = -1
    """Pass nothing more to the client, but keep the connection."""
    corrupt_down_at: int = -1
    """Flip the bits of one byte on its way to the client."""
    connections: int = -1
    """How many connections are hit, all if negative; later ones pass unharmed."""


class TcpProxy:
    """Async context manager: listens on a free port of `host` and passes everything on to `target_port` of loopback."""

    def __init__(
        self,
        target_port: int,
        faults: TcpFaults | None = None,
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        listen_up: Callable[[], Callable[[bytes], None]] | None = None,
    ) -> None:
        """`listen_up` makes, for each connection, what is given all bytes before they go to the server."""
        self._target_port = target_port
        self._host = host
        self._tls = tls
        self._listen_up = listen_up
        self.faults = faults or TcpFaults()
        self.connections = 0
        """Accepted so far."""
        self.bytes_up = 0
        """Taken from clients so far."""
        self.bytes_down = 0
        """Handed to the operating system for clients so far; its buffer is kept small."""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> str:
        """`http://HOST:PORT`, or `https`, when it was given `tls` for its clients."""
        return f"http{'s' if self._tls else ''}://{self._host}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self._host, 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self.connections += 1
        faults = (
            self.faults if self.faults.connections < 0 or self.connections <= self.faults.connections else TcpFaults()
        )
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        client: socket.socket | None = writer.get_extra_info("socket")
        if client is None:  # gone already
            up_writer.transport.abort()
            return
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        writer.transport.set_write_buffer_limits(high=1, low=0)  # 0 would pause TLS for ever
        directions = (
            asyncio.ensure_future(
                _pump(
                    reader,
                    up_writer,
                    self._count_up,
                    cut=faults.cut_up_after,
                    hear=self._listen_up and self._listen_up(),
                )
            ),
            asyncio.ensure_future(
                _pump(
                    up_reader,
                    writer,
                    self._count_down,
                    cut=faults.cut_down_after,
                    stall=faults.stall_down_after,
                    corrupt=faults.corrupt_down_at,
                )
            ),
        )
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            writer.transport.abort()
            up_writer.transport.abort()

    def _count_up(self, count: int) -> None:
        self.bytes_up += count

    def _count_down(self, count: int) -> None:
        self.bytes_down += count


async def _pump(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    passed: Callable[[int], None],
    *,
    cut: int,
    stall: int = -1,
    corrupt: int = -1,
    hear: Callable[[bytes], None] | None = None,
) -> None:
    position = 0
    while data := await reader.read(65536):
        if hear:
            hear(data)
        end = position + len(data)
        if position <= corrupt < end:
            i = corrupt - position
            data = data[:i] + bytes([data[i] ^ 0xFF]) + data[i + 1 :]
        if 0 <= stall < end:
            writer.write(data[: stall - position])
            await asyncio.Event().wait()
        if 0 <= cut < end:
            writer.write(data[: cut - position])
            await writer.drain()
            return
        writer.write(data)
        await writer.drain()
        passed(len(data))
        position = end
