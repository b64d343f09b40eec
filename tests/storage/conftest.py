"""Real servers, started once for all tests of this tier."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING

import pytest
from aiobotocore.session import get_session

from agent.storage.base import BlobStorage
from agent.storage.s3 import S3Storage
from agent.storage.s3_config import S3Config
from agent.testing.recording_s3 import BUCKET, RecordingS3
from agent.testing.s3_server import RcloneServer, SeaweedServer

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

_numbers = count()


def config_for(server: SeaweedServer | RcloneServer, bucket: str, **options: object) -> S3Config:
    return S3Config(
        **{
            "bucket": bucket,
            "prefix": f"test-{next(_numbers)}/",
            "endpoint": server.endpoint,
            "region": "us-east-1",
            "access_key": server.access_key,
            "secret_key": server.secret_key,
            **options,
        }  # type: ignore[arg-type]
    )


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    with SeaweedServer(tmp_path_factory.mktemp("seaweed")) as server:
        server.create_bucket("blobs")
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RcloneServer]:
    with RcloneServer(tmp_path_factory.mktemp("rclone")) as server:
        server.create_bucket("blobs")
        yield server


@pytest.fixture
async def s3(seaweed: SeaweedServer) -> AsyncIterator[BlobStorage]:
    storage = await S3Storage.open(config_for(seaweed, "blobs"))
    yield storage
    await storage.close()


@pytest.fixture
async def client(seaweed: SeaweedServer) -> AsyncIterator[S3Client]:
    """Another client of the same server, that knows every operation."""
    made = get_session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=seaweed.endpoint,
        aws_access_key_id=seaweed.access_key,
        aws_secret_access_key=seaweed.secret_key,
    )
    async with made as client:
        yield client


@pytest.fixture
async def recording() -> AsyncIterator[RecordingS3]:
    async with RecordingS3() as server:
        yield server


@asynccontextmanager
async def opened(server: RecordingS3, **options: object) -> AsyncIterator[S3Storage]:
    """A storage at the recording server, without further wrappers."""
    values = {
        "bucket": BUCKET,
        "endpoint": server.endpoint,
        "region": "us-east-1",
        "access_key": "AKIATEST",
        "secret_key": "very-secret",
        **options,
    }
    storage = await S3Storage.open(S3Config(**values))  # type: ignore[arg-type]
    try:
        yield storage
    finally:
        await storage.close()
