"""From a URL to a working storage: the one place that knows which providers and wrappers exist."""

from __future__ import annotations

import asyncio
import os
import random
from urllib.parse import unquote

import msgspec

from agent.base.clock import Clock, SystemClock
from agent.base.errors import UsageError
from agent.base.hold import Hold
from agent.storage import s3_import
from agent.storage.base import BlobStorage
from agent.storage.filesystem import FilesystemStorage
from agent.storage.limit import LimitedStorage, Limits
from agent.storage.meter import MeteredStorage
from agent.storage.opening import OpeningStorage
from agent.storage.pace import Pace
from agent.storage.retry import Retrier, RetryingStorage, RetryPolicy
from agent.storage.s3_config import PARALLEL_PUTS, S3Config, parse_s3_url, split_url


class StorageOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL does not say."""

    retry: RetryPolicy = msgspec.field(default_factory=RetryPolicy)
    limits: Limits = msgspec.field(default_factory=Limits)
    clock: Clock = msgspec.field(default_factory=SystemClock)
    randomness: random.Random = msgspec.field(default_factory=random.Random)

    hold: Hold = msgspec.field(default_factory=Hold)
    """Nothing is asked and no byte passes while it is closed."""

    def retrier(self) -> Retrier:
        """What repeats the calls of one storage."""
        return Retrier(self.retry, self.clock, self.randomness, self.hold)


class StorageStack(MeteredStorage):
    """A provider in all its wrappers, `Metered(Limited(Retrying(provider)))`, with their knobs."""

    def __init__(self, provider: BlobStorage, retrier: Retrier, pace: Pace, options: StorageOptions) -> None:
        self._limited = LimitedStorage(RetryingStorage(provider, retrier), options.limits, options.clock, pace)
        super().__init__(self._limited, options.clock)
        retrier.on_retry = self.count_retry

    @property
    def limits(self) -> Limits:
        """In force now."""
        return self._limited.limits

    async def set_limits(self, limits: Limits) -> None:
        """Change them while work runs."""
        await self._limited.set_limits(limits)


async def open_storage(url: str, *, create: bool = False, options: StorageOptions | None = None) -> StorageStack:
    """The storage at `url`: `file:///abs/path` or `s3://bucket/prefix?…` (see `parse_s3_url`), with all wrappers.

    `create` makes a missing folder; buckets are never made. Raises `UsageError` for a URL that cannot be understood,
    and for a folder the leaves of `StorageError`; those of a bucket, `BucketNotFound` and `AccessDenied` among them,
    come from the first call.
    """
    options = options or StorageOptions()
    parts = split_url(url)
    if parts.scheme == "file":
        pace = Pace(options.clock, hold=options.hold)
        folder = await FilesystemStorage.open(folder_of(url), create=create, pace=pace)
        return StorageStack(folder, options.retrier(), pace, options)
    if parts.scheme == "s3":
        return await open_s3_storage(parse_s3_url(url, os.environ), options=options)
    raise UsageError(
        f"storage URLs of the kind {parts.scheme}: are not known", hint="use file:///abs/path or s3://bucket/prefix"
    )


async def open_s3_storage(config: S3Config, *, options: StorageOptions | None = None) -> StorageStack:
    """The bucket that `config` describes, for callers that hold keys and other secrets, with all wrappers.

    It connects while the caller goes on; the first call raises what keeps it from that.
    """
    s3_import.read_ahead()
    options = options or StorageOptions()
    pace, retrier = Pace(options.clock, hold=options.hold), options.retrier()

    async def connect() -> BlobStorage:
        storage = await asyncio.to_thread(s3_import.s3_storage)
        return await storage.open(config, pace, retrier.for_parts())

    return StorageStack(OpeningStorage(config.location, PARALLEL_PUTS, connect), retrier, pace, options)


def folder_of(url: str) -> str:
    """The path that a `file:` URL names. Raises `UsageError`."""
    parts = split_url(url)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise UsageError(f"storage URL {url!r} names no absolute path", hint="write file:///abs/path, three slashes")
    return path
