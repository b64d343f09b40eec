"""Which snapshot a person means, and how snapshots are shown.

`SNAPSHOT[/sub/path]` is a snapshot's id, the start of one, or `latest`, and optionally a path below its root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from agent.base.errors import SnapshotNotFound
from agent.base.times import format_rfc3339
from agent.cli.console import warn
from agent.cli.identity import parse_source

if TYPE_CHECKING:
    from agent.repository.repository import Repository
    from agent.snapshots.model import Entry, Snapshot

LATEST = "latest"


class SnapshotInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One snapshot."""

    snapshot_id: Annotated[str, msgspec.Meta(description="its id")] = msgspec.field(name="snapshotID")
    source: Annotated[str, msgspec.Meta(description="who was backed up, `user@host:/path`")]
    start_time: Annotated[str, msgspec.Meta(description="RFC 3339, UTC, up to nanoseconds")]
    end_time: Annotated[str, msgspec.Meta(description="RFC 3339, UTC, up to nanoseconds")]
    description: str
    incomplete: Annotated[
        str, msgspec.Meta(description="empty when complete, else why not: `checkpoint`, `canceled`, `limit reached`")
    ]
    root_object_id: Annotated[str, msgspec.Meta(description="the object of its root")] = msgspec.field(
        name="rootObjectID"
    )
    root_type: Annotated[str, msgspec.Meta(description="`d` directory, `f` file or block device, `s` symbolic link")]
    files: Annotated[int, msgspec.Meta(description="regular files in it")]
    directories: Annotated[int, msgspec.Meta(description="directories in it, its root included")]
    symlinks: Annotated[int, msgspec.Meta(description="symbolic links in it")]
    bytes: Annotated[int, msgspec.Meta(description="bytes of all files in it")]
    errors: Annotated[int, msgspec.Meta(description="entries that could not be read")]
    tags: dict[str, str]
    pins: Annotated[list[str], msgspec.Meta(description="while it has any, nothing expires it")]


def describe(snapshot: Snapshot) -> SnapshotInfo:
    """A snapshot as JSON shows it."""
    root = snapshot.root
    summary = root.summ if root else None
    return SnapshotInfo(
        snapshot_id=snapshot.id,
        source=str(snapshot.source),
        start_time=format_rfc3339(snapshot.start_ns),
        end_time=format_rfc3339(snapshot.end_ns),
        description=snapshot.description,
        incomplete=snapshot.incomplete,
        root_object_id=root.obj if root else "",
        root_type=root.type if root else "",
        files=summary.files if summary else int(root is not None and root.type == "f"),
        directories=summary.dirs if summary else 0,
        symlinks=summary.symlinks if summary else int(root is not None and root.type == "s"),
        bytes=summary.size if summary else (root.size if root else 0),
        errors=summary.failed if summary else snapshot.stats.error_count,
        tags=dict(snapshot.tags),
        pins=list(snapshot.pins),
    )


def choose_snapshot(repository: Repository, name: str, source: str | None = None) -> Snapshot:
    """The snapshot of this id or unique start of one; for `latest` the newest complete one, of `source` when given.

    Raises `SnapshotNotFound`, `CorruptManifest`.
    """
    from agent.snapshots.store import find_snapshot, list_snapshots

    if name != LATEST:
        return find_snapshot(repository.manifests, name)
    wanted = None if source is None else parse_source(source)
    found = list_snapshots(repository.manifests, wanted)
    for warning in found.warnings:
        warn(warning)
    complete = [snapshot for snapshot in found.snapshots if not snapshot.incomplete]
    if not complete:
        where = "in this repository" if wanted is None else f"of {wanted}"
        raise SnapshotNotFound(f"there is no complete snapshot {where}", hint="`lighter snapshots` lists what there is")
    return complete[-1]


def split_path(text: str) -> tuple[str, tuple[str, ...]]:
    """`SNAPSHOT/sub/path` as the snapshot's name and the components of the path, as they are stored."""
    from agent.snapshots.tree import stored_path

    name, _, path = text.partition("/")
    return name, stored_path(path)


def root_of(snapshot: Snapshot) -> Entry:
    """The snapshot's root entry. Raises `SnapshotNotFound` when it has none."""
    if snapshot.root is None:
        raise SnapshotNotFound(f"snapshot {snapshot.id} has no root", hint="it was never finished")
    return snapshot.root
