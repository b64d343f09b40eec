import asyncio
from collections.abc import AsyncIterator

import pytest

from agent.storage.base import BlobId, BlobStorage
from agent.storage.s3 import S3Storage
from agent.testing.s3_server import RcloneServer, SeaweedServer
from agent.testing.storage_conformance import StorageConformance
from tests.storage.conftest import config_for

pytestmark = pytest.mark.s3


class TestSeaweed(StorageConformance):
    @pytest.fixture
    def storage(self, s3: BlobStorage) -> BlobStorage:
        return s3


class TestSeaweedInParts(StorageConformance):
    """Every blob beyond 5 MiB goes in parts, with checksums."""

    many_keys = 10
    big = 17 << 20

    @pytest.fixture
    async def storage(self, seaweed: SeaweedServer) -> AsyncIterator[BlobStorage]:
        options = {"multipart_threshold": 5 << 20, "multipart_part_size": 5 << 20, "checksum": "CRC32"}
        storage = await S3Storage.open(config_for(seaweed, "blobs", **options))
        yield storage
        await storage.close()


class TestRclone(StorageConformance):
    conditional_put = False
    atomic_overwrite = False

    @pytest.fixture
    async def storage(self, rclone: RcloneServer) -> AsyncIterator[BlobStorage]:
        storage = await S3Storage.open(config_for(rclone, "blobs"))
        yield storage
        await storage.close()


async def test_the_server_counts_what_it_was_asked(seaweed: SeaweedServer, s3: BlobStorage) -> None:
    before = seaweed.request_counts()
    await s3.put(BlobId("counted"), [b"x"])
    for _ in range(100):  # it counts after it has answered
        if seaweed.request_counts()["PUT"] > before.get("PUT", 0):
            break
        await asyncio.sleep(0.05)
    assert seaweed.request_counts()["PUT"] == before.get("PUT", 0) + 1
