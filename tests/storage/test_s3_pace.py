"""Bytes that really pass between a client and SeaweedFS when the rate is limited.

Time is virtual: it stands still until a test moves it, so whatever passes meanwhile passes in no time at all.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable

import pytest

from agent.storage.base import BlobId
from agent.storage.pace import Pace
from agent.storage.s3 import S3Storage
from agent.testing.clock import VirtualClock
from agent.testing.s3_server import SeaweedServer
from agent.testing.tcp_proxy import TcpProxy
from tests.storage.conftest import config_for

pytestmark = pytest.mark.s3

PACK = BlobId("p3c92c8baa4cf86d6bb6c295f1e7b6f10-sc5b5ef52f1dcd742147")
MIB = 1 << 20
RATE = 2 * MIB
HEADERS = 16 << 10
BUFFERS = 1 * MIB
"""Of the operating system and the client's transport: what a reader that does not read cannot refuse."""


@pytest.fixture
async def proxy(seaweed: SeaweedServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(seaweed.port) as proxy:
        yield proxy


async def at_rest(counted: Callable[[], int], least: int) -> int:
    """The count when it has reached `least` and stopped growing."""
    last = -1
    while (now := counted()) < least or now != last:  # the kernel has no event
        last = now
        await asyncio.sleep(0.1)
    return now


async def test_an_upload_sends_what_may_pass_and_no_more(proxy: TcpProxy, seaweed: SeaweedServer) -> None:
    clock = VirtualClock(jump=False)
    pace = Pace(clock, upload_bytes=RATE)
    storage = await S3Storage.open(config_for(seaweed, "blobs", endpoint=proxy.endpoint), pace)
    data = os.urandom(12 * MIB)
    task = asyncio.ensure_future(storage.put(PACK, [data]))
    for half in range(3):
        allowed = RATE // 2 * (half + 1)
        assert await at_rest(lambda: proxy.bytes_up, allowed) <= allowed + HEADERS
        clock.advance(0.5)
    pace.set_rates(upload_bytes=MIB // 2, download_bytes=0)
    allowed = RATE // 2 * 3 + MIB // 4  # half a second of the new rate was saved
    assert await at_rest(lambda: proxy.bytes_up, allowed) <= allowed + HEADERS
    pace.set_rates(upload_bytes=0, download_bytes=0)
    clock.advance(1)
    await task
    assert await storage.get(PACK) == data
    await storage.close()


async def test_a_download_takes_what_may_pass_and_little_more(proxy: TcpProxy, seaweed: SeaweedServer) -> None:
    clock = VirtualClock(jump=False)
    pace = Pace(clock)
    storage = await S3Storage.open(config_for(seaweed, "blobs", endpoint=proxy.endpoint), pace)
    data = os.urandom(24 * MIB)
    await storage.put(PACK, [data])
    pace.set_rates(upload_bytes=0, download_bytes=RATE)
    clock.advance(1)
    before = proxy.bytes_down
    task = asyncio.ensure_future(storage.get(PACK))
    for half in range(3):
        allowed = RATE // 2 * (half + 1)
        passed = await at_rest(lambda: proxy.bytes_down - before, allowed)
        assert passed <= allowed + HEADERS + BUFFERS
        clock.advance(0.5)
    pace.set_rates(upload_bytes=0, download_bytes=0)
    clock.advance(1)
    assert await task == data
    await storage.close()
