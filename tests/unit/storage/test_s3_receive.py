"""Bodies of answers from a server on loopback that sends what a test says, when it says so."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
import uvloop

from agent.base.errors import StorageUnavailable
from agent.storage.pace import TokenBucket
from agent.storage.s3_receive import receive
from agent.testing.clock import VirtualClock

Send = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers each request by `send`, which has everything after the request to itself."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await self._send(reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def asking(send: Send) -> AsyncIterator[tuple[Callable[[], Awaitable[aiohttp.ClientResponse]], Server]]:
    """What makes one request each time it is called, over as few connections as possible."""
    server = Server(send)
    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield lambda: session.get(url), server
    listening.close()


async def read(response: aiohttp.ClientResponse, length: int, silence: float = 30.0) -> bytes:
    data = bytearray(length)
    try:
        await receive(response, memoryview(data), TokenBucket(0, VirtualClock()), silence, "cannot read")
        return bytes(data)
    finally:
        response.close()


def head(length: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length


@pytest.fixture(params=["asyncio", "uvloop"])
def in_loop(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs a test in each of the two loops that the agent runs in."""

    def run(test: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(60):
                await test()

        (uvloop.run if request.param == "uvloop" else asyncio.run)(bounded())

    return run


@pytest.mark.parametrize("length", [0, 1, 1000, (1 << 20) - 1, 1 << 20, (5 << 20) + 7])
def test_bodies_come_whole_over_one_connection(
    in_loop: Callable[[Callable[[], Awaitable[None]]], None], length: int
) -> None:
    data = os.urandom(length)

    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head(length) + data)

    async def test() -> None:
        async with asking(send) as (ask, server):
            for _ in range(4):
                assert await read(await ask(), length) == data
            assert server.connections == 1

    in_loop(test)


def test_a_body_that_comes_in_pieces_after_its_head_is_put_together(
    in_loop: Callable[[Callable[[], Awaitable[None]]], None],
) -> None:
    data = os.urandom(3 << 20)

    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head(len(data)))
        for start in range(0, len(data), 100_000):
            await writer.drain()
            await asyncio.sleep(0)
            writer.write(data[start : start + 100_000])

    async def test() -> None:
        async with asking(send) as (ask, server):
            assert await read(await ask(), len(data)) == data
            assert await read(await ask(), len(data)) == data
            assert server.connections == 1

    in_loop(test)


def test_what_was_held_back_by_aiohttp_is_not_lost(in_loop: Callable[[Callable[[], Awaitable[None]]], None]) -> None:
    data = os.urandom(9 << 20)

    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head(len(data)) + data)

    async def test() -> None:
        async with asking(send) as (ask, _):
            response = await ask()
            while response.content.total_bytes < 512 << 10:  # noqa: ASYNC110  # until its reader is full
                await asyncio.sleep(0)
            assert await read(response, len(data)) == data

    in_loop(test)


@pytest.mark.parametrize("sent", [0, 10, 1 << 20, (2 << 20) - 1])
def test_a_body_that_ends_early_is_unavailable_and_its_connection_gone(
    in_loop: Callable[[Callable[[], Awaitable[None]]], None], sent: int
) -> None:
    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head(2 << 20) + bytes(sent))
        await writer.drain()
        writer.close()

    async def test() -> None:
        async with asking(send) as (ask, server):
            for _ in range(2):
                with pytest.raises((StorageUnavailable, aiohttp.ClientPayloadError)):
                    await read(await ask(), 2 << 20)
            assert server.connections == 2

    in_loop(test)


def test_a_body_whose_length_is_not_the_announced_one_is_unavailable(
    in_loop: Callable[[Callable[[], Awaitable[None]]], None],
) -> None:
    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head(100) + bytes(100))

    async def test() -> None:
        async with asking(send) as (ask, _):
            for other, said in ((99, "longer than the 99 bytes"), (101, "ended after 100 of 101 bytes")):
                response = await ask()
                while not response.content.is_eof():  # noqa: ASYNC110
                    await asyncio.sleep(0)
                with pytest.raises(StorageUnavailable, match=said):
                    await read(response, other)

    in_loop(test)


def test_silence_is_given_up_and_its_connection_not_used_again(
    in_loop: Callable[[Callable[[], Awaitable[None]]], None],
) -> None:
    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head(2 << 20) + bytes(1 << 20))
        await reader.read()

    async def test() -> None:
        async with asking(send) as (ask, server):
            for _ in range(2):
                with pytest.raises(StorageUnavailable, match=r"nothing came for 0\.05 seconds after"):
                    await read(await ask(), 2 << 20, silence=0.05)
            assert server.connections == 2

    in_loop(test)


def test_a_canceled_read_ends_its_connection_and_no_other(
    in_loop: Callable[[Callable[[], Awaitable[None]]], None],
) -> None:
    waiting = [True, False]
    half = asyncio.Event()

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head(2 << 20) + bytes(1 << 20))
        if waiting.pop(0):
            await writer.drain()
            half.set()
            await reader.read()
        writer.write(bytes(1 << 20))

    async def test() -> None:
        async with asking(send) as (ask, server):
            task = asyncio.create_task(read(await ask(), 2 << 20))
            await half.wait()
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()
            assert await read(await ask(), 2 << 20) == bytes(2 << 20)
            assert server.connections == 2

    in_loop(test)


async def test_an_answer_is_taken_no_faster_than_it_may_pass() -> None:
    clock = VirtualClock()
    data = os.urandom(6000)

    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head(len(data)) + data)

    async with asking(send) as (ask, _):
        taken = bytearray(len(data))
        await receive(await ask(), memoryview(taken), TokenBucket(1000, clock), 30.0, "cannot read")
        assert taken == data
    assert clock.monotonic() == pytest.approx(5.5, abs=0.3)
