"""Object Lock, conditional puts and unfinished uploads where a server really enforces and keeps them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from agent.base.errors import AccessDenied, BlobExists, StorageError
from agent.storage.base import BlobId, Retention
from agent.storage.s3 import S3Storage
from agent.testing.s3_server import SeaweedServer
from tests.storage.conftest import config_for

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

pytestmark = pytest.mark.s3

PACK = BlobId("p3c92c8baa4cf86d6bb6c295f1e7b6f10-sc5b5ef52f1dcd742147")
MIB = 1 << 20
HOUR_NS = 3600 * 10**9


@pytest.fixture
async def locking(seaweed: SeaweedServer, client: S3Client) -> AsyncIterator[S3Storage]:
    """In a bucket that was made with Object Lock."""
    buckets = await client.list_buckets()
    if "locked" not in {bucket["Name"] for bucket in buckets["Buckets"]}:
        await client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    config = config_for(seaweed, "locked", multipart_threshold=5 * MIB, multipart_part_size=5 * MIB)
    storage = await S3Storage.open(config)
    yield storage
    await storage.close()


@pytest.mark.parametrize("size", [100, 6 * MIB])
async def test_a_blob_under_compliance_cannot_be_deleted(locking: S3Storage, client: S3Client, size: int) -> None:
    until = time.time_ns() + HOUR_NS
    await locking.put(PACK, [bytes(size)], retention=Retention("COMPLIANCE", until))
    key = locking._config.prefix + PACK
    head = await client.head_object(Bucket="locked", Key=key)
    assert head["ObjectLockMode"] == "COMPLIANCE"
    assert abs(head["ObjectLockRetainUntilDate"].timestamp() - until / 1e9) <= 1
    with pytest.raises(Exception, match=r"(?i)denied|lock|retention"):
        await client.delete_object(Bucket="locked", Key=key, VersionId=head["VersionId"])
    # without a version the store hides the blob behind a marker and keeps it
    await locking.delete([PACK])
    answer = await client.head_object(Bucket="locked", Key=key, VersionId=head["VersionId"])
    assert answer["ContentLength"] == size


async def test_a_lock_in_a_bucket_without_locks_is_refused(seaweed: SeaweedServer) -> None:
    storage = await S3Storage.open(config_for(seaweed, "blobs"))
    with pytest.raises(StorageError):
        await storage.put(PACK, [b"x"], retention=Retention("COMPLIANCE", time.time_ns() + HOUR_NS))
    await storage.close()


@pytest.mark.parametrize("size", [100, 6 * MIB])
async def test_a_second_conditional_put_is_refused_and_leaves_no_parts(seaweed: SeaweedServer, size: int) -> None:
    config = config_for(seaweed, "blobs", multipart_threshold=5 * MIB, multipart_part_size=5 * MIB)
    storage = await S3Storage.open(config)
    await storage.put(PACK, [bytes(size)], if_absent=True)
    with pytest.raises(BlobExists):
        await storage.put(PACK, [b"y" * size], if_absent=True)
    assert await storage.get(PACK) == bytes(size)
    uploads = await storage._client.list_multipart_uploads(Bucket="blobs", Prefix=config.prefix)
    assert uploads.get("Uploads", []) == []
    await storage.close()


async def test_an_upload_whose_completion_is_refused_leaves_no_parts(seaweed: SeaweedServer) -> None:
    config = config_for(seaweed, "blobs", multipart_threshold=5 * MIB, multipart_part_size=5 * MIB)
    storage = await S3Storage.open(config)

    async def refuse(**_: object) -> None:
        raise AccessDenied("no")

    storage._client.complete_multipart_upload = refuse  # type: ignore[method-assign, assignment]
    with pytest.raises(AccessDenied):
        await storage.put(PACK, [bytes(12 * MIB)])
    uploads = await storage._client.list_multipart_uploads(Bucket="blobs", Prefix=config.prefix)
    assert uploads.get("Uploads", []) == []
    assert [blob async for blob in storage.list()] == []
    await storage.close()
