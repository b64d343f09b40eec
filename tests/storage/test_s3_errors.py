from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.base.errors import (
    AccessDenied,
    BucketNotFound,
    ConnectionRefused,
    CredentialsMissing,
    NameResolutionFailed,
    StorageError,
    UsageError,
)
from agent.storage.base import BlobId
from agent.storage.open import open_storage
from agent.storage.s3 import S3Storage
from agent.storage.s3_config import S3Config
from agent.testing.s3_server import SeaweedServer, free_ports
from tests.storage.conftest import config_for

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

pytestmark = pytest.mark.s3

PACK = BlobId("p3c92c8baa4cf86d6bb6c295f1e7b6f10-sc5b5ef52f1dcd742147")


async def failure(config: S3Config) -> StorageError:
    """What a listing fails with; nothing secret may be in it."""
    storage = await S3Storage.open(config)
    try:
        with pytest.raises(StorageError) as caught:
            [blob async for blob in storage.list()]
    finally:
        await storage.close()
    assert not config.secret_key or config.secret_key not in f"{caught.value}{caught.value!r}{config!r}{storage!r}"
    assert caught.value.hint
    return caught.value


async def test_a_missing_bucket_is_named(seaweed: SeaweedServer) -> None:
    assert isinstance(await failure(config_for(seaweed, "nowhere")), BucketNotFound)


async def test_a_wrong_secret_key_is_access_denied(seaweed: SeaweedServer) -> None:
    config = config_for(seaweed, "blobs", secret_key="wrong-and-secret")
    assert isinstance(await failure(config), AccessDenied)
    storage = await S3Storage.open(config)
    for call in (storage.stat(PACK), storage.get(PACK), storage.put(PACK, [b"x"]), storage.delete([PACK])):
        with pytest.raises(AccessDenied, match=r"key|HTTP 403"):
            await call
    await storage.close()


async def test_nobody_listening_is_connection_refused(seaweed: SeaweedServer) -> None:
    config = config_for(seaweed, "blobs", endpoint=f"http://127.0.0.1:{free_ports(1)[0]}")
    assert isinstance(await failure(config), ConnectionRefused)


async def test_an_unknown_host_is_a_name_that_does_not_resolve(seaweed: SeaweedServer) -> None:
    config = config_for(seaweed, "blobs", endpoint="http://no-such-host.invalid:9")
    assert isinstance(await failure(config), NameResolutionFailed)


async def test_plain_http_behind_https_says_so(seaweed: SeaweedServer) -> None:
    config = config_for(seaweed, "blobs", endpoint=f"https://127.0.0.1:{seaweed.port}")
    error = await failure(config)
    assert "TLS" in str(error)


async def test_missing_credentials_are_named(
    seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    config = config_for(seaweed, "blobs", access_key="", secret_key="")
    assert isinstance(await failure(config), CredentialsMissing)


@pytest.mark.check(42)
async def test_keys_come_from_a_profile_in_a_credentials_file(seaweed: SeaweedServer, tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text(
        f"[velero]\naws_access_key_id={seaweed.access_key}\naws_secret_access_key={seaweed.secret_key}\n"
    )
    config = config_for(
        seaweed, "blobs", access_key="", secret_key="", profile="velero", credentials_file=f"{tmp_path}/credentials"
    )
    storage = await S3Storage.open(config)
    await storage.put(PACK, [b"x"])
    assert await storage.get(PACK) == b"x"
    await storage.close()


async def test_an_unknown_profile_is_credentials_missing(seaweed: SeaweedServer) -> None:
    with pytest.raises(CredentialsMissing, match="no-such"):
        await S3Storage.open(config_for(seaweed, "blobs", access_key="", secret_key="", profile="no-such"))


async def test_the_whole_stack_opens_from_a_url(seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    for region in ("us-east-1", "auto"):
        storage = await open_storage(seaweed.url("blobs", "from-url").replace("us-east-1", region))
        await storage.put(PACK, [b"x"])
        assert [blob.blob_id async for blob in storage.list()] == [PACK]
        assert storage.location == f"s3://blobs/from-url/?endpoint={seaweed.endpoint}"
        await storage.close()


async def test_puts_carry_content_type_tags_and_checksum(seaweed: SeaweedServer, client: S3Client) -> None:
    for checksum in ("MD5", "CRC32", "SHA1", "SHA256", ""):
        for sign in (False, True):
            config = config_for(seaweed, "blobs", checksum=checksum, tags=(("team", "a b"),), sign_payload=sign)
            storage = await S3Storage.open(config)
            await storage.put(PACK, [b"x" * 300_000])
            head = await client.head_object(Bucket="blobs", Key=config.prefix + PACK)
            tags = await client.get_object_tagging(Bucket="blobs", Key=config.prefix + PACK)
            await storage.close()
            assert head["ContentType"] == "application/x-kopia"
            assert tags["TagSet"] == [{"Key": "team", "Value": "a b"}]


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3://x",
        "s3://bucket?nonsense=1",
        "s3://key:secret@bucket/",
        "s3://bucket?path_style=perhaps",
        "s3://bucket?endpoint=127.0.0.1:80",
        "s3://bucket?endpoint=http://user:pass@host",
        "s3://bucket?multipart_part_size=1",
        "s3://bucket?checksum=CRC99",
    ],
)
async def test_urls_that_make_no_sense_are_refused(url: str) -> None:
    with pytest.raises(UsageError):
        await open_storage(url)
