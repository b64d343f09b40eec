"""Snapshots as manifests: list, find, save, forget, and which of them a new backup compares with (§7.2).

The command, upload, restore and retention all reach snapshots through here. A manifest that cannot be understood is
never dropped silently, because kopia's garbage collection would treat its data as unreachable: it becomes a warning
that names it, next to the snapshots that were read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from agent.base.errors import CorruptManifest, SnapshotError, SnapshotNotFound, UsageError
from agent.repository.ids import ManifestId
from agent.repository.manifests import ManifestStore
from agent.repository.writer import RepositoryWriter
from agent.snapshots.model import Snapshot, Source, decode_snapshot

TYPE_LABEL: Final = "type"
SNAPSHOT_TYPE: Final = "snapshot"
REQUESTER_TAG: Final = "snapshot-requester"
UPLOADER_TAG: Final = "snapshot-uploader"
_SHOWN = 5


class SnapshotList(msgspec.Struct, frozen=True):
    """Snapshots, oldest first by start and end, and one warning for each manifest that could not be read."""

    snapshots: tuple[Snapshot, ...]
    warnings: tuple[str, ...] = ()


def source_labels(source: Source) -> dict[str, str]:
    """The labels by which every client finds the snapshots of a source."""
    return {TYPE_LABEL: SNAPSHOT_TYPE, "hostname": source.host, "username": source.user, "path": source.path}


def list_snapshots(
    manifests: ManifestStore, source: Source | None = None, tags: Mapping[str, str] | None = None
) -> SnapshotList:
    """All snapshots, or those of one source, or those that carry all these tags."""
    labels = {TYPE_LABEL: SNAPSHOT_TYPE} if source is None else source_labels(source)
    snapshots, warnings = [], []
    for manifest in manifests.find({**(tags or {}), **labels}):
        try:
            snapshots.append(decode_snapshot(manifest.id, bytes(manifest.data)))
        except CorruptManifest as error:
            warnings.append(str(error))
    return SnapshotList(tuple(sorted(snapshots, key=_by_time)), tuple(sorted(warnings)))


def list_sources(manifests: ManifestStore) -> list[Source]:
    """Who has snapshots here, by their labels, readable or not."""
    found = {
        Source(m.labels.get("hostname", ""), m.labels.get("username", ""), m.labels.get("path", ""))
        for m in manifests.find({TYPE_LABEL: SNAPSHOT_TYPE})
    }
    return sorted(found)


def find_snapshot(manifests: ManifestStore, name: str) -> Snapshot:
    """The snapshot with this id, or the only one whose id starts so.

    Raises `SnapshotNotFound` when none or several match, `CorruptManifest` when it cannot be understood.
    """
    wanted = name.strip().lower()
    found = sorted(
        (m for m in manifests.find({TYPE_LABEL: SNAPSHOT_TYPE}) if wanted and m.id.startswith(wanted)),
        key=lambda m: m.id,
    )
    exact = [m for m in found if m.id == wanted]
    if len(found) > 1 and not exact:
        some = ", ".join(m.id for m in found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
        raise SnapshotNotFound(f"{len(found)} snapshots have ids that start with {name!r}: {some}", hint="add digits")
    if not found:
        raise SnapshotNotFound(f"no snapshot {name!r}", hint="`lighter snapshots` lists them")
    manifest = (exact or found)[0]
    return decode_snapshot(manifest.id, bytes(manifest.data))


def find_parents(snapshots: Sequence[Snapshot], tags: Mapping[str, str] | None = None) -> list[Snapshot]:
    """Which snapshots of one source a new backup compares with: the newest complete one, then every incomplete one that
    started strictly after it, oldest first (§7.2, §14.9).

    With `tags` only snapshots that carry all of them count. That is Velero's rule (§10.5); it knows no incomplete ones,
    but what a killed run of ours left behind is worth comparing with.
    """
    wanted = (tags or {}).items()
    ours = [s for s in snapshots if wanted <= s.tags.items()]
    complete = max((s for s in ours if not s.incomplete), key=lambda s: s.start_ns, default=None)
    after = [s for s in ours if s.incomplete and (complete is None or s.start_ns > complete.start_ns)]
    return ([complete] if complete else []) + sorted(after, key=_by_time)


def superseded(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    """Incomplete snapshots of one source that nobody needs: unpinned, older than its newest complete one (§14.8)."""
    newest = max((_by_time(s) for s in snapshots if not s.incomplete), default=None)
    return [s for s in snapshots if s.incomplete and not s.pins and newest is not None and _by_time(s) < newest]


async def save_snapshot(writer: RepositoryWriter, snapshot: Snapshot) -> Snapshot:
    """Put a snapshot's manifest and return it with its id; it is visible to others after the writer's next flush.

    Raises `UsageError` for a source or tag that no client could find it by, `SnapshotError` when other clients could
    not read what would be written: they would take its data for garbage (§8.5, point 9).
    """
    source = snapshot.source
    if not (source.host and source.user and source.path):
        raise UsageError(f"the source {str(source)!r} lacks a host, a user or a path", hint="name it user@host:/path")
    labels = source_labels(source)
    for key in snapshot.tags:
        if key in labels:
            raise UsageError(f"a tag cannot be called {key!r}: snapshots are found by that label")
    pinned = msgspec.structs.replace(snapshot, id=ManifestId(""), pins=tuple(sorted(set(snapshot.pins))))
    data = pinned.to_json()
    if decode_snapshot(ManifestId(""), data) != pinned or pinned.root is None or not pinned.root.obj:
        raise SnapshotError(f"the snapshot of {source} would not be readable by others, so it is not written")
    mid = await writer.put_manifest({**labels, **snapshot.tags}, msgspec.Raw(data))
    return msgspec.structs.replace(pinned, id=mid)


async def forget_snapshots(writer: RepositoryWriter, snapshots: Iterable[Snapshot]) -> None:
    """Put tombstones. The space comes back with maintenance."""
    for snapshot in snapshots:
        await writer.delete_manifest(snapshot.id)


def _by_time(snapshot: Snapshot) -> tuple[int, int]:
    return snapshot.start_ns, snapshot.end_ns
