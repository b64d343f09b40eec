"""The thread side of writing: deduplicate, compress, seal into open packs, remember where everything went.

Many threads call `write_contents` at once. Each hashes its batch, claims what is new under one lock, reserves ranges of
the open pack, and seals into them without the lock. A full pack is finished by the thread that seals its last range
and handed to the loop (`pack_upload`). When uploads lag, the thread that needs the next pack waits: memory is
(open packs + packs on their way) × pack size, whatever is written.

The first failure anywhere poisons the writer: every later call raises it, every waiting thread wakes with it. So a
content that was claimed and then not written can never be missing unnoticed from what a flush commits.

Rows are claimed under the lock; each gets its place from the thread that claimed it, once it is sealed and before the
pack or the session counts it as such. So when a pack's index is built, without the lock and while others add rows to
the same table, the rows of that pack are final: they never move and are not written again (`native/rows.c`).

`flush` is the only other caller: it takes sessions out (`begin_flush`), waits for them, and drops their rows at last.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Protocol

import msgspec
from msgspec.structs import replace

from agent.base.clock import Clock
from agent.base.errors import UsageError
from agent.base.times import NANOSECONDS
from agent.repository.compression import compress_if_smaller
from agent.repository.ids import NO_PREFIX, ContentId, content_text
from agent.repository.index_build import MAX_SHARD_ENTRIES, build_shards
from agent.repository.index_entry import IndexEntry, next_time
from agent.repository.index_rows import build_rows_index, row_entries
from agent.repository.pack import DATA_PREFIX, PREAMBLE_LENGTH, new_pack_id, pack_prefix
from agent.repository.pack_writer import (
    OpenPack,
    PackBuffers,
    PackFormat,
    RandomBytes,
    SealedPack,
)
from agent.repository.session import new_session_id
from agent.repository.write_session import WriteSession
from agent.storage.base import Buffer

MAX_CONTENT_LENGTH = (1 << 28) - 1
"""Of plaintext and of the sealed form: what index entries can hold (§4.3)."""
_IV_LENGTH = 16
_WELL_BEGUN = 0.25
"""Of a pack, filled while the one before was put: memory is worth keeping for the next one."""


class ContentIndex(Protocol):
    """The committed index, as the writer needs it. Thread-safe."""

    def find_many(self, contents: Sequence[ContentId]) -> Sequence[IndexEntry | None]:
        """The entry in force of each content, deleted ones included."""
        ...


class PackSink(Protocol):
    """Where threads leave what the loop has to do. All methods return at once."""

    def upload(self, writer: ContentWriter, session: WriteSession, pack: SealedPack) -> None:
        """Put this pack, then call `writer.uploaded` or `writer.fail`."""
        ...

    def session_changed(self) -> None:
        """A closing session may have become sealed or uploaded, or the writer failed."""
        ...

    def flush_due(self) -> None:
        """So many entries are pending that an index ought to be written."""
        ...


class WriterStats(msgspec.Struct):
    """What a writer has done so far."""

    contents_written: int = 0
    """New contents."""
    contents_deduplicated: int = 0
    """Contents that were there already."""
    bytes_in: int = 0
    """Plaintext of all contents."""
    bytes_new: int = 0
    """Plaintext of new contents."""
    bytes_packed: int = 0
    """New contents compressed and sealed."""
    packs_uploaded: int = 0
    index_blobs_uploaded: int = 0
    bytes_uploaded: int = 0
    """Packs and index blobs."""


class WriteLimits(msgspec.Struct, frozen=True):
    """Bounds of what is kept in memory."""

    parallel_uploads: int
    """Full packs on their way before threads wait."""
    largest_content: int
    """Bytes of a sealed content that every mapping has room for beyond the pack size."""
    flush_entries: int
    """Pending entries that make a flush due."""


class _Claim(msgspec.Struct, frozen=True):
    """What one call has to write, because nobody did."""

    session: WriteSession
    row: int
    """Number of the row of the first content; those of the others follow."""
    contents: Sequence[ContentId]
    data: Sequence[Buffer]
    least_times: Mapping[ContentId, int]
    """Of those that were deleted, so that the new row wins."""


class ContentWriter:
    """One per `RepositoryWriter`. Thread side unless said otherwise."""

    def __init__(
        self,
        index: ContentIndex,
        pack_format: PackFormat,
        limits: WriteLimits,
        sink: PackSink,
        *,
        clock: Clock,
        random: RandomBytes,
    ) -> None:
        self._index = index
        self.pack_format = pack_format
        self._limits = limits
        self._sink = sink
        self._clock = clock
        self._random = random
        room = len(pack_format.recovery_block) + PREAMBLE_LENGTH
        usual = room + pack_format.max_pack_size
        self._buffers = PackBuffers(usual, limits.largest_content, limits.parallel_uploads)
        self._changed = threading.Condition()
        self._current: WriteSession | None = None
        self._flushing: list[WriteSession] = []
        self._on_their_way = 0
        self._failure: BaseException | None = None
        self._stats = WriterStats()

    def write_content(self, data: Buffer, prefix: int = NO_PREFIX, compression: int = 0) -> ContentId:
        """The id of this content, which is in the repository after the next flush."""
        return self.write_contents((data,), prefix, compression)[0]

    def write_contents(self, data: Sequence[Buffer], prefix: int = NO_PREFIX, compression: int = 0) -> list[ContentId]:
        """The ids of these contents, in order.

        `compression` is a header id (§4.2) or 0; it is applied where it makes a content smaller, and not at all in
        repositories whose indexes cannot hold it. May wait for uploads. Raises what poisoned the writer.
        """
        lead, hasher = bytes((prefix,)), self.pack_format.hasher
        contents = [ContentId(lead + digest) for digest in hasher.many(data)]
        claim = self._claim(contents, data)
        if claim.contents:
            try:
                self._store(claim, prefix, compression)
            except BaseException as error:
                self.fail(error)
                raise
        return contents

    def delete_content(self, entry: IndexEntry) -> None:
        """Mark a committed content deleted (§4.8) with the next flush; `entry` is the one in force."""
        with self._changed:
            self._raise_failure()
            time_s = next_time(self._now_s(), entry)
            self._session().deletions[entry.content] = replace(entry, deleted=True, time_s=time_s)

    def is_pending(self, content: ContentId) -> bool:
        """Whether this writer wrote it and no committed index names it yet."""
        with self._changed:
            return any(content in session.rows for session in self._sessions())

    def stats(self) -> WriterStats:
        """A copy of the counters as they are now. Either side."""
        with self._changed:
            return replace(self._stats)

    def begin_flush(self) -> WriteSession | None:
        """Close the current session, so that what comes from now on belongs to the next; None when it is empty.

        It stays among `flushing` until it is `committed`. Either side, as are all methods from here on.
        """
        with self._changed:
            self._raise_failure()
            session = self._current
            if session is None or session.empty:
                return None
            session.closing = True
            self._flushing.append(session)
            self._current = None
            return session

    def flushing(self) -> Sequence[WriteSession]:
        """Closed sessions that are not committed yet, oldest first."""
        with self._changed:
            return tuple(self._flushing)

    def is_sealed(self, session: WriteSession) -> bool:
        """Whether all that was claimed for a closing session is in its packs. Raises what poisoned the writer."""
        with self._changed:
            self._raise_failure()
            return not session.active

    def is_uploaded(self, session: WriteSession) -> bool:
        """Whether all packs of a closing session are in the store. Raises what poisoned the writer."""
        with self._changed:
            self._raise_failure()
            return not session.uploading

    def close_packs(self, session: WriteSession) -> None:
        """Hand over the open packs of a closing session that `is_sealed`. Builds their local indexes: thread side."""
        with self._changed:
            self._raise_failure()
            packs = list(session.open_packs.values())
            session.open_packs.clear()
            self._on_their_way += len(packs)
        try:
            for pack in packs:
                self._finish(session, pack)
        except BaseException as error:
            self.fail(error)
            raise

    def uploaded(self, session: WriteSession, pack: SealedPack) -> None:
        """This pack is in the store and its memory free."""
        with self._changed:
            self._buffers.release(pack.buffer)
            self._on_their_way -= 1
            if not self._on_their_way and not self._next_is_well_begun():
                self._buffers.clear()  # the store is far ahead of us, or this is the end
            session.uploading -= 1
            self._stats.packs_uploaded += 1
            self._stats.bytes_uploaded += pack.length
            self._changed.notify_all()
            last = session.closing and not session.uploading
        if last:
            self._sink.session_changed()

    def _next_is_well_begun(self) -> bool:
        """With the lock held."""
        packs = () if self._current is None else self._current.open_packs.values()
        return any(pack.length >= _WELL_BEGUN * self.pack_format.max_pack_size for pack in packs)

    def build_indexes(self, session: WriteSession) -> Sequence[bytes]:
        """The index blobs of a closing session that is sealed, plaintext. Thread side."""
        rows, packs, pack_format = session.rows, session.packs, self.pack_format
        index_version, format_version = pack_format.index_version, pack_format.format_version
        if session.deletions or len(rows) > MAX_SHARD_ENTRIES:
            entries = row_entries(rows, packs, format_version)
            return build_shards(chain(entries, session.deletions.values()), index_version)
        return [build_rows_index(rows, packs, index_version=index_version, format_version=format_version)]

    def committed(self, session: WriteSession, index_blobs: int, index_bytes: int) -> None:
        """The session's index is in force and `ContentIndex` knows it: forget its rows."""
        with self._changed:
            self._flushing.remove(session)
            self._stats.index_blobs_uploaded += index_blobs
            self._stats.bytes_uploaded += index_bytes
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Poison the writer, unless it is already, and wake whoever waits."""
        with self._changed:
            if self._failure is None:
                self._failure = error
            self._changed.notify_all()
        self._sink.session_changed()

    def check(self) -> None:
        """Raise what poisoned the writer, if anything did."""
        with self._changed:
            self._raise_failure()

    def _claim(self, contents: Sequence[ContentId], data: Sequence[Buffer]) -> _Claim:
        known = self._index.find_many(contents)
        with self._changed:
            while self._flushing and len(self._session().rows) >= self._limits.flush_entries:
                self._raise_failure()
                self._changed.wait()
            self._raise_failure()
            session = self._session()
            missing, times = self._missing(contents, known)
            row = len(session.rows)
            added = session.rows.claim([contents[i] for i in missing], [old.rows for old in self._flushing])
            fresh = [missing[i] for i in added]
            claim = _Claim(session, row, [contents[i] for i in fresh], [data[i] for i in fresh], times)
            if session.deletions:
                for content in claim.contents:
                    session.deletions.pop(content, None)
            session.active += len(fresh)
            stats = self._stats
            stats.contents_written += len(fresh)
            stats.contents_deduplicated += len(contents) - len(fresh)
            stats.bytes_in += sum(map(len, data))
            stats.bytes_new += sum(map(len, claim.data))
        return claim

    def _missing(
        self, contents: Sequence[ContentId], known: Sequence[IndexEntry | None]
    ) -> tuple[Sequence[int], Mapping[ContentId, int]]:
        """Positions of contents that no index has, or only as deleted, and the least time of rows for the latter."""
        deletions = [session.deletions for session in self._sessions() if session.deletions]
        missing: list[int] = []
        times: dict[ContentId, int] = {}
        for index, entry in enumerate(known):
            if entry is not None:
                content = contents[index]
                deletion = next((pending[content] for pending in deletions if content in pending), None)
                if deletion is None and not entry.deleted:
                    continue
                times[content] = next_time(0, deletion or entry)
            missing.append(index)
        return missing, times

    def _session(self) -> WriteSession:
        if self._current is None:
            now_ns = self._clock.now_ns()
            self._current = WriteSession(new_session_id(now_ns, self._random), now_ns)
        return self._current

    def _sessions(self) -> Sequence[WriteSession]:
        """Newest first."""
        return (*(() if self._current is None else (self._current,)), *reversed(self._flushing))

    def _store(self, claim: _Claim, prefix: int, compression: int) -> None:
        cipher, contents, data = self.pack_format.cipher, claim.contents, claim.data
        compression = compression if self.pack_format.index_version > 1 else 0
        bodies: Sequence[Buffer] = data
        used: Sequence[int] = [0] * len(data)
        if compression:
            packed = [compress_if_smaller(compression, item) for item in data]
            used = [header for _, header in packed]
            bodies = [body for body, _ in packed]
        lengths = list(map(len, data))
        sizes = [cipher.sealed_length(len(body)) for body in bodies]
        for content, length, size in zip(contents, lengths, sizes, strict=True):
            if length > MAX_CONTENT_LENGTH or size > MAX_CONTENT_LENGTH:
                raise UsageError(f"content {content_text(content)} has {length} bytes, at most 2^28 - 1 can be stored")
        now_s, letter = self._now_s(), pack_prefix(prefix)
        times = [max(now_s, claim.least_times.get(content, 0)) for content in contents]
        first = 0
        while first < len(contents):
            pack, offset, count = self._reserve(claim.session, letter, sizes, first)
            part, view, end = slice(first, first + count), pack.view, offset
            for content, body, size in zip(contents[part], bodies[part], sizes[part], strict=True):
                start, end = end, end + size
                cipher.seal_into(body, content[-_IV_LENGTH:], view[start:end])
            claim.session.rows.place(
                claim.row + first, pack.number, offset, sizes[part], lengths[part], used[part], times[part]
            )
            self._record(claim.session, letter, pack, count, end - offset)
            first += count

    def _reserve(
        self, session: WriteSession, letter: str, sizes: Sequence[int], first: int
    ) -> tuple[OpenPack, int, int]:
        """Ranges for some of `sizes[first:]`, at least one, in one pack: the pack, where, and how many.

        The caller holds no other range meanwhile, so that the pack it waits for can never wait for it.
        """
        limit = self.pack_format.max_pack_size
        with self._changed:
            while True:
                self._raise_failure()
                pack = session.open_packs.get(letter)
                if pack is None:
                    if self._on_their_way >= self._limits.parallel_uploads:
                        self._changed.wait()
                        continue
                    pack = self._open_pack(session, letter, sizes[first])
                offset = pack.length
                count = pack.reserve(sizes, first, limit)
                if not count or pack.length >= limit:
                    del session.open_packs[letter]
                    self._on_their_way += 1
                if count:
                    return pack, offset, count
                if not pack.unsealed:
                    self._finish(session, pack)

    def _open_pack(self, session: WriteSession, letter: str, size: int) -> OpenPack:
        room = len(self.pack_format.recovery_block) + PREAMBLE_LENGTH
        blob_id = new_pack_id(letter, session.session_id, self._random)
        buffer = self._buffers.acquire(room + size, slow=letter != DATA_PREFIX)
        pack = OpenPack(len(session.packs), blob_id, buffer, self.pack_format, self._random)
        session.packs.append(blob_id)
        session.open_packs[letter] = pack
        session.uploading += 1
        return pack

    def _record(self, session: WriteSession, letter: str, pack: OpenPack, count: int, length: int) -> None:
        """So many contents, together of `length` bytes, are sealed into the pack, and their rows have their places."""
        with self._changed:
            pack.unsealed -= count
            session.active -= count
            self._stats.bytes_packed += length
            done = not pack.unsealed and session.open_packs.get(letter) is not pack
            idle = session.closing and not session.active
            due = len(session.rows) >= self._limits.flush_entries and not self._flushing
        if done:
            self._finish(session, pack)
        if idle:
            self._sink.session_changed()
        if due:
            self._sink.flush_due()

    def _finish(self, session: WriteSession, pack: OpenPack) -> None:
        self._sink.upload(self, session, pack.seal_tail(session.rows, session.packs, self.pack_format, self._random))

    def _now_s(self) -> int:
        return self._clock.now_ns() // NANOSECONDS

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
