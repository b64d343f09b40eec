"""From a URL to a working storage: the one place that knows which providers and wrappers exist."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from agent.base.clock import Clock, SystemClock
from agent.base.errors import UsageError
from agent.storage.base import BlobStorage
from agent.storage.filesystem import FilesystemStorage


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageOptions:
    """What a URL does not say."""

    clock: Clock = field(default_factory=SystemClock)


async def open_storage(url: str, *, create: bool = False, options: StorageOptions | None = None) -> BlobStorage:
    """The storage at `url`: `file:///abs/path`.

    `create` makes a missing folder. Raises `UsageError` for a URL that cannot be understood, `BucketNotFound`,
    `AccessDenied` and the other leaves of `StorageError`.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return await _open_folder(url, create)
    raise UsageError(f"storage URL {url!r} cannot be understood", hint="use file:///abs/path")


async def _open_folder(url: str, create: bool) -> BlobStorage:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise UsageError(f"storage URL {url!r} names no absolute path", hint="write file:///abs/path, three slashes")
    return await FilesystemStorage.open(path, create=create)
