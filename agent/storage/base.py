"""The contract between the repository and the outside: named, immutable-by-habit blobs of bytes.

Providers (`filesystem`, `s3`) implement `BlobStorage`; wrappers (`retry`, `limit`, `meter`, …) take one and are one.
`agent.testing.storage_conformance` is the executable form of this contract.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import NewType, Protocol

import msgspec

from agent.base.errors import BlobIdInvalid

Buffer = bytes | bytearray | memoryview
"""What is accepted as bytes. A `memoryview` is one-dimensional, contiguous, of unsigned bytes."""

BlobId = NewType("BlobId", str)

_VALID_ID = re.compile(r"[!-.0-[\]-~]+\Z").match

MAX_BLOB_ID_LENGTH = 200
"""Characters. Longer ones do not fit a file name together with the suffix of a temporary file."""


def check_blob_id(blob_id: BlobId) -> None:
    """Raise `BlobIdInvalid` for what cannot name a blob in every store.

    Valid are 1 to 200 printable ASCII characters other than space and slashes of either kind, the first of them not a
    dot: then an id is never a path, never hidden, and means the same to every store.
    """
    if not 0 < len(blob_id) <= MAX_BLOB_ID_LENGTH or blob_id[0] == "." or not _VALID_ID(blob_id):
        raise BlobIdInvalid(f"a blob cannot be named {blob_id[:80]!r}")


class BlobMetadata(msgspec.Struct, frozen=True):
    """What a listing tells of a blob."""

    blob_id: BlobId
    length: int
    """Bytes."""
    timestamp_ns: int
    """The storage's own modification time, unix nanoseconds. Safety rules compare these, never local clocks."""


class Retention(msgspec.Struct, frozen=True):
    """Object-lock parameters of one put."""

    mode: str
    """`GOVERNANCE` or `COMPLIANCE`."""
    until_ns: int
    """Unix nanoseconds."""


class BlobStorage(Protocol):
    """A flat set of blobs with read-after-write and list-after-write consistency and atomic puts.

    All methods may be called concurrently. All raise leaves of `agent.base.errors.StorageError` only. Canceling a call
    leaves the blob either as it was or completely written.
    """

    @property
    def location(self) -> str:
        """Where this is, for people: a URL without secrets."""
        ...

    @property
    def parallel_puts(self) -> int:
        """How many large puts at once are of use: more only cost memory where one disk takes them all."""
        ...

    async def get(self, blob_id: BlobId, offset: int = 0, length: int | None = None) -> Buffer:
        """The blob's bytes from `offset`, `length` of them or all the rest.

        Exactly the asked range is returned: one that reaches beyond the blob's end raises `BlobTooShort`; an offset at
        the very end, or a length of 0, gives no bytes. Raises `BlobNotFound`.
        """
        ...

    async def put(
        self,
        blob_id: BlobId,
        data: Sequence[Buffer],
        *,
        if_absent: bool = False,
        retention: Retention | None = None,
    ) -> None:
        """Write the concatenation of `data`, durable when the call returns, never visible in part.

        The buffers stay owned by the caller and must not change until the call ends. With `if_absent` an existing blob
        raises `BlobExists` (a few S3-compatible stores ignore the condition and overwrite). A provider that cannot lock
        objects raises `StorageUnsupported` for `retention`, one without conditional puts for `if_absent`.
        """
        ...

    async def stat(self, blob_id: BlobId) -> BlobMetadata:
        """Length and storage time of one blob. Raises `BlobNotFound`."""
        ...

    def list(self, prefix: str = "") -> AsyncIterator[BlobMetadata]:
        """Every blob whose id starts with `prefix`, in no particular order, each once.

        Blobs put or deleted while the listing runs may or may not be in it; all others are.
        """
        ...

    async def delete(self, blob_ids: Sequence[BlobId]) -> None:
        """Delete these blobs, in batches where the store can. Deleting what is gone is no error."""
        ...

    async def close(self) -> None:
        """Release connections. Idempotent."""
        ...
