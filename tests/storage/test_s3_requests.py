"""What really goes over the wire for each option."""

import base64
import hashlib
import importlib.util
import json
import zlib

import pytest

from agent.base.errors import StorageError, UsageError
from agent.storage.base import BlobId, Retention
from agent.storage.s3_config import S3Config
from agent.testing.recording_s3 import RecordingS3
from tests.storage.conftest import opened

PACK = BlobId("p3c92c8baa4cf86d6bb6c295f1e7b6f10-sc5b5ef52f1dcd742147")
INDEX = BlobId("xn0_3f33aa-sdb2a010d51f76585147-c1")
MIB = 1 << 20
KEY = bytes(range(32))


def _customer_headers() -> dict[str, str]:
    return {
        "x-amz-server-side-encryption-customer-algorithm": "AES256",
        "x-amz-server-side-encryption-customer-key": base64.b64encode(KEY).decode(),
        "x-amz-server-side-encryption-customer-key-md5": base64.b64encode(
            hashlib.md5(KEY, usedforsecurity=False).digest()
        ).decode(),
    }


@pytest.mark.parametrize(
    ("options", "headers"),
    [
        ({}, {"content-type": "application/x-kopia", "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}),
        ({"sse": "AES256"}, {"x-amz-server-side-encryption": "AES256"}),
        (
            {"sse": "aws:kms", "sse_kms_key_id": "arn:aws:kms:eu-central-1:1:key/2"},
            {
                "x-amz-server-side-encryption": "aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id": "arn:aws:kms:eu-central-1:1:key/2",
            },
        ),
        ({"sse_customer_key": KEY}, _customer_headers()),
        ({"storage_class": "STANDARD_IA"}, {"x-amz-storage-class": "STANDARD_IA"}),
        ({"tags": (("team", "a b"), ("k", "ü=&"))}, {"x-amz-tagging": "team=a+b&k=%C3%BC%3D%26"}),
        ({"session_token": "token-of-a-session"}, {"x-amz-security-token": "token-of-a-session"}),
    ],
)
@pytest.mark.check(42)
@pytest.mark.parametrize("size", [0, 1000, 5 * MIB])
async def test_options_of_a_put_are_its_headers(
    recording: RecordingS3, options: dict[str, object], headers: dict[str, str], size: int
) -> None:
    async with opened(recording, multipart_threshold=5 * MIB, **options) as storage:
        await storage.put(PACK, [bytes(size)])
        assert len(await storage.get(PACK)) == size
    begin = next(r for r in recording.requests if r.method == ("POST" if size == 5 * MIB else "PUT"))
    sent = {name: begin.headers.get(name) for name in headers}
    if size == 5 * MIB:
        sent.pop("x-amz-content-sha256", None)
    assert sent == {name: headers[name] for name in sent}


async def test_a_customer_key_goes_with_every_request_that_needs_it(recording: RecordingS3) -> None:
    async with opened(recording, sse_customer_key=KEY, multipart_threshold=5 * MIB) as storage:
        await storage.put(PACK, [bytes(5 * MIB)])
        await storage.get(PACK, 5, 5)
        await storage.stat(PACK)
    needing = [r for r in recording.requests if r.method in ("GET", "HEAD") or "partNumber" in r.query]
    assert len(needing) == 4  # .storageconfig, part, get, head
    for request in needing:
        assert _customer_headers().items() <= request.headers.items()


async def test_the_body_is_hashed_into_the_signature_when_asked(recording: RecordingS3) -> None:
    async with opened(recording, sign_payload=True) as storage:
        await storage.put(PACK, [b"ab", b"c"])
    assert recording.asked("PUT")[0].headers["x-amz-content-sha256"] == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize(
    ("checksum", "header", "value"),
    [
        ("MD5", "content-md5", hashlib.md5(b"abc", usedforsecurity=False).digest()),
        ("CRC32", "x-amz-checksum-crc32", zlib.crc32(b"abc").to_bytes(4, "big")),
        ("SHA1", "x-amz-checksum-sha1", hashlib.sha1(b"abc", usedforsecurity=False).digest()),
        ("SHA256", "x-amz-checksum-sha256", hashlib.sha256(b"abc").digest()),
    ],
)
async def test_checksums_are_of_the_whole_body(
    recording: RecordingS3, checksum: str, header: str, value: bytes
) -> None:
    async with opened(recording, checksum=checksum, multipart_threshold=5 * MIB) as storage:
        await storage.put(PACK, [b"ab", b"c"])
        await storage.put(PACK, [bytes(5 * MIB)])
    puts = recording.asked("PUT")
    assert puts[0].headers[header] == base64.b64encode(value).decode()
    assert header in puts[1].headers


async def test_without_a_wish_there_is_no_checksum(recording: RecordingS3) -> None:
    async with opened(recording) as storage:
        await storage.put(PACK, [b"abc"])
    assert not [name for name in recording.asked("PUT")[0].headers if "checksum" in name or name == "content-md5"]


@pytest.mark.skipif(importlib.util.find_spec("awscrt") is not None, reason="awscrt is installed")
def test_crc32c_without_its_library_says_what_is_missing() -> None:
    with pytest.raises(UsageError, match="awscrt"):
        S3Config(bucket="blobs", checksum="CRC32C")


@pytest.mark.parametrize("size", [10, 5 * MIB])
async def test_retention_is_rounded_up_to_whole_seconds(recording: RecordingS3, size: int) -> None:
    async with opened(recording, multipart_threshold=5 * MIB) as storage:
        await storage.put(PACK, [bytes(size)], retention=Retention("COMPLIANCE", 1_800_000_000_000_000_001))
    asked = recording.asked("PUT" if size == 10 else "POST")[0]
    assert asked.headers["x-amz-object-lock-mode"] == "COMPLIANCE"
    assert asked.headers["x-amz-object-lock-retain-until-date"] == "2027-01-15T08:00:01Z"
    assert size != 10 or "content-md5" in asked.headers  # S3 refuses a locked put without one


async def test_storage_classes_follow_the_storageconfig_in_the_bucket(recording: RecordingS3) -> None:
    rules = [{"prefix": "p3c9", "storageClass": "GLACIER_IR"}, {"prefix": "p", "storageClass": "STANDARD_IA"}]
    rules.append({"prefix": "kopia", "storageClass": ""})
    recording.objects["repo/.storageconfig"] = json.dumps({"blobOptions": rules}).encode()
    async with opened(recording, prefix="repo/", storage_class="ONEZONE_IA") as storage:
        for blob_id in (PACK, BlobId("p4"), INDEX, BlobId("kopia.repository")):
            await storage.put(blob_id, [b"x"])
        assert sorted([blob.blob_id async for blob in storage.list()]) == ["kopia.repository", PACK, "p4", INDEX]
    classes = [r.headers.get("x-amz-storage-class") for r in recording.asked("PUT")]
    assert classes == ["GLACIER_IR", "STANDARD_IA", "ONEZONE_IA", None]
    assert len(recording.asked("GET")) == 2  # the file once, and the listing


async def test_readers_do_not_ask_for_the_storageconfig(recording: RecordingS3) -> None:
    recording.objects[PACK] = b"x"
    async with opened(recording) as storage:
        await storage.get(PACK)
    assert [r.key for r in recording.requests] == [PACK]


@pytest.mark.parametrize("content", [b"{", b'{"blobOptions": 5}', b"\xff", b"[" * 10_000, b" " * 100_000])
async def test_a_storageconfig_that_makes_no_sense_stops_writers(recording: RecordingS3, content: bytes) -> None:
    recording.objects[".storageconfig"] = content
    async with opened(recording) as storage:
        with pytest.raises(StorageError, match=r"\.storageconfig"):
            await storage.put(PACK, [b"x"])


async def test_the_bucket_is_in_the_path_or_in_the_host(recording: RecordingS3) -> None:
    for path_style, host, path in (
        (True, "store.invalid", f"/blobs/{PACK}"),
        (False, "blobs.store.invalid", f"/{PACK}"),
    ):
        options = {"endpoint": "http://store.invalid", "proxy": recording.endpoint, "path_style": path_style}
        recording.requests.clear()
        async with opened(recording, **options) as storage:
            await storage.put(PACK, [b"x"])
            assert bytes(await storage.get(PACK)) == b"x"
        assert {(r.headers["host"], r.path) for r in recording.requests[1:]} == {(host, path)}


async def test_aws_is_virtual_hosted_in_its_region(recording: RecordingS3) -> None:
    def host(endpoint: str, path_style: bool | None = None) -> bool:
        return not S3Config(bucket="blobs", endpoint=endpoint, path_style=path_style).use_path_style

    assert host("") and not host("http://minio:9000") and host("http://minio:9000", False)


async def test_a_proxy_is_used_with_its_password_and_kept_out_of_sight(recording: RecordingS3) -> None:
    proxy = recording.endpoint.replace("http://", "http://user:proxy-secret@")
    async with opened(recording, endpoint="http://store.invalid", proxy=proxy) as storage:
        await storage.put(PACK, [b"x"])
        assert "proxy-secret" not in f"{storage._config!r}{storage.location}"
    expected = "Basic " + base64.b64encode(b"user:proxy-secret").decode()
    assert {r.headers["proxy-authorization"] for r in recording.requests} == {expected}


@pytest.mark.parametrize("excepted", ["127.0.0.0/8", "10.0.0.0/8,127.0.0.1", "*"])
async def test_a_store_that_is_excepted_from_the_environments_proxy_is_spoken_to_itself(
    recording: RecordingS3, monkeypatch: pytest.MonkeyPatch, excepted: str
) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://proxy.invalid:3128")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, excepted)
    async with opened(recording) as storage:
        await storage.put(PACK, [b"x"])
    assert recording.requests


async def test_the_environments_proxy_counts_too(recording: RecordingS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", recording.endpoint)
    monkeypatch.setenv("http_proxy", recording.endpoint)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with opened(recording, endpoint="http://store.invalid") as storage:
        await storage.put(PACK, [b"x"])
    assert recording.asked("PUT")[0].headers["host"] == "store.invalid"


async def test_a_put_is_one_request_once_the_storageconfig_is_known(recording: RecordingS3) -> None:
    async with opened(recording) as storage:
        for _ in range(3):
            await storage.put(PACK, [b"x"], if_absent=False)
        await storage.delete([PACK, INDEX])
    assert [r.method for r in recording.requests] == ["GET", "PUT", "PUT", "PUT", "POST"]
    assert "content-md5" in recording.requests[-1].headers
    assert not [r for r in recording.requests if "expect" in r.headers]
