"""Blobs in an S3 bucket, named as kopia does (§1.3): key = prefix + blob id, flat.

One aiobotocore client with one connection pool. Retries, limits and metering are the wrappers' business; here every
call is one attempt, and whatever goes wrong leaves as a leaf of `StorageError`.
"""

from __future__ import annotations

import asyncio
import calendar
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from agent.base.clock import SystemClock
from agent.base.errors import (
    BlobIdInvalid,
    BlobNotFound,
    BlobTooShort,
    StorageError,
    UsageError,
    WrongRegion,
)
from agent.storage.answer_memory import AnswerMemory
from agent.storage.base import BlobId, BlobMetadata, Buffer, Retention, check_blob_id
from agent.storage.pace import Pace
from agent.storage.retry import Retrier, RetryPolicy
from agent.storage.s3_body import PiecewiseBody, checksum_option, digest
from agent.storage.s3_client import open_client
from agent.storage.s3_config import AUTO_REGION, PARALLEL_PUTS, S3Config
from agent.storage.s3_errors import TRANSLATED, response_code, right_region, storage_error
from agent.storage.s3_multipart import PartUploader
from agent.storage.s3_placement import MAX_PLACEMENT_LENGTH, PLACEMENT_FILE, Placement, parse_placement
from agent.storage.s3_receive import bound_read_ahead, receive

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

CONTENT_TYPE = "application/x-kopia"

_DELETE_BATCH = 1000
_NO_BATCH_DELETE = frozenset({"NotImplemented", "MethodNotAllowed", "MissingContentMD5", "InvalidRequest"})


class S3Storage:
    """`BlobStorage` in a bucket. Made by `open`."""

    def __init__(
        self, config: S3Config, client: S3Client, stack: AsyncExitStack, pace: Pace, part_retrier: Retrier
    ) -> None:
        self._config = config
        self._pace = pace
        self._client = client
        self._stack = stack
        gate = asyncio.Semaphore(config.multipart_parallel)
        self._parts = PartUploader(client, config, gate, part_retrier, pace.upload)
        self._batch_delete = True
        self._bucket_exists = False
        self._placement: Placement | None = None
        self._placement_turn = asyncio.Lock()
        self._memory = AnswerMemory()
        customer = _customer_key(config)
        self._read_options: dict[str, Any] = customer
        self._write_options: dict[str, Any] = {"ContentType": CONTENT_TYPE, **customer, **_write_options(config)}

    @classmethod
    async def open(cls, config: S3Config, pace: Pace | None = None, part_retrier: Retrier | None = None) -> S3Storage:
        """Connect. With region `auto` the bucket is asked where it lives; else nothing is sent yet.

        Bodies keep to `pace`; `part_retrier` repeats single parts of a large blob. By default there is no limit, and
        each part is tried once.
        """
        region = config.region
        pace = pace or Pace(SystemClock())
        part_retrier = part_retrier or Retrier(RetryPolicy(attempts=1), SystemClock(), random.Random())  # noqa: S311
        for _ in range(2):
            stack = AsyncExitStack()
            try:
                with _named_errors(config, "open the bucket"):
                    client = await open_client(stack, config, region)
                storage = cls(config, client, stack, pace, part_retrier)
                if region != AUTO_REGION:
                    return storage
                region = await storage._other_region()
                if not region:
                    return storage
            except BaseException:
                await stack.aclose()
                raise
            await stack.aclose()
        raise WrongRegion(f"cannot find the region of {config.location}", hint="set region=… to where the bucket lives")

    async def _other_region(self) -> str:
        """The region the bucket answers to, "" when it is the client's."""
        try:
            await self._client.list_objects_v2(Bucket=self._config.bucket, Prefix=self._config.prefix, MaxKeys=1)
        except TRANSLATED as error:
            if region := right_region(error):
                return region if region != self._client.meta.region_name else ""
            raise storage_error(error, "open the bucket", self.location) from error
        return ""

    @property
    def location(self) -> str:
        """`s3://bucket/prefix?endpoint=…`."""
        return self._config.location

    @property
    def parallel_puts(self) -> int:
        """As `s3_config` says."""
        return PARALLEL_PUTS

    async def get(self, blob_id: BlobId, offset: int = 0, length: int | None = None) -> Buffer:
        """One ranged GET; a look-up when no bytes are asked for."""
        key = self._key(blob_id)
        if offset < 0 or (length is not None and length < 0):
            raise UsageError(f"range {offset}+{length} of blob {blob_id} makes no sense")
        if length == 0:
            return await self._get_nothing(blob_id, offset)
        wanted = "" if length is None else str(offset + length - 1)
        extra: dict[str, Any] = {"Range": f"bytes={offset}-{wanted}"} if offset or length is not None else {}
        attempt = f"read blob {blob_id}"
        try:
            with _named_errors(self._config, attempt):
                answer = await self._client.get_object(
                    Bucket=self._config.bucket, Key=key, **extra, **self._read_options
                )
                body = answer["Body"]
                try:
                    start = offset if answer.get("ContentRange") else 0  # a store may ignore the range
                    end = start + answer["ContentLength"]
                    if offset > end or (length is not None and offset + length > end):
                        raise self._too_short(blob_id, offset, length, end)
                    bound_read_ahead(body.raw_stream, self._pace.download.rate)
                    data = await self._memory.take_on_loop(end - start, whole=not extra)
                    await receive(
                        body.raw_stream,
                        data,
                        self._pace.download,
                        self._config.read_timeout,
                        f"cannot {attempt} in {self.location}",
                    )
                finally:
                    body.close()
        except BlobTooShort:
            if length is not None:
                raise
            return await self._get_nothing(blob_id, offset)  # perhaps exactly the end was asked for
        if start == offset and (length is None or len(data) == length):
            return data
        return data[offset - start : None if length is None else offset - start + length]

    async def _get_nothing(self, blob_id: BlobId, offset: int) -> bytes:
        size = (await self.stat(blob_id)).length
        if offset > size:
            raise self._too_short(blob_id, offset, 0, size)
        return b""

    def _too_short(self, blob_id: BlobId, offset: int, length: int | None, size: int) -> BlobTooShort:
        end = "" if length is None else offset + length
        return BlobTooShort(f"blob {blob_id} in {self.location} has {size} bytes, {offset}..{end} were asked")

    async def put(
        self,
        blob_id: BlobId,
        data: Sequence[Buffer],
        *,
        if_absent: bool = False,
        retention: Retention | None = None,
    ) -> None:
        """One PUT, or parts from the configured size on."""
        key = self._key(blob_id)
        options = dict(self._write_options)
        if storage_class := await self._storage_class(blob_id):
            options["StorageClass"] = storage_class
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if if_absent else {}
        if retention is not None:
            until = datetime.fromtimestamp(-(-retention.until_ns // 1_000_000_000), UTC)
            options |= {"ObjectLockMode": retention.mode, "ObjectLockRetainUntilDate": until}
        body = PiecewiseBody(data, self._pace.upload)
        with _named_errors(self._config, f"write blob {blob_id}"):
            if len(body) >= self._config.multipart_threshold:
                await self._parts.put(key, body, options=options, condition=condition)
                return
            checksum = self._config.checksum or ("MD5" if retention is not None else "")  # S3 wants one with a lock
            if checksum:
                options[checksum_option(checksum)] = await digest(checksum, data)
            await self._client.put_object(
                Bucket=self._config.bucket, Key=key, Body=body if len(body) else b"", **condition, **options
            )

    async def _storage_class(self, blob_id: BlobId) -> str:
        """What the bucket's `.storageconfig`, read before the first put, or else the configuration asks for."""
        if self._placement is None:
            async with self._placement_turn:
                await self._read_placement()
        found = self._placement.storage_class(blob_id) if self._placement else None
        return self._config.storage_class if found is None else found

    async def _read_placement(self) -> None:
        if self._placement is not None:  # somebody else's put was first
            return
        key = self._config.prefix + PLACEMENT_FILE
        where = f"{PLACEMENT_FILE} in {self.location}"
        try:
            with _named_errors(self._config, f"read {PLACEMENT_FILE}"):
                answer = await self._client.get_object(Bucket=self._config.bucket, Key=key, **self._read_options)
                async with answer["Body"] as body:
                    if answer["ContentLength"] > MAX_PLACEMENT_LENGTH:
                        raise StorageError(f"{where} has {answer['ContentLength']} bytes, which cannot be meant")
                    data = await body.read()
            self._placement = parse_placement(data, where)
        except BlobNotFound:
            self._placement = Placement()

    async def stat(self, blob_id: BlobId) -> BlobMetadata:
        """One HEAD. Its refusal is asked again as a GET, because only that says why.

        The same for a blob that is not found as long as nothing has proved that the bucket is there.
        """
        key = self._key(blob_id)
        attempt = f"look up blob {blob_id}"
        try:
            answer = await self._client.head_object(Bucket=self._config.bucket, Key=key, **self._read_options)
        except TRANSLATED as error:
            code, status = response_code(error)
            if code.isdigit() and (status in (400, 403) or (status == 404 and not self._bucket_exists)):
                await self._ask_why(key, attempt)
            raise storage_error(error, attempt, self.location) from error
        self._bucket_exists = True
        return BlobMetadata(blob_id, answer["ContentLength"], _nanoseconds(answer["LastModified"]))

    async def _ask_why(self, key: str, attempt: str) -> None:
        """Raise what a GET is refused with, if that is not the absence of the blob in a bucket that is there."""
        with suppress(BlobNotFound), _named_errors(self._config, attempt):
            refused = await self._client.get_object(
                Bucket=self._config.bucket, Key=key, Range="bytes=0-0", **self._read_options
            )
            refused["Body"].close()
        self._bucket_exists = True

    async def list(self, prefix: str = "") -> AsyncIterator[BlobMetadata]:
        """Pages of up to 1,000 keys; what is below another `/` is no blob of ours."""
        skip = len(self._config.prefix)
        page: dict[str, Any] = {}
        while True:
            with _named_errors(self._config, f"list blobs {prefix}*"):
                answer = await self._client.list_objects_v2(
                    Bucket=self._config.bucket, Prefix=self._config.prefix + prefix, Delimiter="/", **page
                )
            self._bucket_exists = True
            for item in answer.get("Contents", ()):
                blob_id = BlobId(item["Key"][skip:])
                try:
                    check_blob_id(blob_id)
                except BlobIdInvalid:  # somebody else's
                    continue
                yield BlobMetadata(blob_id, item["Size"], _nanoseconds(item["LastModified"]))
            token = answer.get("NextContinuationToken") if answer.get("IsTruncated") else None
            if not token:
                return
            if token == page.get("ContinuationToken"):
                raise StorageError(f"cannot list {self.location}: the store repeats the same page")
            page = {"ContinuationToken": token}

    async def delete(self, blob_ids: Sequence[BlobId]) -> None:
        """Batches of 1,000, or one by one where the store cannot."""
        keys = [self._key(blob_id) for blob_id in blob_ids]
        for start in range(0, len(keys), _DELETE_BATCH):
            batch = keys[start : start + _DELETE_BATCH]
            if len(batch) == 1 or not (self._batch_delete and await self._delete_batch(batch)):
                for key in batch:
                    await self._delete_one(key)

    async def _delete_batch(self, keys: Sequence[str]) -> bool:
        """Whether the store understood the request."""
        attempt = f"delete {len(keys)} blobs"
        try:
            answer = await self._client.delete_objects(
                Bucket=self._config.bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
            )
        except TRANSLATED as error:
            if response_code(error)[0] in _NO_BATCH_DELETE:
                self._batch_delete = False
                return False
            raise storage_error(error, attempt, self.location) from error
        failed = [e for e in answer.get("Errors", ()) if e.get("Code") not in ("NoSuchKey", "NotFound")]
        for item in failed:
            # one by one: then the first real refusal is reported as such
            await self._delete_one(item.get("Key", ""))
        return True

    async def _delete_one(self, key: str) -> None:
        try:
            with _named_errors(self._config, f"delete blob {key[len(self._config.prefix) :]}"):
                await self._client.delete_object(Bucket=self._config.bucket, Key=key)
        except BlobNotFound:
            return

    async def close(self) -> None:
        """Close the connections."""
        await self._stack.aclose()

    def _key(self, blob_id: BlobId) -> str:
        check_blob_id(blob_id)
        return self._config.prefix + blob_id


@contextmanager
def _named_errors(config: S3Config, attempt: str) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except BaseExceptionGroup as group:  # of the parts
        raise _first_of(group, config, attempt) from group
    except TRANSLATED as error:
        raise storage_error(error, attempt, config.location) from error


def _first_of(group: BaseExceptionGroup, config: S3Config, attempt: str) -> BaseException:
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    if isinstance(first, TRANSLATED):
        return storage_error(first, attempt, config.location)
    return first


def _customer_key(config: S3Config) -> dict[str, Any]:
    if not config.sse_customer_key:
        return {}
    return {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": config.sse_customer_key}


def _write_options(config: S3Config) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if config.sse:
        options["ServerSideEncryption"] = config.sse
    if config.sse_kms_key_id:
        options["SSEKMSKeyId"] = config.sse_kms_key_id
    if config.tags:
        options["Tagging"] = urlencode(config.tags)
    return options


def _nanoseconds(moment: datetime) -> int:
    return calendar.timegm(moment.utctimetuple()) * 1_000_000_000 + moment.microsecond * 1000
