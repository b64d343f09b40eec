"""Proving that snapshots can be restored, and naming what could not.

Every directory is read. Every content of every file must be in an index, in a pack that the store lists and that is
long enough: one listing answers that for all. A share of the files, chosen by object id and seed so that a repeated or
resumed run chooses the same, is also read, decrypted and hashed, window by window in the order of the packs. Failures
name the snapshot, the path and the error's code.

What several snapshots share is looked at once: directories below which nothing failed and large files are not walked
again in a later snapshot, contents not read again (`verify_memory.py`, bounded). What failed is looked at again, so
that it is named in every snapshot that it hits.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Protocol

import msgspec

from agent.base.errors import (
    ContentNotFound,
    CorruptObject,
    LighterageError,
    RepositoryError,
    SnapshotError,
)
from agent.repository.ids import ContentId, ObjectId, content_text, parse_object_id
from agent.repository.index_entry import IndexEntry
from agent.repository.object_reader import expand_content
from agent.snapshots.fetch import Contents, fetch
from agent.snapshots.model import DIRECTORY, SYMLINK, Entry, Snapshot
from agent.snapshots.restore import ExtentObjects
from agent.snapshots.restore_plan import Piece, SpillingStack, Window
from agent.snapshots.tree import list_directory
from agent.snapshots.verify_memory import Remembered, Walked
from agent.storage.base import BlobId, BlobMetadata, Buffer

NAMED = 1_000
DISTINCT = 262_144
PACK_PREFIXES = ("p", "q")


class IndexedContents(Contents, Protocol):
    """Contents whose place can be asked for."""

    def find(self, cid: ContentId) -> IndexEntry | None:
        """The entry in force."""
        ...


class Listing(Protocol):
    """The part of a storage that is needed here."""

    def list(self, prefix: str = "") -> AsyncIterator[BlobMetadata]:
        """Blobs by prefix."""
        ...


class Repository(Protocol):
    """The part of `agent.repository.repository.Repository` that is needed here."""

    @property
    def storage(self) -> Listing:
        """Where the blobs are."""
        ...

    @property
    def contents(self) -> IndexedContents:
        """Contents by id."""
        ...

    @property
    def objects(self) -> ExtentObjects:
        """Objects over contents."""
        ...


class VerifyOptions(msgspec.Struct, frozen=True):
    """How thoroughly to look."""

    files_percent: float = 100.0
    """How many of the files are read; the others are only looked up. 0: existence only."""
    seed: int = 0
    """Chooses which."""


class VerifyFailure(msgspec.Struct, frozen=True):
    """One directory, file or link of one snapshot that cannot be restored whole."""

    snapshot: str
    path: str
    code: str
    message: str


class VerifyReport(msgspec.Struct):
    """Counters grow meanwhile. All failures are counted, the first `NAMED` named."""

    snapshots: int = 0
    directories: int = 0
    """That were read. Those that a snapshot shares with an earlier one count once, and so does what is below them."""
    files: int = 0
    """Files and links that were looked up."""
    files_read: int = 0
    bytes: int = 0
    """Of the files looked up."""
    bytes_read: int = 0
    """Contents read and hashed, each once."""
    failed: int = 0
    failures: list[VerifyFailure] = []
    packs_hit: list[str] = []
    """Packs that are missing, too short, or hold damaged contents; the first `NAMED`."""


class _State(msgspec.Struct):
    """What a resumed run starts from."""

    files_percent: float
    seed: int
    done: list[str]
    report: VerifyReport


async def verify_snapshots(
    repository: Repository,
    snapshots: Sequence[Snapshot],
    *,
    options: VerifyOptions = VerifyOptions(),
    state_path: str | None = None,
    report: VerifyReport | None = None,
) -> VerifyReport:
    """Verify these snapshots. Failures are in the report; what raises is a storage that cannot be reached.

    With `state_path` a run that was cut short goes on after its last complete snapshot, when it is called
    with the same options; the file is removed at the end.
    """
    state = await asyncio.to_thread(_load_state, state_path, options, report)
    run = _Verify(repository, options, state.report)
    await run.list_packs()
    done = set(state.done)
    for snapshot in snapshots:
        if snapshot.id in done:
            continue
        await run.snapshot(snapshot)
        state.done.append(snapshot.id)
        if state_path is not None:
            await asyncio.to_thread(_save_state, state_path, state)
    if state_path is not None:
        await asyncio.to_thread(_remove_state, state_path)
    return state.report


def _load_state(path: str | None, options: VerifyOptions, report: VerifyReport | None) -> _State:
    fresh = _State(options.files_percent, options.seed, [], report if report is not None else VerifyReport())
    if path is None:
        return fresh
    try:
        with open(path, "rb") as file:
            state = msgspec.json.decode(file.read(), type=_State)
    except (FileNotFoundError, msgspec.MsgspecError):
        return fresh
    if (state.files_percent, state.seed) != (options.files_percent, options.seed):
        return fresh
    for name in VerifyReport.__struct_fields__:
        setattr(fresh.report, name, getattr(state.report, name))
    fresh.done = state.done
    return fresh


def _save_state(path: str, state: _State) -> None:
    with open(path + ".new", "wb") as file:
        file.write(msgspec.json.encode(state))
    os.replace(path + ".new", path)


def _remove_state(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


class _Pending(msgspec.Struct, array_like=True):
    path: str
    oid: ObjectId


class _Verify:
    """One run over several snapshots."""

    def __init__(self, repository: Repository, options: VerifyOptions, report: VerifyReport) -> None:
        self._repository = repository
        self._options = options
        self._report = report
        self._packs: dict[BlobId, int] = {}
        self._good = Remembered()
        self._walked = Walked()
        self._window: Window[str] = Window()
        self._snapshot = ""
        self._failed_here: set[str] = set()

    async def list_packs(self) -> None:
        """Which packs there are, and how long."""
        for prefix in PACK_PREFIXES:
            async for blob in self._repository.storage.list(prefix):
                self._packs[blob.blob_id] = blob.length

    async def snapshot(self, snapshot: Snapshot) -> None:
        """Everything that one snapshot needs."""
        self._snapshot = snapshot.id
        self._failed_here.clear()
        if snapshot.root is None:
            self._fail("", SnapshotError("the snapshot has no root entry"))
        elif snapshot.root.type == DIRECTORY:
            with SpillingStack(msgspec.msgpack.Decoder(list[_Pending]).decode) as stack:
                self._push(stack, "", snapshot.root)
                while (item := stack.pop()) is not None:
                    await self._directory(item, stack)
        else:
            await self._leaf("", snapshot.root)
        await self._work_off()
        self._walked.end_snapshot()
        self._report.snapshots += 1

    def _push(self, stack: SpillingStack[_Pending], path: str, entry: Entry) -> None:
        if _directory_key(entry.obj) not in self._walked:
            stack.push(_Pending(path, entry.obj))

    async def _directory(self, item: _Pending, stack: SpillingStack[_Pending]) -> None:
        self._report.directories += 1
        try:
            async for entries in list_directory(self._repository.objects, item.oid, item.path):
                for entry in entries:
                    path = f"{item.path}/{entry.name}" if item.path else entry.name
                    if entry.type == DIRECTORY:
                        self._push(stack, path, entry)
                    else:
                        await self._leaf(path, entry)
            self._walked.add(_directory_key(item.oid), item.path)
        except (RepositoryError, SnapshotError) as error:
            self._fail(item.path, error)

    async def _leaf(self, path: str, entry: Entry) -> None:
        if entry.obj in self._walked:
            return
        self._report.files += 1
        if entry.type != SYMLINK:
            self._report.bytes += max(entry.size, 0)
        chosen = self._chosen(entry.obj)
        self._report.files_read += chosen
        try:
            parsed = parse_object_id(entry.obj)
            if len(parsed.content) < 2:
                raise CorruptObject(f"object id {entry.obj!r} names no content")
            if not parsed.indirection:
                await self._piece(Piece(path, 0, entry.size, parsed.content, parsed.compressed), chosen)
                return
            for extent in await self._repository.objects.extents(entry.obj):
                piece = Piece(path, extent.offset, extent.length, extent.content, extent.compressed)
                await self._piece(piece, chosen)
            self._walked.add(entry.obj, path)
        except RepositoryError as error:
            self._fail(path, error)

    async def _piece(self, piece: Piece[str], chosen: bool) -> None:
        if chosen and piece.content in self._good:
            return
        if not self._exists(piece) or not chosen:
            return
        self._window.add(piece)
        if self._window.full:
            await self._work_off()

    def _exists(self, piece: Piece[str]) -> bool:
        entry = self._repository.contents.find(piece.content)
        if entry is None:
            self._fail(piece.job, ContentNotFound(f"content {content_text(piece.content)} is in no index"))
            return False
        length = self._packs.get(entry.pack)
        if length is not None and entry.offset + entry.packed_length <= length:
            return True
        what = "is gone" if length is None else f"has {length} bytes only"
        text = f"content {content_text(piece.content)} at {entry.offset}: its pack {entry.pack} {what}"
        self._fail(piece.job, ContentNotFound(text), entry.pack)
        return False

    async def _work_off(self) -> None:
        """Read and hash what the window holds."""
        window, self._window = self._window, Window()
        if not window:
            return
        async with aclosing(fetch(self._repository.contents, window.contents)) as batches:
            async for batch in batches:
                for content, data in batch:
                    self._judge(content, data, window.take(content))

    def _judge(self, content: ContentId, data: Buffer | LighterageError, pieces: Sequence[Piece[str]]) -> None:
        if isinstance(data, LighterageError):
            entry = self._repository.contents.find(content)
            for piece in pieces:
                self._fail(piece.job, data, None if entry is None else entry.pack)
            return
        self._report.bytes_read += len(data)
        good = True
        for piece in pieces:
            if piece.compressed:
                try:
                    expand_content(content, data)
                except RepositoryError as error:
                    good = False
                    self._fail(piece.job, error)
            elif piece.offset and len(data) != piece.length:
                good = False
                text = f"content {content_text(content)} has {len(data)} bytes, not {piece.length}"
                self._fail(piece.job, CorruptObject(text))
        if good:
            self._good.add(content)

    def _chosen(self, oid: ObjectId) -> bool:
        percent = self._options.files_percent
        if percent >= 100 or percent <= 0:
            return percent > 0
        key = self._options.seed.to_bytes(8, "little", signed=True)
        digest = hashlib.blake2b(oid.encode(), digest_size=8, key=key).digest()
        return int.from_bytes(digest) * 100 < percent * (1 << 64)

    def _fail(self, path: str, error: LighterageError, pack: BlobId | None = None) -> None:
        if pack is not None and pack not in self._report.packs_hit and len(self._report.packs_hit) < NAMED:
            self._report.packs_hit.append(pack)
        self._walked.fail(path)
        if path in self._failed_here:
            return
        if len(self._failed_here) < DISTINCT:
            self._failed_here.add(path)
        self._report.failed += 1
        if len(self._report.failures) < NAMED:
            self._report.failures.append(VerifyFailure(self._snapshot, path, error.code, str(error)))


def _directory_key(oid: ObjectId) -> str:
    """Apart from the key of the same object as a file, which is good more easily."""
    return f"{oid}/"
