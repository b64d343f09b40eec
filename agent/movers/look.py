"""Looking into a repository in a worker: what was asked goes to the listener's socket, no faster than it is taken."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from itertools import islice

from agent.base.errors import PathNotInSnapshot, SnapshotError
from agent.movers.answers import Answer, End, EntryItem, Piece, Sent, SnapshotItem, Verdict, as_bytes, failure
from agent.movers.protocol import encode_frame
from agent.movers.spec import ListFolder, ListSnapshots, Look, ReadFile, RestoreResult, Verify
from agent.repository.repository import Repository
from agent.snapshots.browse import list_entries
from agent.snapshots.model import DIRECTORY, Entry, Snapshot
from agent.snapshots.store import find_snapshot, list_snapshots
from agent.snapshots.tree import find_entry
from agent.snapshots.verify import VerifyOptions, verify_snapshots
from agent.volumes.attributes import posix_mode

_PIECE = 256 << 10
_NAMED = 100
_TEXT = 1_024


async def look(repository: Repository, work: Look) -> RestoreResult:
    """Answer one question. Raises leaves of the error tree; a listener that leaves ends it quietly."""
    _, writer = await asyncio.open_unix_connection(work.listener)
    count = sent = 0
    try:
        async with aclosing(_ended(_answers(repository, work))) as answers:
            async for answer in answers:
                frame = encode_frame(answer)
                writer.write(frame)
                await writer.drain()
                count, sent = count + 1, sent + len(frame)
        writer.close()
        await writer.wait_closed()  # what is on its way still would be lost with the worker, which ends now
    except (BrokenPipeError, ConnectionResetError):
        pass  # nobody listens any more
    finally:
        writer.close()
    return RestoreResult(bytes=sent, files=count, directories=0, downloaded_bytes=0, denied=0)


async def _ended(answers: AsyncGenerator[Answer, None]) -> AsyncGenerator[Sent, None]:
    """All of them, and what they were together."""
    count = size = 0
    digest = hashlib.sha256()
    async with aclosing(answers):
        async for answer in answers:
            count += 1
            if isinstance(answer, Piece):
                size += len(answer.data)
                digest.update(answer.data)
            yield answer
    yield End(answers=count, size=size, sha256=digest.digest())


async def _answers(repository: Repository, work: Look) -> AsyncGenerator[Answer, None]:
    question = work.question
    if isinstance(question, ListSnapshots):
        for one in _snapshots(repository, question):
            yield one
        return
    snapshot = find_snapshot(repository.manifests, question.snapshot)
    if isinstance(question, Verify):
        yield await _verdict(repository, snapshot, question)
        return
    if snapshot.root is None:
        raise SnapshotError(f"the snapshot {snapshot.id} has no root, there is nothing in it")
    path = tuple(part.decode("utf-8", "surrogateescape") for part in question.path)
    entry = await find_entry(repository.objects, snapshot.root, path)
    if isinstance(question, ReadFile):
        async for piece in _pieces(repository, entry):
            yield piece
        return
    async for item in _entries(repository, entry, question):
        yield item


def _snapshots(repository: Repository, question: ListSnapshots) -> list[SnapshotItem]:
    items = (_snapshot_item(one) for one in list_snapshots(repository.manifests).snapshots)
    source, after = question.source.encode(), question.after
    wanted = (item for item in items if not source or item.source == source)
    behind = sorted((item for item in wanted if after is None or item.key > after), key=lambda item: item.key)
    return list(islice(behind, question.limit))


def _snapshot_item(snapshot: Snapshot) -> SnapshotItem:
    return SnapshotItem(
        id=snapshot.id,
        source=as_bytes(str(snapshot.source))[:_TEXT],
        description=as_bytes(snapshot.description)[:_TEXT],
        start_ns=snapshot.start_ns,
        end_ns=snapshot.end_ns,
        incomplete=snapshot.incomplete,
        total_bytes=snapshot.stats.total_size,
        files=snapshot.root.summ.files if snapshot.root and snapshot.root.summ else 0,
        tags={as_bytes(key)[:_TEXT]: as_bytes(value)[:_TEXT] for key, value in islice(snapshot.tags.items(), _NAMED)},
    )


async def _entries(repository: Repository, folder: Entry, question: ListFolder) -> AsyncIterator[EntryItem]:
    place = 0
    async with aclosing(list_entries(repository.objects, folder)) as found_entries:
        async for found in found_entries:
            place += 1
            if place > question.skip + question.limit:
                return
            if place > question.skip:
                yield _entry_item(found.entry)


def _entry_item(entry: Entry) -> EntryItem:
    return EntryItem(
        name=as_bytes(entry.name),
        kind=entry.type,
        mode=posix_mode(entry.mode),
        size=entry.summ.size if entry.summ else entry.size,
        mtime_ns=entry.mtime_ns,
        uid=entry.uid,
        gid=entry.gid,
    )


async def _pieces(repository: Repository, entry: Entry) -> AsyncIterator[Piece]:
    if entry.type == DIRECTORY:
        raise PathNotInSnapshot(f"{entry.name!r} is a folder, it has no bytes to read", hint="browse it")
    async for chunk in repository.objects.chunks(entry.obj):
        for start in range(0, len(chunk), _PIECE):
            yield Piece(data=bytes(chunk[start : start + _PIECE]))


async def _verdict(repository: Repository, snapshot: Snapshot, question: Verify) -> Verdict:
    options = VerifyOptions(files_percent=question.files_percent)
    report = await verify_snapshots(repository, [snapshot], options=options)
    return Verdict(
        directories=report.directories,
        files=report.files,
        files_read=report.files_read,
        bytes_read=report.bytes_read,
        failed=report.failed,
        failures=tuple(failure(one) for one in report.failures[:_NAMED]),
    )
