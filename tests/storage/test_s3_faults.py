import asyncio
import os
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from agent.base.clock import SystemClock
from agent.base.errors import StorageUnavailable
from agent.storage.base import BlobId
from agent.storage.pace import Pace
from agent.storage.retry import Retrier, RetryingStorage, RetryPolicy
from agent.storage.s3 import S3Storage
from agent.storage.s3_config import S3Config
from agent.testing.clock import VirtualClock
from agent.testing.s3_server import SeaweedServer
from agent.testing.tcp_proxy import TcpFaults, TcpProxy
from tests.storage.conftest import config_for

pytestmark = pytest.mark.s3

PACK = BlobId("p3c92c8baa4cf86d6bb6c295f1e7b6f10-sc5b5ef52f1dcd742147")


@pytest.fixture
async def proxy(seaweed: SeaweedServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(seaweed.port) as proxy:
        yield proxy


def through(proxy: TcpProxy, seaweed: SeaweedServer, **options: object) -> S3Config:
    return config_for(seaweed, "blobs", endpoint=proxy.endpoint, **options)


async def test_a_download_that_is_cut_is_unavailable_and_then_complete_on_retry(
    proxy: TcpProxy, seaweed: SeaweedServer
) -> None:
    storage = await S3Storage.open(through(proxy, seaweed))
    data = os.urandom(3 << 20)
    await storage.put(PACK, [data])
    await storage.close()

    proxy.faults = TcpFaults(cut_down_after=1 << 20, connections=proxy.connections + 2)
    storage = await S3Storage.open(storage._config)
    with pytest.raises(StorageUnavailable, match=PACK):
        await storage.get(PACK)
    policy = RetryPolicy(first_wait=0.001)
    assert await RetryingStorage(storage, Retrier(policy, SystemClock(), random.Random(1))).get(PACK) == data
    await storage.close()


async def test_an_upload_that_is_cut_leaves_nothing_and_succeeds_on_retry(
    proxy: TcpProxy, seaweed: SeaweedServer
) -> None:
    proxy.faults = TcpFaults(cut_up_after=1 << 20, connections=2)
    storage = await S3Storage.open(through(proxy, seaweed))
    data = os.urandom(3 << 20)
    with pytest.raises(StorageUnavailable, match=PACK):
        await storage.put(PACK, [data])
    assert [blob async for blob in storage.list()] == []
    policy = RetryPolicy(first_wait=0.001)
    await RetryingStorage(storage, Retrier(policy, SystemClock(), random.Random(1))).put(PACK, [data])
    assert await storage.get(PACK) == data
    await storage.close()


async def test_a_store_that_falls_silent_is_given_up_after_the_read_timeout(
    proxy: TcpProxy, seaweed: SeaweedServer
) -> None:
    storage = await S3Storage.open(through(proxy, seaweed))
    await storage.put(PACK, [bytes(1 << 20)])
    await storage.close()
    proxy.faults = TcpFaults(stall_down_after=100_000)
    storage = await S3Storage.open(replace(storage._config, read_timeout=0.3))
    with pytest.raises(StorageUnavailable, match=PACK):
        await storage.get(PACK)
    await storage.close()


async def test_a_corrupted_answer_to_a_listing_is_a_named_error(proxy: TcpProxy, seaweed: SeaweedServer) -> None:
    storage = await S3Storage.open(through(proxy, seaweed))
    await storage.put(PACK, [b"x"])
    await storage.close()
    proxy.faults = TcpFaults(corrupt_down_at=3)
    storage = await S3Storage.open(storage._config)
    with pytest.raises(StorageUnavailable):
        [blob async for blob in storage.list()]
    await storage.close()


@pytest.mark.parametrize("moment", ["early", "parts"])
async def test_a_canceled_multipart_upload_is_aborted(seaweed: SeaweedServer, moment: str) -> None:
    config = config_for(seaweed, "blobs", multipart_threshold=5 << 20, multipart_part_size=5 << 20)
    pace = Pace(VirtualClock(jump=False), upload_bytes=5 << 20)  # or all of it might be there before it is looked for
    storage = await S3Storage.open(config, pace)
    task = asyncio.ensure_future(storage.put(PACK, [bytes(40 << 20)]))
    if moment == "parts":
        while not await _uploads(storage):  # noqa: ASYNC110  # the server has no event
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await _uploads(storage) == []
    assert [blob async for blob in storage.list()] == []
    await storage.close()


async def _uploads(storage: S3Storage) -> list[object]:
    answer = await storage._client.list_multipart_uploads(Bucket="blobs", Prefix=storage._config.prefix)
    return list(answer.get("Uploads", ()))
