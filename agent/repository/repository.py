"""An open repository: the parts of this package put together, for everybody above it.

    storage -> format -> index -> contents -> objects
                                           -> manifests

`Repository.open` derives keys, loads the indexes in force and the manifests, and owns what has to be closed; the
storage stays the caller's. Reading needs nothing more. `writer` gives the other side.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.base.clock import Clock, SystemClock
from agent.base.errors import RepositoryError, RepositoryReadOnly
from agent.repository.content_cache import PackCache
from agent.repository.content_codec import ContentCodec
from agent.repository.content_reader import ContentReader, ReadLimits
from agent.repository.disk_cache import CountedCache, DiskCache, LocalCache, PrivateCache
from agent.repository.ecc import new_cipher
from agent.repository.encryption import Cipher
from agent.repository.format_blob import RepositoryFormat
from agent.repository.format_manager import MAX_AGE_S, FormatManager, cache_folder
from agent.repository.hashing import Hasher, new_hasher
from agent.repository.index_cache import IndexCache
from agent.repository.index_commit import IndexCommitter
from agent.repository.index_set import (
    MAX_AGE_SECONDS,
    ActiveIndexes,
    IndexSet,
    list_epoch_indexes,
    list_legacy_indexes,
)
from agent.repository.manifests import ManifestStore
from agent.repository.object_reader import ObjectReader
from agent.repository.pack_writer import RandomBytes
from agent.repository.retaining import RetainingStorage
from agent.repository.sealer import BlobSealer
from agent.repository.session import new_session_id
from agent.repository.writer import RepositoryWriter, WriterOptions, WriterParts, open_writer
from agent.storage.base import BlobStorage

if TYPE_CHECKING:
    from agent.repository.create import CreateOptions
    from agent.repository.repair import RepairReport

_INDEX_FOLDER = "indexes"
_PACK_FOLDER = "packs"


class OpenOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to open a repository."""

    cache_dir: Path | None = None
    """Shared by processes and repositories; None keeps what has to be local in unnamed temporary files."""
    index_cache_bytes: int = 2 << 30
    pack_cache_bytes: int = 1 << 30
    read_only: bool = False
    ignore_damaged_manifests: bool = False
    """Find what can be found, as `ManifestStore.damaged` tells, instead of refusing."""
    username: str = "default"
    """Who this client is in session markers, and whether it owns the maintenance (§8.1)."""
    hostname: str = "default"
    clock: Clock = msgspec.field(default_factory=SystemClock)
    max_format_age_s: float = MAX_AGE_S
    read_limits: ReadLimits = msgspec.field(default_factory=ReadLimits)


class _Caches(msgspec.Struct, frozen=True):
    indexes: IndexCache
    packs: PackCache
    counted: Mapping[str, CountedCache]
    """What both keep, by name."""

    def close(self) -> None:
        self.indexes.close()
        self.packs.close()


class Repository:
    """One open repository. Made by `open`; everything is usable until its context ends."""

    def __init__(self, storage: BlobStorage, manager: FormatManager, caches: _Caches, options: OpenOptions) -> None:
        self.storage = storage
        self.format_manager = manager
        self.options = options
        self.hasher: Hasher = new_hasher(self.format.hash, self.format.secret)
        self.cipher: Cipher = new_cipher(
            self.format.encryption,
            self.format.master_key,
            ecc=self.format.ecc,
            overhead_percent=self.format.ecc_overhead_percent,
        )
        self.sealer = BlobSealer(self.hasher, self.cipher)
        self.index = IndexSet(storage, self.sealer, caches.indexes, self._list_active, options.clock)
        codec = ContentCodec(self.hasher, self.cipher)
        self.contents = ContentReader(storage, self.index, codec, caches.packs, options.read_limits)
        self.objects = ObjectReader(self.contents)
        self.manifests = ManifestStore(self.contents, ignore_damaged=options.ignore_damaged_manifests)
        self._counted = caches.counted

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        storage: BlobStorage,
        password: str,
        *,
        options: OpenOptions | None = None,
        manager: FormatManager | None = None,
    ) -> AsyncIterator[Repository]:
        """The repository in `storage`; `manager` is its format, where the caller has loaded that already.

        Raises `NotARepository`, `WrongPassword`, `RepositoryLocked`, `NewerFormat`, `RequiredFeatureUnknown`,
        `AlgorithmUnsupported`, `CorruptFormat`, `CorruptIndex`, and what the storage raises. Damaged manifests are
        raised by `manifests` when it is asked.
        """
        options = options or OpenOptions()
        folder = cache_folder(options.cache_dir, storage)
        manager = manager or await FormatManager.load(
            storage, password, cache_dir=folder, clock=options.clock, max_age_s=options.max_format_age_s
        )
        try:
            repository, caches = await cls._load(storage, manager, folder, options)
        except RepositoryError:
            if not await manager.reload(password):
                raise
            # The repository was created anew since its format was cached.
            repository, caches = await cls._load(storage, manager, folder, options)
        try:
            yield repository
        finally:
            await asyncio.to_thread(caches.close)

    @classmethod
    async def _load(
        cls, storage: BlobStorage, manager: FormatManager, folder: Path | None, options: OpenOptions
    ) -> tuple[Repository, _Caches]:
        caches = await asyncio.to_thread(_open_caches, storage, manager.format, folder, options)
        try:
            repository = cls(storage, manager, caches, options)
            await repository.index.refresh()
            await repository.manifests.load()
        except BaseException:
            await asyncio.to_thread(caches.close)
            raise
        return repository, caches

    def cache_lookups(self) -> dict[tuple[str, str], int]:
        """How often `indexes` and `packs` were found locally: by cache, and `hit` or `miss`. Also when it is closed."""
        counts: dict[tuple[str, str], int] = {}
        for name, cache in self._counted.items():
            counts[name, "hit"] = cache.hits
            counts[name, "miss"] = cache.misses
        return counts

    @classmethod
    async def create(
        cls,
        storage: BlobStorage,
        password: str,
        *,
        options: CreateOptions | None = None,
        clock: Clock | None = None,
        random: RandomBytes = os.urandom,
    ) -> RepositoryFormat:
        """Create a repository in an empty `storage`; `open` opens it. Raises as `create_repository`."""
        from agent.repository.create import CreateOptions, create_repository  # noqa: PLC0415  # only here

        clock = clock or SystemClock()

        async def write_manifest(labels: Mapping[str, str], data: msgspec.Raw) -> None:
            opened = cls.open(storage, password, options=OpenOptions(clock=clock))
            async with opened as repository, repository.writer() as writer:
                await writer.put_manifest(labels, data)

        options = options or CreateOptions()
        return await create_repository(storage, password, options, write_manifest, random=random, clock=clock)

    @classmethod
    async def repair_index(
        cls, storage: BlobStorage, password: str, *, commit: bool = False, clock: Clock | None = None
    ) -> RepairReport:
        """Find in the packs what the index lacks, and with `commit` write it; see `repair.repair_index`.

        The index need not be readable, so that this works where `open` raises `CorruptIndex`.
        """
        from agent.repository.repair import RepairParts, repair_index  # noqa: PLC0415  # only here

        clock = clock or SystemClock()
        manager = await FormatManager.load(storage, password, cache_dir=None, clock=clock)
        found = manager.format
        hasher = new_hasher(found.hash, found.secret)
        cipher = new_cipher(
            found.encryption, found.master_key, ecc=found.ecc, overhead_percent=found.ecc_overhead_percent
        )
        sealer = BlobSealer(hasher, cipher)
        parts = RepairParts(storage, found, hasher, cipher, sealer)
        if not commit:
            return await repair_index(parts)
        committer = IndexCommitter(
            RetainingStorage(storage, lambda: manager.object_lock, clock),
            sealer,
            clock,
            epochs=found.epoch_parameters.enabled,
            refresh_frequency_ns=found.epoch_parameters.epoch_refresh_frequency,
        )
        return await repair_index(
            parts, committer=committer, new_session=lambda: new_session_id(clock.now_ns(), os.urandom)
        )

    @property
    def format(self) -> RepositoryFormat:
        """What the format blob says, as last read."""
        return self.format_manager.format

    async def refresh(self) -> None:
        """Format, indexes and manifests as they are now. Raises as `open` does."""
        await self.format_manager.current()
        await self.index.refresh()
        await self.manifests.load()

    async def refresh_if_older(self, seconds: float = MAX_AGE_SECONDS) -> None:
        """The same when the indexes are older than this; long runs call it now and then (§5.1)."""
        await self.format_manager.current()
        if await self.index.refresh_if_older(seconds):
            await self.manifests.load()

    @asynccontextmanager
    async def writer(self, options: WriterOptions | None = None) -> AsyncIterator[RepositoryWriter]:
        """A writer for the time of the block, at whose end it flushes. Raises `RepositoryReadOnly`."""
        if self.options.read_only:
            raise RepositoryReadOnly(f"the repository in {self.storage.location} was opened for reading only")
        parts = WriterParts(
            self.storage,
            self.format_manager,
            self.hasher,
            self.cipher,
            self.sealer,
            self.index,
            self.manifests,
            self.options.clock,
            self.options.username,
            self.options.hostname,
        )
        async with open_writer(parts, options or WriterOptions()) as writer:
            yield writer

    async def _list_active(self) -> ActiveIndexes:
        if self.format.epoch_parameters.enabled:
            return await list_epoch_indexes(self.storage)
        return await list_legacy_indexes(self.storage, self.sealer)


def _open_caches(
    storage: BlobStorage, repository_format: RepositoryFormat, folder: Path | None, options: OpenOptions
) -> _Caches:
    def files(name: str, limit: int) -> LocalCache:
        counted[name] = CountedCache(found(name, limit))
        return counted[name]

    def found(name: str, limit: int) -> LocalCache:
        if folder is None:
            return PrivateCache(limit)
        try:
            return DiskCache(str(folder / name), repository_format.cache_key, limit)
        except OSError:  # read-only, or full: a cache is never worth an error
            return PrivateCache(limit)

    counted: dict[str, CountedCache] = {}
    return _Caches(
        IndexCache(files(_INDEX_FOLDER, options.index_cache_bytes)),
        PackCache(storage, files(_PACK_FOLDER, options.pack_cache_bytes)),
        counted,
    )
