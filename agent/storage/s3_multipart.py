"""Large blobs in parts: a bounded pool over all puts, nothing left behind when one fails or is canceled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from agent.storage.base import Buffer
from agent.storage.pace import TokenBucket
from agent.storage.retry import Retrier
from agent.storage.s3_body import PiecewiseBody, checksum_option, digest
from agent.storage.s3_config import S3Config
from agent.storage.s3_errors import TRANSLATED, response_code, storage_error

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_s3.type_defs import CreateMultipartUploadOutputTypeDef

_ABORT_SECONDS = 10.0
_PART_OPTIONS = frozenset({"SSECustomerAlgorithm", "SSECustomerKey"})


class PartUploader(msgspec.Struct, frozen=True):
    """Puts large blobs of one storage. `gate` bounds the parts in flight, `retrier` repeats a failed one."""

    client: S3Client
    config: S3Config
    gate: asyncio.Semaphore
    retrier: Retrier
    bucket: TokenBucket

    async def put(
        self, key: str, body: PiecewiseBody, *, options: Mapping[str, Any], condition: Mapping[str, Any]
    ) -> None:
        """Put `body` under `key`. `condition` holds only for the completion, which is when the blob appears."""
        algorithm = self.config.checksum if self.config.checksum not in ("", "MD5") else ""
        declared: dict[str, Any] = {"ChecksumAlgorithm": algorithm} if algorithm else {}
        upload_id = await self._begin(key, {**options, **declared})
        part_options = {name: value for name, value in options.items() if name in _PART_OPTIONS}
        try:
            parts = await self._put_parts(key, upload_id, body, part_options)
            await self.client.complete_multipart_upload(
                Bucket=self.config.bucket,
                Key=key,
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},  # type: ignore[typeddict-item]  # checksums by computed name
                **condition,
                **part_options,
            )
        except BaseException:
            await _finish(self._abort(key, upload_id))
            raise

    async def _begin(self, key: str, options: Mapping[str, Any]) -> str:
        """The id of a new upload; when its answer is lost or the caller is canceled, what was begun is aborted."""
        task = asyncio.ensure_future(self.client.create_multipart_upload(Bucket=self.config.bucket, Key=key, **options))
        try:
            return (await asyncio.shield(task))["UploadId"]
        except asyncio.CancelledError:
            await _finish(self._abort_begun(key, task))
            raise
        except TRANSLATED as error:
            if response_code(error) == ("", 0):
                await _finish(self._abort_all(key))
            raise

    async def _abort_begun(self, key: str, task: asyncio.Future[CreateMultipartUploadOutputTypeDef]) -> None:
        try:
            async with asyncio.timeout(_ABORT_SECONDS):
                upload_id = (await task)["UploadId"]
        except TRANSLATED:
            await self._abort_all(key)
        else:
            await self._abort(key, upload_id)

    async def _put_parts(
        self, key: str, upload_id: str, body: PiecewiseBody, options: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        size = self.config.part_size(len(body))
        parts: dict[int, dict[str, Any]] = {}

        async def put(number: int) -> None:
            async with self.gate:
                data = body.slice((number - 1) * size, number * size)
                sums = await self._checksums(data)

                async def attempt() -> str:
                    try:
                        answer = await self.client.upload_part(
                            Bucket=self.config.bucket,
                            Key=key,
                            UploadId=upload_id,
                            PartNumber=number,
                            Body=PiecewiseBody(data, self.bucket),
                            **sums,
                            **options,
                        )
                    except TRANSLATED as error:
                        blob = key[len(self.config.prefix) :]
                        attempted = f"write part {number} of blob {blob}"
                        raise storage_error(error, attempted, self.config.location) from error
                    return answer["ETag"]

                etag = await self.retrier.call("put", attempt)
            named = {name: value for name, value in sums.items() if name != "ContentMD5"}
            parts[number] = {"PartNumber": number, "ETag": etag, **named}

        async with asyncio.TaskGroup() as group:
            for number in range(1, -(-len(body) // size) + 1):
                group.create_task(put(number))
        return [part for _, part in sorted(parts.items())]

    async def _checksums(self, data: Sequence[Buffer]) -> dict[str, Any]:
        algorithm = self.config.checksum
        if not algorithm:
            return {}
        return {checksum_option(algorithm): await digest(algorithm, data)}

    async def _abort(self, key: str, upload_id: str) -> None:
        with suppress(*TRANSLATED):  # the first failure is the one to report; stores expire uploads by themselves
            async with asyncio.timeout(_ABORT_SECONDS):
                await self.client.abort_multipart_upload(Bucket=self.config.bucket, Key=key, UploadId=upload_id)

    async def _abort_all(self, key: str) -> None:
        """Abort whatever is under way for this key: names of large blobs are random, so it is ours."""
        with suppress(*TRANSLATED):
            async with asyncio.timeout(_ABORT_SECONDS):
                answer = await self.client.list_multipart_uploads(Bucket=self.config.bucket, Prefix=key)
            for upload in answer.get("Uploads", ()):
                if upload["Key"] == key:
                    await self._abort(key, upload["UploadId"])


async def _finish(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end, also while being canceled."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    task.result()
