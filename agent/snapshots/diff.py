"""What differs between two snapshots, or two parts of them.

Directories with the same object id are equal and are not entered; others are joined by name. Entries come in order,
so that two directories of a million names are joined as they stream in; only where a directory is not in order (names
that were not UTF-8, other writers) are its entries held. What was added or removed is reported with all below it.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import msgspec

from agent.repository.ids import ObjectId
from agent.snapshots.browse import list_entries
from agent.snapshots.model import DIRECTORY, Entry
from agent.snapshots.restore_plan import NameOrder, SpillingStack
from agent.snapshots.tree import Objects, bare, list_directory


class Kind(enum.Enum):
    """What happened to an entry."""

    ADDED = "added"
    REMOVED = "removed"
    MODIFIED = "modified"


class Change(msgspec.Struct, frozen=True):
    """One entry that differs; `path` is relative, "" for the roots."""

    kind: Kind
    path: str
    before: Entry | None
    after: Entry | None

    @property
    def content(self) -> bool:
        """Whether bytes, link target or type differ; of a directory, whether anything in it does."""
        if self.before is None or self.after is None:
            return True
        return (self.before.type, self.before.obj) != (self.after.type, self.after.obj)

    @property
    def metadata(self) -> bool:
        """Whether owner, mode or time differ."""
        if self.before is None or self.after is None:
            return True
        return _metadata(self.before) != _metadata(self.after)


class _Pair(msgspec.Struct, array_like=True):
    path: str
    before: Entry
    after: Entry


async def diff(objects: Objects, before: Entry, after: Entry) -> AsyncIterator[Change]:
    """Every change from one entry to another, a directory before what is in it.

    A directory is reported as modified when its own owner, mode or time changed, not for what changed in it.
    """
    with SpillingStack(msgspec.msgpack.Decoder(list[_Pair]).decode) as pending:
        async for change in _compared(objects, pending, "", before, after):
            yield change
        while (pair := pending.pop()) is not None:
            async for name, old, new in _joined(objects, pair):
                path = f"{pair.path}/{name}" if pair.path else name
                async for change in _compared(objects, pending, path, old, new):
                    yield change


async def _compared(
    objects: Objects,
    pending: SpillingStack[_Pair],
    path: str,
    old: Entry | None,
    new: Entry | None,
) -> AsyncIterator[Change]:
    """The changes of one name; directories that differ inside are put off."""
    if old is not None and new is not None and old.type == new.type:
        is_directory = old.type == DIRECTORY
        if _metadata(old) != _metadata(new) or (not is_directory and old.obj != new.obj):
            yield Change(Kind.MODIFIED, path, old, new)
        if is_directory and old.obj != new.obj:
            pending.push(_Pair(path, bare(old), bare(new)))
        return
    if old is not None:
        async for change in _everything(objects, Kind.REMOVED, path, old):
            yield change
    if new is not None:
        async for change in _everything(objects, Kind.ADDED, path, new):
            yield change


async def _joined(objects: Objects, pair: _Pair) -> AsyncIterator[tuple[str, Entry | None, Entry | None]]:
    """Entries of two directories by name: directories first, then the rest."""
    sides = (pair.before.obj, pair.after.obj)
    if all([await _in_order(objects, oid, pair.path) for oid in sides]):
        old_stream, new_stream = (_entries(objects, oid, pair.path) for oid in sides)
        async with aclosing(old_stream), aclosing(new_stream):
            old, new = await anext(old_stream, None), await anext(new_stream, None)
            while old is not None or new is not None:
                if new is None or (old is not None and _order(old) < _order(new)):
                    assert old is not None  # noqa: S101 - the loop's condition
                    yield old.name, old, None
                    old = await anext(old_stream, None)
                elif old is None or _order(new) < _order(old):
                    yield new.name, None, new
                    new = await anext(new_stream, None)
                else:
                    yield old.name, old, new
                    old, new = await anext(old_stream, None), await anext(new_stream, None)
        return
    olds, news = [{entry.name: entry async for entry in _entries(objects, oid, pair.path)} for oid in sides]
    for name in sorted(olds.keys() | news.keys()):
        yield name, olds.get(name), news.get(name)


async def _in_order(objects: Objects, oid: ObjectId, path: str) -> bool:
    """Whether the entries ascend, directories first, no name twice."""
    order = NameOrder()
    others = False
    async for entry in _entries(objects, oid, path):
        is_directory = entry.type == DIRECTORY
        if order.doubtful(entry.name, is_directory=is_directory) or (others and is_directory):
            return False
        others = others or not is_directory
    return True


async def _entries(objects: Objects, oid: ObjectId, path: str) -> AsyncGenerator[Entry, None]:
    async for entries in list_directory(objects, oid, path):
        for entry in entries:
            yield entry


async def _everything(objects: Objects, kind: Kind, path: str, entry: Entry) -> AsyncIterator[Change]:
    """An entry that exists on one side only, and all below it."""
    yield _one_sided(kind, path, entry)
    if entry.type == DIRECTORY:
        async with aclosing(list_entries(objects, entry, recursive=True)) as below:
            async for found in below:
                yield _one_sided(kind, f"{path}/{found.path}" if path else found.path, found.entry)


def _one_sided(kind: Kind, path: str, entry: Entry) -> Change:
    return Change(kind, path, None, entry) if kind is Kind.ADDED else Change(kind, path, entry, None)


def _order(entry: Entry) -> tuple[bool, str]:
    return entry.type != DIRECTORY, entry.name


def _metadata(entry: Entry) -> tuple[int, int, int, int]:
    return entry.mode, entry.uid, entry.gid, entry.mtime_ns
