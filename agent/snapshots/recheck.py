"""Write again what maintenance marked deleted while a backup ran (§14.6).

A backup deduplicates against contents that nothing may refer to any more; maintenance of another client can mark them
deleted before the new manifest is visible. When the writer has seen deletions, the new tree is walked once before its
manifest is put, and every content of it that is deleted now is read (it still can be) and written again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from agent.base.errors import ContentNotFound
from agent.repository.compression import ZSTD_FASTEST
from agent.repository.ids import ContentId, ObjectId, content_text, parse_object_id
from agent.repository.repository import Repository
from agent.snapshots.directory import parse_directory
from agent.snapshots.directory_write import UploadSink
from agent.snapshots.model import DIRECTORY, Entry

_BATCH = 4096


async def revive_deleted(repo: Repository, sink: UploadSink, root: Entry) -> int:
    """How many contents below `root` had to be written again. Everything of it must have been flushed.

    Raises `ContentNotFound` when a content is gone for good, so that no manifest refers to it.
    """
    revived = 0
    batch: dict[ContentId, None] = {}
    async for cid in _contents(repo, root):
        batch[cid] = None
        if len(batch) >= _BATCH:
            revived += await _revive(repo, sink, batch)
            batch.clear()
    return revived + await _revive(repo, sink, batch)


async def _revive(repo: Repository, sink: UploadSink, cids: Iterable[ContentId]) -> int:
    wanted = list(cids)
    deleted = []
    for cid, entry in zip(wanted, repo.contents.find_many(wanted), strict=True):
        if entry is None:
            raise ContentNotFound(
                f"content {content_text(cid)} was removed from the repository while the backup ran",
                hint="run the backup again",
            )
        if entry.deleted:
            deleted.append((cid, ZSTD_FASTEST if entry.compression else 0))
    for cid, compression in deleted:
        data = await repo.contents.get(cid)
        await asyncio.to_thread(sink.write_content, data, cid[0], compression)
    return len(deleted)


async def _contents(repo: Repository, root: Entry) -> AsyncIterator[ContentId]:
    """Every content below an entry, those of its directories and lists included; some of them more than once."""
    waiting = [(root.type, root.obj)]
    while waiting:
        kind, obj = waiting.pop()
        async for cid in _object_contents(repo, obj):
            yield cid
        if kind != DIRECTORY:
            continue
        async for entry in parse_directory(repo.objects.chunks(obj), obj):
            if entry.type == DIRECTORY:
                waiting.append((entry.type, entry.obj))
                continue
            async for cid in _object_contents(repo, entry.obj):
                yield cid


async def _object_contents(repo: Repository, obj: ObjectId) -> AsyncIterator[ContentId]:
    parsed = parse_object_id(obj)
    if parsed.indirection:
        for extent in await repo.objects.extents(obj):
            yield extent.content
        inner = ObjectId(obj[1:])
        async for cid in _object_contents(repo, inner):
            yield cid
    else:
        yield parsed.content
