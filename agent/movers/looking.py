"""Listening to a worker that looks into a repository (`Look`).

The listener makes a Unix socket in a folder of its own and has a worker look; the worker connects and sends one frame
for each of `answers`, and one that says how many they were. Neither side holds more than a few: the worker waits until
what it sent is taken, and the socket is what lies between. Sockets are lost as well as closed, and both look the same
to a reader: only what was counted is whole.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from agent.base.errors import ControlIncomplete, MoverProtocolError, UsageError
from agent.movers.answers import End, Piece, Sent, decoder
from agent.movers.protocol import Channel
from agent.movers.runner import RunningWork, WorkRunner
from agent.movers.spec import JobSpec, Look, Secrets


class Looking(msgspec.Struct, frozen=True):
    """Somebody who looks, and a worker that does it."""

    channel: Channel[Sent]
    running: RunningWork

    async def answers(self) -> AsyncGenerator[Sent, None]:
        """As they come; at last, when they are all there and the worker is content, their `End`.

        Raises what the worker reported, after what it had sent before, and `ControlIncomplete`.
        """
        count = size = 0
        while (sent := await self.channel.receive()) is not None:
            if isinstance(sent, End):
                break
            count += 1
            size += len(sent.data) if isinstance(sent, Piece) else 0
            yield sent
        await self.running.result()
        if sent is None or (sent.answers, sent.size) != (count, size):
            told = "no number of them" if sent is None else f"{sent.answers} answers and {sent.size} bytes"
            raise ControlIncomplete(
                f"{count} answers and {size} bytes of a file came from the worker, and it says that it sent {told}",
                hint="ask again",
            )
        yield sent


@asynccontextmanager
async def looking(runner: WorkRunner, spec: JobSpec, secrets: Secrets, folder: Path) -> AsyncIterator[Looking]:
    """Have a worker look for the time of the block. `folder` is where the socket may be made.

    `spec` is one whose work is a `Look`; the listener is put in here. Raises what comes of a worker that cannot begin.
    """
    if not isinstance(spec.work, Look):
        raise UsageError(f"a {type(spec.work).__name__} is not about looking")
    with tempfile.TemporaryDirectory(prefix="look-", dir=folder) as name:  # for its owner only
        connected: asyncio.Future[Channel[Sent]] = asyncio.get_running_loop().create_future()

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if connected.done():
                writer.close()
            else:
                connected.set_result(Channel(reader, writer, decoder))

        path = f"{name}/socket"
        server = await asyncio.start_unix_server(take, path)
        try:
            work = msgspec.structs.replace(spec.work, listener=path)
            async with runner.job(msgspec.structs.replace(spec, work=work), secrets) as running:
                channel = await _first(connected, running)
                try:
                    yield Looking(channel, running)
                finally:
                    await channel.close()
        finally:
            server.close()


async def _first(connected: asyncio.Future[Channel[Sent]], running: RunningWork) -> Channel[Sent]:
    """The connection, or what kept the worker from making it."""
    ended = asyncio.ensure_future(running.result())
    try:
        either: list[asyncio.Future[Any]] = [connected, ended]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if connected.done():
            return connected.result()
        await ended
        raise MoverProtocolError("the worker ended without an answer")
    finally:
        ended.cancel()
        await asyncio.gather(ended, return_exceptions=True)
