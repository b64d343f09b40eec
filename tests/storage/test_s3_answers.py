"""What a store may answer, and what becomes of it."""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from agent.base.errors import (
    AccessDenied,
    BlobExists,
    BlobNotFound,
    BucketNotFound,
    OutOfSpace,
    StorageClockSkew,
    StorageError,
    StorageUnavailable,
    StorageUnsupported,
    TokenExpired,
    WrongRegion,
)
from agent.storage.base import BlobId
from agent.storage.pace import Pace
from agent.storage.retry import Retrier, RetryPolicy
from agent.storage.s3 import S3Storage
from agent.storage.s3_config import S3Config
from agent.testing.clock import VirtualClock
from agent.testing.recording_s3 import Answer, RecordedRequest, RecordingS3, s3_error
from tests.storage.conftest import opened

PACK = BlobId("p3c92c8baa4cf86d6bb6c295f1e7b6f10-sc5b5ef52f1dcd742147")
MIB = 1 << 20


@pytest.mark.parametrize(
    ("status", "code", "leaf", "retryable"),
    [
        (403, "AccessDenied", AccessDenied, False),
        (403, "InvalidAccessKeyId", AccessDenied, False),
        (403, "SignatureDoesNotMatch", AccessDenied, False),
        (403, "RequestTimeTooSkewed", StorageClockSkew, False),
        (400, "ExpiredToken", TokenExpired, False),
        (400, "InvalidToken", AccessDenied, False),
        (404, "NoSuchBucket", BucketNotFound, False),
        (404, "NoSuchKey", BlobNotFound, False),
        (412, "PreconditionFailed", BlobExists, False),
        (400, "InvalidStorageClass", StorageUnsupported, False),
        (501, "NotImplemented", StorageUnsupported, False),
        (507, "XMinioStorageFull", OutOfSpace, False),
        (503, "SlowDown", StorageUnavailable, True),
        (500, "InternalError", StorageUnavailable, True),
        (409, "OperationAborted", StorageUnavailable, True),
        (429, "TooManyRequests", StorageUnavailable, True),
        (502, "BadGateway", StorageUnavailable, True),
        (418, "Teapot", StorageError, False),
    ],
)
async def test_each_refusal_has_its_own_error_in_each_call(
    recording: RecordingS3, status: int, code: str, leaf: type[StorageError], retryable: bool
) -> None:
    recording.rules.append(lambda _: s3_error(status, code, Message="why it is so"))
    async with opened(recording) as storage:
        if code not in ("NoSuchKey", "PreconditionFailed"):  # not what listings and deletions hear
            with pytest.raises(leaf, match=code):
                [blob async for blob in storage.list()]
            with pytest.raises(leaf, match=code):
                await storage.delete([PACK])
        with pytest.raises(leaf) as caught:
            await storage.get(PACK)
        assert type(caught.value) is leaf
        assert caught.value.retryable is retryable
        assert "why it is so" in str(caught.value) and PACK in str(caught.value)
        if code != "NoSuchKey":
            with pytest.raises(leaf, match="why it is so"):
                await storage.put(PACK, [b"x"])


@pytest.mark.parametrize(("code", "leaf"), [("AccessDenied", AccessDenied), ("RequestTimeTooSkewed", StorageClockSkew)])
async def test_a_look_up_that_is_refused_finds_out_why(
    recording: RecordingS3, code: str, leaf: type[StorageError]
) -> None:
    recording.rules.append(lambda _: s3_error(403, code))
    async with opened(recording) as storage:
        with pytest.raises(leaf, match=code):
            await storage.stat(PACK)


async def test_a_look_up_tells_a_missing_bucket_from_a_missing_blob_with_one_more_request(
    recording: RecordingS3,
) -> None:
    async with opened(recording) as storage:
        for _ in range(3):
            with pytest.raises(BlobNotFound):
                await storage.stat(PACK)
    assert [r.method for r in recording.requests] == ["HEAD", "GET", "HEAD", "HEAD"]
    recording.rules.append(lambda _: s3_error(404, "NoSuchBucket"))
    async with opened(recording) as storage:
        with pytest.raises(BucketNotFound):
            await storage.stat(PACK)


async def test_after_a_listing_a_missing_blob_is_believed_at_once(recording: RecordingS3) -> None:
    async with opened(recording) as storage:
        assert [blob async for blob in storage.list()] == []
        with pytest.raises(BlobNotFound):
            await storage.stat(PACK)
    assert [r.method for r in recording.requests] == ["GET", "HEAD"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7),
        ("-7", 0),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        ("Mon, 99 Foo 2026", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
    ],
)
async def test_the_wait_that_a_store_asks_for_is_passed_on(
    recording: RecordingS3, text: str, seconds: float | None
) -> None:
    recording.answer_once("GET", s3_error(503, "SlowDown", headers={"Retry-After": text}))
    async with opened(recording) as storage:
        with pytest.raises(StorageUnavailable) as caught:
            await storage.get(PACK)
    assert caught.value.retry_after == seconds


async def test_every_call_is_one_attempt(recording: RecordingS3) -> None:
    recording.rules.append(lambda _: s3_error(500, "InternalError"))
    async with opened(recording) as storage:
        with pytest.raises(StorageUnavailable):
            await storage.get(PACK)
    assert len(recording.requests) == 1


async def test_a_wait_until_a_moment_is_passed_on(recording: RecordingS3) -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    recording.answer_once("GET", s3_error(503, "SlowDown", headers={"Retry-After": moment}))
    async with opened(recording) as storage:
        with pytest.raises(StorageUnavailable) as caught:
            await storage.get(PACK)
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 3600


def _only_in(region: str, *, tell: bool = True) -> Callable[[RecordedRequest], Answer | None]:
    def rule(request: RecordedRequest) -> Answer | None:
        if request.signed_region == region:
            return None
        told = {"Region": region} if tell else {}
        headers = {"x-amz-bucket-region": region} if tell else {}
        return s3_error(400, "AuthorizationHeaderMalformed", headers=headers, Message="the region is wrong", **told)

    return rule


async def test_a_bucket_elsewhere_is_found_and_remembered(recording: RecordingS3) -> None:
    recording.rules.append(_only_in("eu-central-1"))
    recording.objects[PACK] = b"x"
    async with opened(recording, region="us-east-1") as storage:
        assert bytes(await storage.get(PACK)) == b"x"
        first = len(recording.requests)
        await storage.put(PACK, [b"y" * 1000])
        assert bytes(await storage.get(PACK)) == b"y" * 1000
    assert {r.signed_region for r in recording.requests[first:]} == {"eu-central-1"}


async def test_region_auto_asks_the_bucket(recording: RecordingS3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    recording.rules.append(_only_in("eu-west-3"))
    async with opened(recording, region="auto") as storage:
        await storage.put(PACK, [b"x"])
    assert recording.asked("PUT")[-1].signed_region == "eu-west-3"


async def test_region_auto_believes_the_environment(recording: RecordingS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ap-south-1")
    async with opened(recording, region="auto") as storage:
        await storage.put(PACK, [b"x"])
    assert {r.signed_region for r in recording.requests} == {"ap-south-1"}


async def test_a_store_that_hides_its_region_is_a_wrong_region(recording: RecordingS3) -> None:
    recording.rules.append(_only_in("mars", tell=False))
    async with opened(recording) as storage:
        with pytest.raises(WrongRegion, match="region="):
            await storage.put(PACK, [b"x"])


async def test_a_redirect_without_a_region_is_a_wrong_region(recording: RecordingS3) -> None:
    recording.rules.append(lambda _: s3_error(301, "PermanentRedirect", Endpoint="blobs.s3.eu-west-1.amazonaws.com"))
    async with opened(recording) as storage:
        with pytest.raises(WrongRegion):
            await storage.get(PACK)
    assert [r.method for r in recording.requests] == ["GET", "HEAD"]


async def test_a_conditional_put_asks_for_absence(recording: RecordingS3) -> None:
    async with opened(recording, multipart_threshold=5 * MIB) as storage:
        for size in (1, 5 * MIB):
            recording.objects.clear()
            await storage.put(PACK, [bytes(size)], if_absent=True)
    put, complete = recording.asked("PUT")[0], recording.asked("POST")[-1]
    assert put.headers["if-none-match"] == complete.headers["if-none-match"] == "*"
    assert "uploadId" in complete.query


async def in_parts(server: RecordingS3, **options: object) -> S3Storage:
    """Parts of 5 MiB, retried in virtual time."""
    config = S3Config(
        bucket="blobs",
        endpoint=server.endpoint,
        region="us-east-1",
        access_key="k",
        secret_key="s",
        multipart_threshold=5 * MIB,
        multipart_part_size=5 * MIB,
        **options,  # type: ignore[arg-type]
    )
    clock = VirtualClock()
    return await S3Storage.open(config, Pace(clock), Retrier(RetryPolicy(), clock, random.Random(1)).for_parts())


async def test_a_failed_part_is_sent_again_alone(recording: RecordingS3) -> None:
    recording.answer_once("PUT", s3_error(503, "SlowDown"), times=2, query="partNumber")
    storage = await in_parts(recording)
    data = random.Random(1).randbytes(12 * MIB)
    await storage.put(PACK, [data])
    assert recording.objects[PACK] == data
    assert len(recording.asked("PUT")) == 3 + 2
    assert recording.uploads == {}
    await storage.close()


async def test_a_part_that_keeps_failing_aborts_the_upload(recording: RecordingS3) -> None:
    recording.answer_once("PUT", s3_error(503, "SlowDown"), times=99, query="partNumber")
    storage = await in_parts(recording)
    with pytest.raises(StorageUnavailable, match="part"):
        await storage.put(PACK, [bytes(12 * MIB)])
    assert len(recording.asked("DELETE")) == 1
    assert recording.uploads == {}
    await storage.close()


async def test_a_part_that_is_refused_is_not_sent_again(recording: RecordingS3) -> None:
    recording.answer_once("PUT", s3_error(403, "AccessDenied"), times=99, query="partNumber")
    storage = await in_parts(recording, multipart_parallel=1)
    with pytest.raises(AccessDenied):
        await storage.put(PACK, [bytes(12 * MIB)])
    assert len(recording.asked("PUT")) == 1
    assert recording.uploads == {}
    await storage.close()


async def test_a_completion_that_fails_aborts_the_upload(recording: RecordingS3) -> None:
    recording.answer_once("POST", s3_error(403, "AccessDenied"), query="uploadId")
    storage = await in_parts(recording)
    with pytest.raises(AccessDenied):
        await storage.put(PACK, [bytes(12 * MIB)])
    assert recording.uploads == {} and recording.objects == {}
    await storage.close()


async def test_an_error_inside_a_successful_completion_is_an_error(recording: RecordingS3) -> None:
    recording.answer_once("POST", s3_error(200, "InternalError"), query="uploadId")
    storage = await in_parts(recording)
    with pytest.raises(StorageUnavailable):
        await storage.put(PACK, [bytes(12 * MIB)])
    assert recording.uploads == {} and recording.objects == {}
    await storage.close()


async def test_no_more_parts_than_allowed_are_on_their_way_over_all_puts(recording: RecordingS3) -> None:
    storage = await in_parts(recording, multipart_parallel=2)
    ids = [BlobId(f"p{i:032x}-s1") for i in range(3)]
    await asyncio.gather(*(storage.put(blob_id, [bytes(11 * MIB)]) for blob_id in ids))
    assert set(recording.objects) == set(ids)
    assert 1 <= recording.parts_at_once <= 2
    assert len(recording.asked("PUT")) == 9
    await storage.close()


@pytest.mark.parametrize("rounds", [1, 5, 10, 20, 40, 80, 160])
async def test_a_put_canceled_at_any_moment_leaves_no_upload(recording: RecordingS3, rounds: int) -> None:
    storage = await in_parts(recording)
    task = asyncio.ensure_future(storage.put(PACK, [bytes(12 * MIB)]))
    for _ in range(rounds):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert recording.uploads == {}
    await storage.close()


async def test_an_upload_whose_first_answer_was_lost_is_found_and_aborted(recording: RecordingS3) -> None:
    storage = await in_parts(recording)
    begin = storage._client.create_multipart_upload

    async def lose(**options: object) -> None:
        await begin(**options)  # type: ignore[arg-type]
        raise ConnectionResetError("gone")

    storage._client.create_multipart_upload = lose  # type: ignore[method-assign, assignment]
    with pytest.raises(StorageUnavailable):
        await storage.put(PACK, [bytes(12 * MIB)])
    assert recording.uploads == {}
    await storage.close()
