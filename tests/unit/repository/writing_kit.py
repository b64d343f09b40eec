"""A repository opened over any storage with keys at hand, so that tests of writing spend no time on a password."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial

from agent.base.clock import Clock, SystemClock
from agent.repository.content_cache import PackCache
from agent.repository.content_codec import ContentCodec
from agent.repository.content_reader import ContentReader
from agent.repository.disk_cache import PrivateCache
from agent.repository.encryption import ContentCipher
from agent.repository.format_blob import DEFAULT_EPOCH_PARAMETERS, EpochParameters, ObjectLock, RepositoryFormat
from agent.repository.hashing import new_hasher
from agent.repository.index_cache import IndexCache
from agent.repository.index_set import IndexSet, list_epoch_indexes, list_legacy_indexes
from agent.repository.manifests import ManifestStore
from agent.repository.object_reader import ObjectReader
from agent.repository.pack_writer import RandomBytes
from agent.repository.sealer import BlobSealer
from agent.repository.writer import RepositoryWriter, WriterOptions, WriterParts, open_writer
from agent.storage.base import BlobStorage

CACHE_BYTES = 1 << 30


def make_format(
    *, version: int = 3, max_pack_size: int = 1 << 16, splitter: str = "DYNAMIC-128K-BUZHASH"
) -> RepositoryFormat:
    """Velero's defaults except for the sizes, which are small; version 1 as kopia makes it."""
    old = version == 1
    return RepositoryFormat(
        unique_id=bytes(32),
        key_algorithm="scrypt-65536-8-1",
        hash="BLAKE2B-256-128",
        encryption="AES256-GCM-HMAC-SHA256",
        splitter=splitter,
        version=version,
        index_version=1 if old else 2,
        max_pack_size=max_pack_size,
        epoch_parameters=EpochParameters() if old else DEFAULT_EPOCH_PARAMETERS,
        enable_password_change=not old,
        ecc="",
        ecc_overhead_percent=0,
        upgrade_lock=None,
        required_features=(),
        secret=b"s" * 32,
        master_key=b"m" * 32,
        password_key=b"p" * 32,
        blob=b'{"format": "blob"}',
    )


class FixedFormat:
    """A format that does not change by itself."""

    def __init__(self, repository_format: RepositoryFormat, object_lock: ObjectLock | None = None) -> None:
        self.format = repository_format
        self.object_lock = object_lock
        self.asked = 0

    async def current(self) -> RepositoryFormat:
        self.asked += 1
        return self.format


@dataclass(frozen=True)
class Kit:
    """One client of a repository: the read side, and writers."""

    parts: WriterParts
    contents: ContentReader
    objects: ObjectReader

    @property
    def index(self) -> IndexSet:
        return self.parts.index

    @property
    def manifests(self) -> ManifestStore:
        return self.parts.manifests

    def writer(self, **options: int | float | str) -> AbstractAsyncContextManager[RepositoryWriter]:
        return open_writer(self.parts, WriterOptions(**options))  # type: ignore[arg-type]


async def open_kit(
    storage: BlobStorage,
    formats: FixedFormat | None = None,
    *,
    clock: Clock | None = None,
    random: RandomBytes = os.urandom,
) -> Kit:
    """What `Repository.open` does, with the format given."""
    formats = formats or FixedFormat(make_format())
    clock = clock or SystemClock()
    repository_format = formats.format
    hasher = new_hasher(repository_format.hash, repository_format.secret)
    cipher = ContentCipher(repository_format.encryption, repository_format.master_key)
    sealer = BlobSealer(hasher, cipher)
    list_active: Callable[[], Awaitable[object]] = (
        partial(list_epoch_indexes, storage)
        if repository_format.epoch_parameters.enabled
        else partial(list_legacy_indexes, storage, sealer)
    )
    index = IndexSet(storage, sealer, IndexCache(PrivateCache(CACHE_BYTES)), list_active, clock)  # type: ignore[arg-type]
    await index.refresh()
    packs = PackCache(storage, PrivateCache(CACHE_BYTES))
    contents = ContentReader(storage, index, ContentCodec(hasher, cipher), packs)
    manifests = ManifestStore(contents)
    parts = WriterParts(storage, formats, hasher, cipher, sealer, index, manifests, clock, "u", "h", random)
    return Kit(parts, contents, ObjectReader(contents))


async def in_thread(call, *args):  # type: ignore[no-untyped-def]
    """Thread-side methods from a test on the loop."""
    return await asyncio.to_thread(call, *args)
