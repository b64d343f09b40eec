"""From a URL to a working storage: the one place that knows which providers and wrappers exist."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from agent.base.clock import Clock, SystemClock
from agent.base.errors import UsageError
from agent.storage.base import BlobStorage
from agent.storage.filesystem import FilesystemStorage
from agent.storage.limit import LimitedStorage, Limits
from agent.storage.meter import MeteredStorage
from agent.storage.retry import RetryingStorage, RetryPolicy
from agent.storage.s3_config import S3Config, parse_s3_url


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageOptions:
    """What a URL does not say."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    limits: Limits = field(default_factory=Limits)
    clock: Clock = field(default_factory=SystemClock)
    randomness: random.Random = field(default_factory=random.Random)


async def open_storage(url: str, *, create: bool = False, options: StorageOptions | None = None) -> MeteredStorage:
    """The storage at `url`: `file:///abs/path` or `s3://bucket/prefix?…` (see `parse_s3_url`), with all wrappers.

    `create` makes a missing folder; buckets are never made. Raises `UsageError` for a URL that cannot be understood,
    `BucketNotFound`, `AccessDenied` and the other leaves of `StorageError`.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return wrap_storage(await _open_folder(url, create), options)
    if parts.scheme == "s3":
        return await open_s3_storage(parse_s3_url(url, os.environ), options=options)
    raise UsageError(
        f"storage URLs of the kind {parts.scheme}: are not known", hint="use file:///abs/path or s3://bucket/prefix"
    )


async def open_s3_storage(config: S3Config, *, options: StorageOptions | None = None) -> MeteredStorage:
    """The bucket that `config` describes, for callers that hold keys and other secrets, with all wrappers."""
    from agent.storage.s3 import S3Storage  # noqa: PLC0415  # slow to import

    return wrap_storage(await S3Storage.open(config), options)


def wrap_storage(provider: BlobStorage, options: StorageOptions | None = None) -> MeteredStorage:
    """`Metered(Limited(Retrying(provider)))`."""
    options = options or StorageOptions()
    retrying = RetryingStorage(provider, options.retry, options.clock, options.randomness)
    limited = LimitedStorage(retrying, options.limits, options.clock)
    metered = MeteredStorage(limited, options.clock)
    retrying.on_retry = metered.count_retry
    return metered


async def _open_folder(url: str, create: bool) -> BlobStorage:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise UsageError(f"storage URL {url!r} names no absolute path", hint="write file:///abs/path, three slashes")
    return await FilesystemStorage.open(path, create=create)
