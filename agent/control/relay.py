"""Bytes between two ends that gRPC does not reach by itself: the far end of a tunnel, and what both ends share."""

from __future__ import annotations

import asyncio
import sys

from agent.base.errors import ControlUnreachable
from agent.kube.wait import either

CHUNK = 1 << 16


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes one way, no faster than they are taken."""
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()


async def relay(socket: str) -> None:
    """Standard input to the control socket of this pod's agent, and what it says to standard output.

    Raises `ControlUnreachable`.
    """
    loop = asyncio.get_running_loop()
    try:
        reader, writer = await asyncio.open_unix_connection(socket)
    except OSError as error:
        raise ControlUnreachable(
            f"no agent listens at {socket}: {error.strerror or error}", hint="see --control-socket of the agent"
        ) from error
    incoming = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(incoming), sys.stdin.buffer)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout.buffer)
    outgoing = asyncio.StreamWriter(transport, protocol, None, loop)
    try:
        await either(carry(incoming, writer), carry(reader, outgoing))
        await outgoing.drain()
    finally:
        writer.close()
        outgoing.close()
