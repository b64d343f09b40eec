"""Looking into a snapshot: list, find, read. For `lighter ls`, `find`, `cat`, and for programs.

Everything streams: a directory with a million entries is listed as it comes in, a file is handed on piece by piece.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import msgspec

from agent.base.errors import CorruptDirectory, LighterageError, PathNotInSnapshot, UsageError
from agent.snapshots.model import DIRECTORY, Entry
from agent.snapshots.tree import Objects, list_directory

MAX_DEPTH = 4_096
_PIECE = 1 << 20


class Found(msgspec.Struct, frozen=True):
    """An entry and where it is, relative to where the walk began."""

    path: str
    entry: Entry


class Wanted(msgspec.Struct, frozen=True):
    """What to find. Everything given must hold.

    `pattern` is a glob: without a slash for the name alone, with one for the whole path from where the walk began;
    `*` and `?` stop at slashes, `**` does not, `[…]` is a set of characters. Sizes are those of files, inclusive.
    """

    pattern: str | None = None
    types: str = ""
    """Any of the letters `f`, `d`, `s`; empty for all."""
    min_size: int | None = None
    max_size: int | None = None
    changed_since_ns: int | None = None
    changed_before_ns: int | None = None

    def matcher(self) -> Callable[[Found], bool]:
        """A function that tells whether an entry is wanted. Raises `UsageError`."""
        try:
            glob = None if self.pattern is None else re.compile(glob_to_regex(self.pattern.strip("/")))
        except re.error as error:
            raise UsageError(f"cannot understand the pattern {self.pattern!r}: {error}") from error
        whole = self.pattern is not None and "/" in self.pattern

        def matches(found: Found) -> bool:
            entry = found.entry
            if glob is not None and glob.match(found.path if whole else entry.name) is None:
                return False
            if self.types and entry.type not in self.types:
                return False
            if self.min_size is not None and (entry.type == DIRECTORY or entry.size < self.min_size):
                return False
            if self.max_size is not None and (entry.type == DIRECTORY or entry.size > self.max_size):
                return False
            if self.changed_since_ns is not None and entry.mtime_ns < self.changed_since_ns:
                return False
            return self.changed_before_ns is None or entry.mtime_ns < self.changed_before_ns

        return matches


def glob_to_regex(pattern: str) -> str:
    """A regular expression for a glob as `Wanted` describes it."""
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            stars = len(pattern[at - 1 :]) - len(pattern[at - 1 :].lstrip("*"))
            at += stars - 1
            if stars == 1:
                parts.append("[^/]*")
            elif pattern[at : at + 1] == "/":
                parts.append("(?:.*/)?")
                at += 1
            else:
                parts.append(".*")
        elif char == "?":
            parts.append("[^/]")
        elif char == "[" and (end := pattern.find("]", at + (2 if pattern[at : at + 1] in ("!", "^") else 1))) > 0:
            negated = pattern[at] in "!^"
            body = re.sub(r"([\\\[&|~])", r"\\\1", pattern[at + negated : end]).replace("--", "-\\-")
            parts.append(f"[^/{body}]" if negated else f"[{body}]")
            at = end + 1
        else:
            parts.append(re.escape(char))
    return "(?s:" + "".join(parts) + r")\Z"


async def list_entries(
    objects: Objects,
    root: Entry,
    *,
    recursive: bool = False,
    on_error: Callable[[str, LighterageError], None] | None = None,
) -> AsyncGenerator[Found, None]:
    """What lies in a directory, and with `recursive` below it, each directory before what is in it, in stored order.

    For something that is no directory: the entry itself, with the path "". A directory below `root` that cannot be read
    raises, or goes to `on_error` with its path and the listing goes on.
    """
    if root.type != DIRECTORY:
        yield Found("", root)
        return
    levels: list[tuple[str, AsyncGenerator[Found, None]]] = [("", _level(objects, root, ""))]
    try:
        while levels:
            path, level = levels[-1]
            try:
                found = await anext(level)
            except StopAsyncIteration:
                levels.pop()
                continue
            except LighterageError as error:
                levels.pop()
                if on_error is None or not path:
                    raise
                on_error(path, error)
                continue
            yield found
            if recursive and found.entry.type == DIRECTORY:
                if len(levels) >= MAX_DEPTH:
                    raise CorruptDirectory(f"{found.path[:200]!r}… lies deeper than {MAX_DEPTH} directories")
                levels.append((found.path, _level(objects, found.entry, found.path)))
    finally:
        for _, level in levels:
            await level.aclose()


async def _level(objects: Objects, directory: Entry, path: str) -> AsyncGenerator[Found, None]:
    async for entries in list_directory(objects, directory.obj, path):
        for entry in entries:
            yield Found(f"{path}/{entry.name}" if path else entry.name, entry)


async def find_entries(
    objects: Objects,
    root: Entry,
    wanted: Wanted,
    *,
    on_error: Callable[[str, LighterageError], None] | None = None,
) -> AsyncIterator[Found]:
    """Everything below `root` that is wanted."""
    matches = wanted.matcher()
    async with aclosing(list_entries(objects, root, recursive=True, on_error=on_error)) as entries:
        async for found in entries:
            if matches(found):
                yield found


async def cat(objects: Objects, entry: Entry, write: Callable[[memoryview], object]) -> int:
    """Hand the bytes of a file, or the target of a symbolic link, to `write`, which is called in a thread; how many.

    Raises `PathNotInSnapshot` for a directory, and what reading raises; by then some bytes have been written.
    """
    if entry.type == DIRECTORY:
        raise PathNotInSnapshot(
            f"{entry.name!r} is a directory, it has no bytes to show", hint="list it with `lighter ls`"
        )
    written = 0
    async for chunk in objects.chunks(entry.obj):
        view = memoryview(chunk)
        for start in range(0, len(view), _PIECE):
            await asyncio.to_thread(write, view[start : start + _PIECE])
        written += len(view)
    return written
