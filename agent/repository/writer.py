"""The write side of a repository in one place: `RepositoryWriter`.

`Repository.writer()` makes one with `open_writer`; upload, retention and maintenance write through it and see none of
the modules below it. One writer writes for as long as its owner likes and commits as often: `flush` is the barrier.

Threads that write may wait for uploads and flushes; a flush therefore has threads of its own. Storage and caches use
the loop's default executor now and then: a caller with many threads brings its own, or all could wait for each other.

    threads → ContentWriter → PackUploader → storage          flush: Flusher → IndexCommitter → storage → index
              (object_writer)                                        (manifest_writer)
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Protocol

import msgspec

from agent.base.clock import Clock
from agent.base.errors import CanceledError, ManifestNotFound, WriteConflict
from agent.base.times import NANOSECONDS
from agent.repository.content_writer import ContentWriter, WriteLimits, WriterStats
from agent.repository.encryption import Cipher
from agent.repository.flush import Flusher, FlushSchedule
from agent.repository.format_blob import ObjectLock, RepositoryFormat
from agent.repository.hashing import Hasher
from agent.repository.ids import NO_PREFIX, ContentId, ManifestId, ObjectId
from agent.repository.index_commit import IndexCommitter
from agent.repository.index_set import IndexSet
from agent.repository.manifest_writer import COMPACT_FROM, JsonValue, ManifestWriter
from agent.repository.manifests import ManifestStore
from agent.repository.object_writer import ObjectFormat, ObjectPart, ObjectWriter, PartWriter, assemble, concatenate
from agent.repository.pack import encode_recovery_block
from agent.repository.pack_upload import PackUploader
from agent.repository.pack_writer import PackFormat, RandomBytes
from agent.repository.retaining import RetainingStorage
from agent.repository.sealer import BlobSealer
from agent.repository.splitter import new_splitter
from agent.repository.write_session import SessionMarkers
from agent.storage.base import BlobStorage, Buffer

ZSTD_FASTEST = 0x1101
MAX_PACK_SIZE = 120 << 20
"""Bytes, the largest that kopia allows; what a format blob says beyond that does not make us map more memory."""
_DRIFT_S = 5 * 60


class WriterOptions(msgspec.Struct, frozen=True):
    """How a writer writes; the defaults are kopia's."""

    parallel_uploads: int = 0
    """Full packs on their way to the store before threads that write have to wait; 0: as many as it finds useful."""
    metadata_compression: int = ZSTD_FASTEST
    """Header id of the compressor of object lists (§4.2); 0 for none."""
    flush_entries: int = 24_576
    """So many contents are kept in memory before an index is written, which ends the packs they are in as well."""
    flush_interval: float = 600.0
    """Seconds after which an index is written even when few contents are pending."""


class FormatSource(Protocol):
    """What is needed of `FormatManager`."""

    @property
    def format(self) -> RepositoryFormat:
        """As last read."""
        ...

    @property
    def object_lock(self) -> ObjectLock | None:
        """As last read."""
        ...

    async def current(self) -> RepositoryFormat:
        """At most 15 minutes old. Raises `RepositoryLocked`, `WrongPassword`."""
        ...


class WriterParts(msgspec.Struct, frozen=True):
    """What an open repository lends its writer."""

    storage: BlobStorage
    formats: FormatSource
    hasher: Hasher
    cipher: Cipher
    sealer: BlobSealer
    index: IndexSet
    manifests: ManifestStore
    clock: Clock
    username: str
    """With `hostname`, who is named in session markers."""
    hostname: str
    random: RandomBytes = os.urandom


class RepositoryWriter:
    """See the module. Methods that are not `async` are thread side and thread-safe unless they say otherwise."""

    def __init__(
        self,
        parts: WriterParts,
        objects: ObjectFormat,
        manifests: ManifestWriter,
        flusher: Flusher,
    ) -> None:
        self._parts = parts
        self._contents = objects.contents
        self._objects = objects
        self._manifests = manifests
        self._flusher = flusher
        self._known_indexes = set(parts.index.blob_ids)
        self._watermark_s = parts.index.watermark_s

    @property
    def stats(self) -> WriterStats:
        """Counters as they are now. Either side."""
        return self._contents.stats()

    def write_content(self, data: Buffer, prefix: int = NO_PREFIX, compression: int = 0) -> ContentId:
        """The id of this content, which is in the repository after the next flush. May wait for uploads."""
        return self._contents.write_content(data, prefix, compression)

    def write_contents(self, data: Sequence[Buffer], prefix: int = NO_PREFIX, compression: int = 0) -> list[ContentId]:
        """`write_content` for many, much cheaper for each."""
        return self._contents.write_contents(data, prefix, compression)

    def new_object(self, prefix: int = NO_PREFIX, compression: int = 0, splitter: str | None = None) -> ObjectWriter:
        """Begin an object; `splitter` by name, the repository's own by default."""
        chosen = self._objects.splitter if splitter is None else new_splitter(splitter)
        return ObjectWriter(self._objects, chosen, prefix, compression)

    def new_part(self, compression: int = 0, splitter: str | None = None) -> PartWriter:
        """Begin one part of a file that is written in parts (§6.2)."""
        chosen = self._objects.splitter if splitter is None else new_splitter(splitter)
        return PartWriter(self._objects, chosen, compression)

    def assemble(
        self, entries: Iterable[tuple[int, ObjectId]], prefix: int = NO_PREFIX, compression: int | None = None
    ) -> ObjectId:
        """The object made of these (length, object id) in order; a list is written when there are several, with this
        compression or the one of `WriterOptions`.
        """
        return assemble(self._objects, entries, prefix, compression)

    def concatenate(self, parts: Iterable[ObjectPart], compression: int | None = None) -> ObjectId:
        """The object made of these parts in order; its list as by `assemble`."""
        return concatenate(self._objects, parts, compression)

    async def put_manifest(self, labels: Mapping[str, str], data: Mapping[str, JsonValue] | msgspec.Raw) -> ManifestId:
        """A new manifest, in the repository after the next `flush`. Everything it refers to must be written already.

        Raises `UsageError` without a label `type`, `CorruptManifest` when it could not be read back.
        """
        self._contents.check()
        return self._manifests.put(labels, data)

    async def delete_manifest(self, mid: ManifestId) -> None:
        """Put a tombstone, in force after the next `flush`. Raises `ManifestNotFound`."""
        self._contents.check()
        pending = [item for item in self._manifests.pending() if item.id == mid]
        if pending and pending[-1].deleted:
            raise ManifestNotFound(f"manifest {mid[:80]!r} was deleted just before")
        if not pending:
            await self._parts.manifests.load()
        item = pending[-1] if pending else self._parts.manifests.get(mid)
        self._manifests.delete(mid, item.modified_ns)

    async def flush(self) -> None:
        """Everything written before is part of the repository when this returns.

        Canceled or failed, nothing of it is lost: the next flush goes on. Raises what poisoned the writer, if anything.
        """
        await self._flusher.flush()

    async def compact_manifests(self) -> bool:
        """Write all manifests as one content when they lie in many (§14.15), and flush; whether that was worth it.

        After a snapshot is a good time. Does nothing while manifests are damaged: what cannot be read stays. Where the
        index that is loaded knows of few, nothing is asked of the store: others may have written more since, and then
        the next backup sees them.
        """
        store, index = self._parts.manifests, self._parts.index
        if await asyncio.to_thread(store.count) < COMPACT_FROM:
            return False
        await index.refresh()
        await store.load()
        live = store.find({})
        read = [entry for entry in map(index.find, store.contents) if entry is not None]
        if len(read) < COMPACT_FROM or store.damaged:
            return False
        await self._flusher.flush(lambda: self._manifests.write_compacted(live, read))
        return True

    async def contents_deleted_since(self, start_ns: int) -> bool:
        """Refresh the index and tell whether somebody marked contents deleted since `start_ns`, unix time (§14.6).

        Asked before a final manifest: when true, contents that this run deduplicated against may be among them, and the
        new tree has to be walked once, writing again what `Repository.contents.find` shows as deleted or absent. May be
        true without need, never false.
        """
        index = self._parts.index
        await index.refresh()
        if index.watermark_s != self._watermark_s:
            return True
        if set(index.blob_ids) <= self._known_indexes | self._flusher.own_indexes:
            return False
        return await asyncio.to_thread(_any_deleted, index, start_ns // NANOSECONDS - _DRIFT_S)


def _any_deleted(index: IndexSet, since_s: int) -> bool:
    return any(entry.deleted and entry.time_s >= since_s for entry in index.iterate())


@asynccontextmanager
async def open_writer(parts: WriterParts, options: WriterOptions) -> AsyncIterator[RepositoryWriter]:
    """A writer for the time of the block.

    At the end of the block it flushes. When the block raises, what was not flushed is given up: its packs are left to
    maintenance, under a marker that protects them for four days. Threads that still write get `CanceledError`.
    """
    failure: Exception | None = None
    threads = ThreadPoolExecutor(2, thread_name_prefix="flush")
    async with asyncio.TaskGroup() as tasks:
        storage = RetainingStorage(parts.storage, lambda: parts.formats.object_lock, parts.clock)
        repository_format = parts.formats.format
        check_format = _format_check(parts.formats)
        markers = SessionMarkers(storage, parts.sealer, parts.clock, parts.username, parts.hostname)
        parallel_uploads = options.parallel_uploads or storage.parallel_puts
        uploader = PackUploader(storage, markers, check_format, tasks, parallel_uploads)
        splitter = new_splitter(repository_format.splitter)
        limits = WriteLimits(parallel_uploads, parts.cipher.sealed_length(splitter.max_chunk), options.flush_entries)
        contents = ContentWriter(
            parts.index, _pack_format(parts), limits, uploader, clock=parts.clock, random=parts.random
        )
        manifests = ManifestWriter(contents, parts.clock, parts.random)
        epochs = repository_format.epoch_parameters
        committer = IndexCommitter(
            storage,
            parts.sealer,
            parts.clock,
            epochs=epochs.enabled,
            refresh_frequency_ns=epochs.epoch_refresh_frequency,
        )
        flusher = Flusher(
            contents,
            manifests,
            uploader,
            markers,
            committer=committer,
            indexes=parts.index,
            check_format=check_format,
            clock=parts.clock,
            threads=threads,
        )
        objects = ObjectFormat(contents, splitter, options.metadata_compression)
        schedule = FlushSchedule(flusher, contents, uploader, parts.clock, options.flush_interval)
        scheduled = tasks.create_task(schedule.run(), name="flush schedule")
        try:
            yield RepositoryWriter(parts, objects, manifests, flusher)
            await flusher.flush()
        except Exception as error:  # noqa: BLE001 - raised again below, bare: a task group would wrap it
            failure = error
        finally:
            contents.fail(CanceledError("the repository writer has ended, nothing can be written any more"))
            scheduled.cancel()
            uploader.cancel()
            threads.shutdown(wait=False)
    if failure is not None:
        raise failure


def _pack_format(parts: WriterParts) -> PackFormat:
    repository_format = parts.formats.format
    copy = repository_format.recovery_copy
    return PackFormat(
        parts.hasher,
        parts.cipher,
        repository_format.version,
        repository_format.index_version,
        min(repository_format.max_pack_size, MAX_PACK_SIZE),
        b"" if copy is None else encode_recovery_block(copy),
    )


def _format_check(formats: FormatSource) -> Callable[[], Awaitable[None]]:
    """Reads the format anew when it is 15 minutes old (§2.5), and stops a writer that it does not fit any more."""
    opened = _layout(formats.format)

    async def check() -> None:
        if _layout(await formats.current()) != opened:
            raise WriteConflict(
                "the format of the repository was changed while it was being written to", hint="open it again"
            )

    return check


def _layout(repository_format: RepositoryFormat) -> tuple[object, ...]:
    return (
        repository_format.unique_id,
        repository_format.version,
        repository_format.index_version,
        repository_format.epoch_parameters.enabled,
        repository_format.recovery_copy,
    )
