"""`lighter ls`, `cat`, `find`, `diff`: looking into snapshots without restoring them."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Literal

import click
import msgspec

from agent.base.errors import LighterageError
from agent.base.times import format_rfc3339
from agent.cli.connection import Connection, repository_options
from agent.cli.console import (
    json_result,
    note,
    plural,
    print_error,
    print_json,
    printable,
    reader_may_leave,
    say,
    size_text,
    time_text,
)
from agent.cli.options import duration_value, size_value, source_filter
from agent.cli.selection import choose_snapshot, root_of, split_path

if TYPE_CHECKING:
    from agent.repository.repository import Repository
    from agent.snapshots.browse import Found
    from agent.snapshots.diff import Change
    from agent.snapshots.model import Entry, Snapshot

_BATCH = 256
_TYPES = {"d": stat.S_IFDIR, "s": stat.S_IFLNK, "f": stat.S_IFREG}


class EntryInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One entry of a snapshot."""

    path: Annotated[str, msgspec.Meta(description="below the folder that was asked for")]
    type: Annotated[str, msgspec.Meta(description="`d` directory, `f` file, `s` symbolic link")]
    mode: Annotated[str, msgspec.Meta(description="POSIX permission bits, octal")]
    size: Annotated[int, msgspec.Meta(description="bytes; of a directory, of all files below it")]
    mtime: Annotated[str, msgspec.Meta(description="RFC 3339, UTC")]
    uid: int
    gid: int
    object_id: str = msgspec.field(name="objectID")


class ListResult(msgspec.Struct, frozen=True, rename={"snapshot_id": "snapshotID"}):
    """What lies in a folder of a snapshot."""

    snapshot_id: str
    path: str
    entries: list[EntryInfo]


class FoundEntry(EntryInfo, frozen=True, kw_only=True, rename="camel"):
    """An entry that was found."""

    snapshot_id: str = msgspec.field(name="snapshotID")


class FindResult(msgspec.Struct, frozen=True):
    """What was found."""

    entries: list[FoundEntry]


class CatResult(msgspec.Struct, frozen=True, rename={"snapshot_id": "snapshotID"}):
    """With `--json`, `cat` describes the file instead of printing it."""

    snapshot_id: str
    entry: EntryInfo


class ChangeInfo(msgspec.Struct, frozen=True):
    """One difference."""

    kind: Literal["added", "removed", "modified"]
    path: str
    content: Annotated[bool, msgspec.Meta(description="bytes, link target or type differ")]
    metadata: Annotated[bool, msgspec.Meta(description="owner, mode or time differ")]
    before: EntryInfo | None
    after: EntryInfo | None


class DiffResult(msgspec.Struct, frozen=True):
    """What differs between two snapshots."""

    changes: list[ChangeInfo]
    added: int
    removed: int
    modified: int


def describe_entry(path: str, entry: Entry) -> EntryInfo:
    """An entry as JSON shows it."""
    return EntryInfo(
        path=path,
        type=entry.type,
        mode=f"{_posix_mode(entry):04o}",
        size=entry.summ.size if entry.summ else entry.size,
        mtime=format_rfc3339(entry.mtime_ns),
        uid=entry.uid,
        gid=entry.gid,
        object_id=entry.obj,
    )


def _posix_mode(entry: Entry) -> int:
    from agent.volumes.attributes import posix_mode

    return posix_mode(entry.mode)


def _line(path: str, entry: Entry) -> str:
    """As `ls -l` shows it."""
    kind = _TYPES.get(entry.type, 0)
    mode = stat.filemode(kind | _posix_mode(entry))
    size = entry.summ.size if entry.summ else entry.size
    suffix = "/" if entry.type == "d" else ""
    return f"{mode} {entry.uid:>6} {entry.gid:>6} {size:>14,} {time_text(entry.mtime_ns)}  {printable(path)}{suffix}"


class _Lines:
    """Lines on their way to standard output, many at a time."""

    def __init__(self) -> None:
        self._waiting: list[str] = []

    def add(self, line: str) -> None:
        self._waiting.append(line)
        if len(self._waiting) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            say("\n".join(self._waiting))
            self._waiting.clear()


async def _chosen(repository: Repository, text: str, source: str | None) -> tuple[Snapshot, Entry, str]:
    """The snapshot, the entry at the path below its root, and that path."""
    from agent.snapshots.tree import find_entry

    name, path = split_path(text)
    snapshot = choose_snapshot(repository, name, source)
    return snapshot, await find_entry(repository.objects, root_of(snapshot), path), "/".join(path)


@click.command(
    epilog="\b\nExamples:\n  lighter ls latest\n  lighter ls -R 3f9c2a/etc\n"
    "  lighter ls latest/var --json --source root@web1:/srv"
)
@json_result(ListResult)
@click.argument("snapshot", metavar="SNAPSHOT[/PATH]")
@click.option("--recursive", "-R", is_flag=True, help="Everything below, too.")
@click.option("--names", is_flag=True, help="Print paths only.")
@source_filter
@repository_options
def ls(connection: Connection, as_json: bool, snapshot: str, recursive: bool, names: bool, source: str | None) -> None:
    """List a folder of a snapshot."""
    from agent.snapshots.browse import list_entries

    problems: list[LighterageError] = []

    async def work() -> None:
        async with connection.repository() as repository:
            chosen, entry, path = await _chosen(repository, snapshot, source)
            listed: list[EntryInfo] = []
            lines = _Lines()
            found_entries = list_entries(
                repository.objects, entry, recursive=recursive, on_error=lambda _path, error: problems.append(error)
            )
            async with aclosing(found_entries) as entries:
                async for found in entries:
                    shown = found.path or found.entry.name
                    if as_json:
                        listed.append(describe_entry(shown, found.entry))
                    else:
                        lines.add(printable(shown) if names else _line(shown, found.entry))
            lines.flush()
            if as_json:
                print_json(ListResult(chosen.id, path, listed))

    connection.run(work())
    _raise_problems(problems, as_json)


@click.command(epilog="\b\nExamples:\n  lighter cat latest/etc/fstab\n  lighter cat 3f9c2a/db/dump.gz | gunzip")
@json_result(CatResult)
@click.argument("snapshot", metavar="SNAPSHOT/PATH")
@source_filter
@repository_options
def cat(connection: Connection, as_json: bool, snapshot: str, source: str | None) -> None:
    """Print one file of a snapshot, as it is.

    With --json the file is described, not printed.
    """
    from agent.snapshots.browse import cat as cat_entry

    def write(piece: memoryview) -> None:
        with reader_may_leave():
            sys.stdout.buffer.write(piece)

    async def work() -> None:
        async with connection.repository() as repository:
            chosen, entry, path = await _chosen(repository, snapshot, source)
            if as_json:
                print_json(CatResult(chosen.id, describe_entry(path, entry)))
                return
            await cat_entry(repository.objects, entry, write)
            with reader_may_leave():
                sys.stdout.buffer.flush()

    connection.run(work())


@click.command(
    epilog="\b\nExamples:\n  lighter find '*.conf'                       # in all snapshots\n"
    "  lighter find 'etc/**/*.pem' --in latest\n  lighter find --larger 1GiB --in latest --type f"
)
@json_result(FindResult)
@click.argument("pattern", required=False)
@click.option("--in", "where", metavar="SNAPSHOT[/PATH]", help="One snapshot, or a folder in it; else all.")
@click.option("--type", "types", type=click.Choice(["f", "d", "s"]), multiple=True, help="Files, directories, links.")
@click.option("--larger", callback=size_value, metavar="SIZE", help="Files of at least this size.")
@click.option("--smaller", callback=size_value, metavar="SIZE", help="Files of at most this size.")
@click.option("--changed-within", callback=duration_value, metavar="SPAN", help="Changed within, e.g. 7d.")
@click.option("--changed-before", callback=duration_value, metavar="SPAN", help="Not changed for, e.g. 1y.")
@source_filter
@repository_options
def find(
    connection: Connection,
    as_json: bool,
    pattern: str | None,
    where: str | None,
    types: tuple[str, ...],
    larger: int,
    smaller: int,
    changed_within: float | None,
    changed_before: float | None,
    source: str | None,
) -> None:
    """Search snapshots for files by name, type, size or time.

    PATTERN is a glob. Without a slash it is compared with names, with one with whole paths; `**` crosses slashes.
    """
    import time

    from agent.snapshots.browse import Wanted, find_entries

    now_ns = time.time_ns()
    wanted = Wanted(
        pattern=pattern,
        types="".join(types),
        min_size=larger or None,
        max_size=smaller or None,
        changed_since_ns=None if changed_within is None else now_ns - int(changed_within * 1e9),
        changed_before_ns=None if changed_before is None else now_ns - int(changed_before * 1e9),
    )
    problems: list[LighterageError] = []

    async def work() -> None:
        results: list[FoundEntry] = []
        lines = _Lines()
        async with connection.repository() as repository:
            for snapshot, entry, path in await _places(repository, where, source):
                found_entries = find_entries(
                    repository.objects, entry, wanted, on_error=lambda _path, error: problems.append(error)
                )
                async for found in found_entries:
                    shown = "/".join(filter(None, (path, found.path)))
                    if as_json:
                        results.append(_found(snapshot.id, shown, found))
                    else:
                        lines.add(f"{snapshot.id[:12]}  {_line(shown, found.entry)}")
        lines.flush()
        if as_json:
            print_json(FindResult(results))

    connection.run(work())
    _raise_problems(problems, as_json)


def _found(snapshot_id: str, path: str, found: Found) -> FoundEntry:
    info = describe_entry(path, found.entry)
    fields = {name: getattr(info, name) for name in EntryInfo.__struct_fields__}
    return FoundEntry(snapshot_id=snapshot_id, **fields)


async def _places(
    repository: Repository, where: str | None, source: str | None
) -> Iterable[tuple[Snapshot, Entry, str]]:
    from agent.cli.identity import parse_source
    from agent.snapshots.store import list_snapshots

    if where is not None:
        return [await _chosen(repository, where, source)]
    listed = list_snapshots(repository.manifests, None if source is None else parse_source(source))
    return [(snapshot, snapshot.root, "") for snapshot in listed.snapshots if snapshot.root is not None]


@click.command(
    epilog="\b\nExamples:\n  lighter diff 3f9c2a 81d0be\n  lighter diff 3f9c2a/etc latest/etc --json\n\n\b\n"
    "Lines begin with + added, - removed, M content changed, m only owner, mode or time changed."
)
@json_result(DiffResult)
@click.argument("before", metavar="SNAPSHOT[/PATH]")
@click.argument("after", metavar="SNAPSHOT[/PATH]")
@source_filter
@repository_options
def diff(connection: Connection, as_json: bool, before: str, after: str, source: str | None) -> None:
    """Compare two snapshots, or two folders in them."""
    from agent.snapshots.diff import diff as compare

    counts = {"added": 0, "removed": 0, "modified": 0}

    async def work() -> None:
        listed: list[ChangeInfo] = []
        lines = _Lines()
        async with connection.repository() as repository:
            _, old, _ = await _chosen(repository, before, source)
            _, new, _ = await _chosen(repository, after, source)
            async for change in compare(repository.objects, old, new):
                counts[change.kind.value] += 1
                if as_json:
                    listed.append(_change(change))
                else:
                    lines.add(_change_line(change))
        lines.flush()
        if as_json:
            print_json(DiffResult(listed, counts["added"], counts["removed"], counts["modified"]))

    connection.run(work())
    if not as_json:
        note(", ".join(f"{count:,} {kind}" for kind, count in counts.items()))


def _change(change: Change) -> ChangeInfo:
    return ChangeInfo(
        change.kind.value,
        change.path,
        change.content,
        change.metadata,
        None if change.before is None else describe_entry(change.path, change.before),
        None if change.after is None else describe_entry(change.path, change.after),
    )


def _change_line(change: Change) -> str:
    if change.kind.value != "modified":
        sign = "+" if change.kind.value == "added" else "-"
    else:
        files = change.after is not None and change.after.type != "d"
        sign = "M" if change.content and files else "m"
    entry = change.after or change.before
    size = f"  {size_text(entry.size)}" if entry is not None and entry.type == "f" else ""
    slash = "/" if entry is not None and entry.type == "d" else ""
    return f"{sign} {printable(change.path) or '.'}{slash}{size}"


def _raise_problems(problems: list[LighterageError], as_json: bool) -> None:
    """Everything readable was shown; name what was not, and end with the status of the first."""
    if not problems:
        return
    for problem in problems[1:]:
        print_error(problem, as_json)
    if len(problems) > 1:
        note(f"{plural(len(problems), 'folder')} could not be read.")
    raise problems[0]
