"""Loads `kopia.repository` and `kopia.blobcfg`, keeps them current in long runs, and changes the password (§2.5, §2.7).

Deriving the key from the password is slow on purpose, so it happens once, in a thread; a refresh uses the key that is
there. The two blobs are cached on disk for up to 15 minutes as kopia caches them, which bounds how old a view of the
repository can be: an upgrade lock or a new password is noticed within that time by everybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import msgspec

from agent.base.clock import Clock, SystemClock
from agent.base.errors import (
    BlobNotFound,
    CorruptFormat,
    NotARepository,
    RepositoryError,
    RepositoryReadOnly,
    UsageError,
    WrongPassword,
)
from agent.base.times import NANOSECONDS
from agent.repository.format_blob import (
    BLOBCFG_BLOB,
    FORMAT_BLOB,
    Envelope,
    ObjectLock,
    RepositoryFormat,
    build_blobcfg,
    ensure_unlocked,
    open_format,
    parse_blobcfg,
    parse_envelope,
)
from agent.repository.kdf import derive_password_key
from agent.storage.base import BlobId, BlobStorage

MAX_AGE_S = 15 * 60
"""How long a cached format is believed; longer is not allowed (§2.5)."""
MAX_FORMAT_BLOB_LENGTH = 1 << 20
"""Bytes; real ones have about 1,500. Bounds what a hostile store can make us load."""


class _Blobs(msgspec.Struct, frozen=True):
    """The two blobs as read, together."""

    format: bytes
    blobcfg: bytes | None
    fetched_ns: int
    """When the older of the two was fetched."""
    cached: bool


class FormatManager:
    """The current format of one open repository. Loop side; however many tasks ask, one refreshes at a time."""

    def __init__(self, storage: BlobStorage, cache: _FormatCache, clock: Clock, max_age_s: float) -> None:
        self._storage = storage
        self._cache = cache
        self._clock = clock
        self._max_age_ns = int(max(0.0, min(max_age_s, MAX_AGE_S)) * NANOSECONDS)
        self._lock = asyncio.Lock()
        self._fetched_ns = 0
        self._from_cache = False
        self._format: RepositoryFormat
        self._object_lock: ObjectLock | None = None

    @classmethod
    async def load(
        cls,
        storage: BlobStorage,
        password: str,
        *,
        cache_dir: Path | None = None,
        clock: Clock | None = None,
        max_age_s: float = MAX_AGE_S,
    ) -> FormatManager:
        """Read, derive, open and check.

        `cache_dir` is private to this repository; with `max_age_s` 0 nothing cached is believed. Raises
        `NotARepository`, `WrongPassword`, `RepositoryLocked` and the errors of `open_format` and `parse_blobcfg`.
        """
        real_clock = clock or SystemClock()
        manager = cls(storage, _FormatCache(cache_dir), real_clock, max_age_s)
        blobs = await manager._read(believe_cache=True)
        try:
            await manager._open_with_password(blobs, password)
        except RepositoryError:
            if not blobs.cached:
                raise
            # The password may have changed, or an upgrade ended, since the blobs were cached.
            await manager._open_with_password(await manager._read(believe_cache=False), password)
        return manager

    async def reload(self, password: str) -> bool:
        """Forget what was cached, read, derive and open once more; whether the format is another one now.

        For whoever finds that nothing can be read with a format that came from the cache: the repository may have been
        created anew in the same place. Returns False at once when it did not come from the cache. Raises as `load`.
        """
        async with self._lock:
            if not self._from_cache:
                return False
            before = self._format
            await self._open_with_password(await self._read(believe_cache=False), password)
            return before != self._format

    @property
    def format(self) -> RepositoryFormat:
        """The format as last read."""
        return self._format

    @property
    def object_lock(self) -> ObjectLock | None:
        """What puts of protected blobs have to ask for, as last read (§9)."""
        return self._object_lock

    async def current(self) -> RepositoryFormat:
        """The format, at most `max_age_s` old: call before storage operations of a long run.

        Raises `RepositoryLocked` when an upgrade has begun, `WrongPassword` when the password was changed.
        """
        if not self._fresh(self._fetched_ns):
            async with self._lock:
                if not self._fresh(self._fetched_ns):
                    await self._reread()
        ensure_unlocked(self._format, self._clock.now_ns())
        return self._format

    async def refresh(self) -> bool:
        """Read both blobs anew with the key already derived (§2.5). Returns whether anything is different.

        Raises as `current`.
        """
        async with self._lock:
            before = (self._format, self._object_lock)
            await self._reread()
            ensure_unlocked(self._format, self._clock.now_ns())
            return before != (self._format, self._object_lock)

    async def _reread(self) -> None:
        blobs = await self._read(believe_cache=False)
        try:
            self._take(blobs, self._format.password_key)
        except WrongPassword as error:
            raise WrongPassword(
                "the password of the repository was changed while it was in use",
                hint="open it again with the new password",
            ) from error

    async def _open_with_password(self, blobs: _Blobs, password: str) -> None:
        envelope = parse_envelope(blobs.format)
        key = await _derive(envelope, password)
        self._take(blobs, key)
        ensure_unlocked(self._format, self._clock.now_ns())

    def _take(self, blobs: _Blobs, key: bytes) -> None:
        envelope = parse_envelope(blobs.format)
        opened = open_format(envelope, key)
        object_lock = None if blobs.blobcfg is None else parse_blobcfg(blobs.blobcfg, envelope.unique_id, key)
        self._format, self._object_lock, self._fetched_ns = opened, object_lock, blobs.fetched_ns
        self._from_cache = blobs.cached

    def _fresh(self, fetched_ns: int) -> bool:
        return 0 <= self._clock.now_ns() - fetched_ns < self._max_age_ns

    async def _read(self, *, believe_cache: bool) -> _Blobs:
        if believe_cache:
            cached = await asyncio.to_thread(self._cache.read)
            if cached is not None and self._fresh(cached.fetched_ns):
                return cached
        fetched_ns = self._clock.now_ns()
        blob = await _get_format(self._storage)
        blobs = _Blobs(blob, await _get_small(self._storage, BLOBCFG_BLOB), fetched_ns, cached=False)
        await asyncio.to_thread(self._cache.write, blobs)
        return blobs


def cache_folder(cache_dir: Path | None, storage: BlobStorage) -> Path | None:
    """Where what is cached of `storage` lies, given the folder for all.

    A folder per location, since the format blob is cached before anything tells repositories apart.
    """
    if cache_dir is None:
        return None
    return cache_dir / hashlib.blake2b(storage.location.encode(), digest_size=12).hexdigest()


async def change_password(
    storage: BlobStorage,
    old_password: str,
    new_password: str,
    *,
    cache_dir: Path | None = None,
    clock: Clock | None = None,
) -> None:
    """Seal the format with a new password; no other blob changes (§2.7). Safe to repeat after a crash.

    Two blobs depend on the password and cannot be replaced at once. Without retention settings `kopia.blobcfg` says
    nothing, and a missing one means the same (§13.10): it is removed first and written last, so that at every moment
    either the old or the new password opens the repository. With retention settings it must not go missing: it is
    written first, as kopia does, and a crash right after leaves a repository that no password opens. Calling this
    again with the same passwords repairs that; `parse_blobcfg` says so in its hint.

    Raises `RepositoryReadOnly` when the repository cannot change its password (§13.1), `WrongPassword`.
    """
    if not new_password:
        raise UsageError("the new password is empty")
    real_clock = clock or SystemClock()
    envelope = parse_envelope(await _get_format(storage))
    sealed_blobcfg = await _get_small(storage, BLOBCFG_BLOB)
    old_key = await _derive(envelope, old_password)
    opened = open_format(envelope, old_key)
    if not opened.enable_password_change:
        raise RepositoryReadOnly(
            "this repository cannot change its password: it was created in format version 1, "
            "where other keys depend on the password",
            hint="create a new repository and copy the snapshots",
        )
    now_ns = real_clock.now_ns()
    ensure_unlocked(opened, now_ns)
    new_key = await _derive(envelope, new_password)
    object_lock = _blobcfg_of_either_key(sealed_blobcfg, envelope, old_key, new_key)
    resealed = envelope.resealed(old_key, new_key)
    new_blobcfg = build_blobcfg(object_lock, envelope.unique_id, new_key)
    if object_lock is None:
        await storage.delete([BLOBCFG_BLOB])
        await storage.put(FORMAT_BLOB, [resealed.blob])
        await storage.put(BLOBCFG_BLOB, [new_blobcfg])
    else:
        retention = object_lock.retention(now_ns)
        await storage.put(BLOBCFG_BLOB, [new_blobcfg], retention=retention)
        await storage.put(FORMAT_BLOB, [resealed.blob], retention=retention)
    await asyncio.to_thread(_FormatCache(cache_dir).remove)


def _blobcfg_of_either_key(
    sealed: bytes | None, envelope: Envelope, old_key: bytes, new_key: bytes
) -> ObjectLock | None:
    """The settings, also where an interrupted change of the password left them sealed with the new key."""
    if sealed is None:
        return None
    try:
        return parse_blobcfg(sealed, envelope.unique_id, old_key)
    except CorruptFormat as error:
        try:
            return parse_blobcfg(sealed, envelope.unique_id, new_key)
        except CorruptFormat:
            raise error from None


async def _derive(envelope: Envelope, password: str) -> bytes:
    return await asyncio.to_thread(derive_password_key, envelope.key_algorithm, password, envelope.unique_id)


async def _get_format(storage: BlobStorage) -> bytes:
    blob = await _get_small(storage, FORMAT_BLOB)
    if blob is None:
        raise NotARepository(
            f"{storage.location} holds no repository: there is no blob {FORMAT_BLOB}",
            hint="check the location, or create a repository there",
        )
    return blob


async def _get_small(storage: BlobStorage, blob_id: BlobId) -> bytes | None:
    try:
        length = (await storage.stat(blob_id)).length
        if length > MAX_FORMAT_BLOB_LENGTH:
            raise CorruptFormat(f"{blob_id} in {storage.location} has {length} bytes, far more than it can need")
        return bytes(await storage.get(blob_id))
    except BlobNotFound:
        return None


class _FormatCache:
    """The two blobs in a folder, each file's time being that of its fetch. Any trouble is a cache miss."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def read(self) -> _Blobs | None:
        if self._folder is None:
            return None
        try:
            blob, fetched_ns = _read_cached(self._folder / FORMAT_BLOB)
            blobcfg, blobcfg_ns = _read_cached(self._folder / BLOBCFG_BLOB)
        except OSError:
            return None
        return _Blobs(blob, blobcfg, min(fetched_ns, blobcfg_ns), cached=True)

    def write(self, blobs: _Blobs) -> None:
        if self._folder is None:
            return
        if blobs.blobcfg is None:
            self.remove()
            return
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_cached(self._folder / BLOBCFG_BLOB, blobs.blobcfg, blobs.fetched_ns)
            _write_cached(self._folder / FORMAT_BLOB, blobs.format, blobs.fetched_ns)

    def remove(self) -> None:
        if self._folder is None:
            return
        for blob_id in (FORMAT_BLOB, BLOBCFG_BLOB):
            with contextlib.suppress(OSError):
                (self._folder / blob_id).unlink()


def _read_cached(path: Path) -> tuple[bytes, int]:
    with open(path, "rb") as file:
        return file.read(MAX_FORMAT_BLOB_LENGTH), os.fstat(file.fileno()).st_mtime_ns


def _write_cached(path: Path, data: bytes, fetched_ns: int) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.utime(file.fileno(), ns=(fetched_ns, fetched_ns))
            os.replace(file.name, path)
        except OSError:
            os.unlink(file.name)
            raise
