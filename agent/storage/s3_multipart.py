"""Large blobs in parts: a bounded pool over all puts, nothing left behind when one fails or is canceled."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from agent.storage.s3_body import PiecewiseBody, digest
from agent.storage.s3_config import S3Config
from agent.storage.s3_errors import TRANSLATED

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

_ABORT_SECONDS = 10.0
_PART_OPTIONS = frozenset({"SSECustomerAlgorithm", "SSECustomerKey"})


async def put_in_parts(
    client: S3Client,
    config: S3Config,
    key: str,
    body: PiecewiseBody,
    *,
    options: Mapping[str, Any],
    condition: Mapping[str, Any],
    gate: asyncio.Semaphore,
) -> None:
    """Put `body` under `key`. `condition` holds only for the completion, which is when the blob appears."""
    algorithm = config.checksum if config.checksum not in ("", "MD5") else ""
    declared: dict[str, Any] = {"ChecksumAlgorithm": algorithm} if algorithm else {}
    created = await client.create_multipart_upload(Bucket=config.bucket, Key=key, **options, **declared)
    upload_id = created["UploadId"]
    part_options = {name: value for name, value in options.items() if name in _PART_OPTIONS}
    size = config.part_size(len(body))
    parts: list[dict[str, Any]] = []

    async def put_part(number: int) -> None:
        async with gate:
            data = body.slice((number - 1) * size, number * size)
            checks: dict[str, Any] = {}
            if config.checksum:
                name = "Checksum" + algorithm if algorithm else "ContentMD5"
                checks[name] = await digest(config.checksum, data)
            answer = await client.upload_part(
                Bucket=config.bucket,
                Key=key,
                UploadId=upload_id,
                PartNumber=number,
                Body=PiecewiseBody(data),
                **checks,
                **part_options,
            )
        sums = {name: value for name, value in checks.items() if name != "ContentMD5"}
        parts.append({"PartNumber": number, "ETag": answer["ETag"], **sums})

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(1, -(-len(body) // size) + 1):
                group.create_task(put_part(number))
        parts.sort(key=lambda part: int(part["PartNumber"]))
        await client.complete_multipart_upload(
            Bucket=config.bucket,
            Key=key,
            UploadId=upload_id,
            MultipartUpload={"Parts": parts},  # type: ignore[typeddict-item]  # checksums by computed name
            **condition,
            **part_options,
        )
    except BaseException:
        await _abort(client, config.bucket, key, upload_id)
        raise


async def _abort(client: S3Client, bucket: str, key: str, upload_id: str) -> None:
    """Drop the parts; also while being canceled, but not for long."""

    async def abort() -> None:
        with suppress(*TRANSLATED):  # the first failure is the one to report; stores expire uploads by themselves
            async with asyncio.timeout(_ABORT_SECONDS):
                await client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)

    task = asyncio.ensure_future(abort())
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
