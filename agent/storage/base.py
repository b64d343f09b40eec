"""The contract between the repository and the outside: named, immutable-by-habit blobs of bytes.

Providers (`filesystem`, `s3`) implement `BlobStorage`; wrappers (`retry`, `limit`, `meter`, …) take one and are one.
`agent.testing.storage_conformance` is the executable form of this contract.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NewType, Protocol

Buffer = bytes | bytearray | memoryview
"""What is accepted as bytes. A `memoryview` is one-dimensional, contiguous, of unsigned bytes."""

BlobId = NewType("BlobId", str)


@dataclass(frozen=True, slots=True)
class BlobMetadata:
    """What a listing tells of a blob."""

    blob_id: BlobId
    length: int
    """Bytes."""
    timestamp_ns: int
    """The storage's own modification time, unix nanoseconds. Safety rules compare these, never local clocks."""


@dataclass(frozen=True, slots=True)
class Retention:
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

    async def get(self, blob_id: BlobId, offset: int = 0, length: int | None = None) -> Buffer:
        """The blob's bytes from `offset`, `length` of them or all the rest.

        Exactly the asked range is returned: a range that reaches beyond the blob's end is `StorageError`.
        Raises `BlobNotFound`.
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
        raises `BlobExists`. A provider that cannot lock objects raises `StorageUnsupported` for `retention`.
        """
        ...

    async def stat(self, blob_id: BlobId) -> BlobMetadata:
        """Length and storage time of one blob. Raises `BlobNotFound`."""
        ...

    def list(self, prefix: str = "") -> AsyncIterator[BlobMetadata]:
        """Every blob whose id starts with `prefix`, in no particular order."""
        ...

    async def delete(self, blob_ids: Sequence[BlobId]) -> None:
        """Delete these blobs, in batches where the store can. Deleting what is gone is no error."""
        ...

    async def close(self) -> None:
        """Release connections. Idempotent."""
        ...
