"""Finding the way in a stored tree: directories as batches of entries, entries by path.

Restore, verify, browse and diff all walk snapshots through here. Nothing holds a whole directory: entries come in
batches as the directory object streams in, and the event loop gets its turn between them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from agent.base.errors import PathNotInSnapshot
from agent.repository.ids import ObjectId
from agent.snapshots.directory import DirectoryParser
from agent.snapshots.model import DIRECTORY, Entry, decode_entry
from agent.storage.base import Buffer

BATCH_ENTRIES = 128


class Objects(Protocol):
    """The part of `ObjectReader` that reading directories needs."""

    def chunks(self, oid: ObjectId) -> AsyncIterator[Buffer]:
        """The object's bytes in order."""
        ...


async def list_directory(objects: Objects, oid: ObjectId, path: str) -> AsyncGenerator[list[Entry], None]:
    """The entries of a directory object in stored order, in batches of at most `BATCH_ENTRIES`.

    Raises `CorruptDirectory` naming `path`, and what reading the object raises; entries before the damage have come.
    """
    parser = DirectoryParser(f"{path or '/'!r} (object {oid})")
    async for chunk in objects.chunks(oid):
        for raw in parser.feed_slices(chunk):
            for start in range(0, len(raw), BATCH_ENTRIES):
                yield [decode_entry(item) for item in raw[start : start + BATCH_ENTRIES]]
                await asyncio.sleep(0)
    parser.close()


def bare(entry: Entry) -> Entry:
    """The entry without its summary and other writers' keys: all that a walk needs, in a form that can be spilled."""
    return Entry(
        name=entry.name,
        type=entry.type,
        mode=entry.mode,
        size=entry.size,
        mtime_ns=entry.mtime_ns,
        uid=entry.uid,
        gid=entry.gid,
        obj=entry.obj,
    )


def stored_path(text: str) -> tuple[str, ...]:
    """The components of a path as a person or program writes it, in the form in which names are stored.

    Slashes at either end, doubled ones and `.` mean nothing. A byte that is not UTF-8 is stored as U+FFFD (§7.3).
    """
    stored = "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return tuple(part for part in stored.split("/") if part not in ("", "."))


async def find_entry(objects: Objects, root: Entry, path: tuple[str, ...]) -> Entry:
    """The entry at a path below `root`; of several with one name the last, as kopia reads them.

    Raises `PathNotInSnapshot`.
    """
    entry = root
    for depth, name in enumerate(path):
        here = "/".join(path[:depth])
        if entry.type != DIRECTORY:
            raise PathNotInSnapshot(
                f"{'/'.join(path)!r} is not in the snapshot: {repr(here) if here else 'its root'} is no directory",
                hint="look around with `lighter ls`",
            )
        found: Entry | None = None
        async for entries in list_directory(objects, entry.obj, here):
            for candidate in entries:
                if candidate.name == name:
                    found = candidate
        if found is None:
            where = repr(here) if here else "its root"
            raise PathNotInSnapshot(
                f"{'/'.join(path)!r} is not in the snapshot: {where} has no entry {name!r}",
                hint="look around with `lighter ls`",
            )
        entry = found
    return entry
