"""The storage's snapshot, taken over from the user's namespace (contract §3.1, steps 2 and 4 to 6).

    source ready -> record in the DataUpload -> our VolumeSnapshot -> our content, same handle, Delete
    -> the source's content on Retain -> the source VolumeSnapshot goes -> its content goes

Each step is possible only after the one before it, and each can be repeated, so an agent that starts anywhere in
between goes on. Before the source's content may go without its snapshot, our content holds that snapshot with the
policy Delete. Taking everything back means to delete whatever is there, the source with the policy Delete too: to
delete a snapshot that the storage does not have any more is no error for a CSI driver.
"""

from __future__ import annotations

from agent.base.errors import SnapshotFailed, SourceGone
from agent.exposers.contract import Waiting
from agent.exposers.hosting_pod import owner_of
from agent.exposers.made import find, is_being_deleted, is_made_for, made_for, make, name_taken, request_removal
from agent.exposers.settings import ExposerSettings
from agent.exposers.snapshot_content import (
    BEING_CREATED_ANNOTATION,
    BEING_DELETED_ANNOTATION,
    reference_of,
    remove_content,
)
from agent.exposers.snapshot_record import SourceRecord
from agent.exposers.snapshot_state import state_of_snapshot
from agent.kube.data_upload import DataUpload
from agent.kube.meta import Key, KubeObject, ObjectMeta
from agent.kube.resource import VOLUME_SNAPSHOT_CONTENTS, VOLUME_SNAPSHOTS
from agent.kube.snapshots import (
    DeletionPolicy,
    VolumeSnapshot,
    VolumeSnapshotContent,
    VolumeSnapshotContentSource,
    VolumeSnapshotContentSpec,
    VolumeSnapshotSource,
    VolumeSnapshotSpec,
)
from agent.kube.volumes import ObjectReference

Source = tuple[VolumeSnapshot, VolumeSnapshotContent]
"""The server's VolumeSnapshot and what it is bound to."""
_MANAGED_BY_LABEL = "snapshot.storage.kubernetes.io/managed-by"
_TRANSIENT = frozenset({BEING_CREATED_ANNOTATION, BEING_DELETED_ANNOTATION})
"""Annotations by which the snapshot controllers lock a content; a copy of them would lock ours for ever."""


def source_key(job: DataUpload) -> Key:
    """Of the VolumeSnapshot that the server made."""
    name = job.spec.csi_snapshot.volume_snapshot if job.spec.csi_snapshot is not None else ""
    return Key(job.spec.source_namespace, name)


class SnapshotHandover:
    """The hand-over, forward and back."""

    def __init__(self, settings: ExposerSettings) -> None:
        self._api = settings.api
        self._clock = settings.clock

    async def source(self, job: DataUpload) -> Source | Waiting:
        """The source, once it can be taken over. `SourceGone`, `SnapshotFailed`."""
        key = source_key(job)
        snapshot = await find(self._api, VOLUME_SNAPSHOTS, key)
        if snapshot is None or is_being_deleted(snapshot):
            raise SourceGone(f"the VolumeSnapshot {key} does not exist, or is being deleted")
        waiting = state_of_snapshot(self._clock, snapshot)
        if waiting is not None:
            return waiting
        name = snapshot.status.bound_volume_snapshot_content_name
        content = await self._content(name) if name else None
        if content is None or not handle_of(content):
            return Waiting(f"the VolumeSnapshot {key} has no content with a handle yet")
        return snapshot, content

    async def copy(self, job: DataUpload, record: SourceRecord, seen: Source | None) -> None:
        """Make our VolumeSnapshot and its content, from the source as it was `seen` just now, or what is left of it."""
        ours = Key(job.metadata.namespace, job.metadata.name)
        snapshot = await find(self._api, VOLUME_SNAPSHOTS, ours)
        content = await self._content(ours.name)
        _check_copies(job, record, snapshot, content)
        if snapshot is not None and content is not None:
            return
        source, source_content = seen or await self._recorded(job, record)
        snapshot = await make(self._api, VOLUME_SNAPSHOTS, _snapshot(job, source, source_content), job)
        content = await make(self._api, VOLUME_SNAPSHOT_CONTENTS, _content(job, record, source_content), job)
        _check_copies(job, record, snapshot, content)

    async def release_source(self, job: DataUpload, record: SourceRecord, seen: Source | None = None) -> None:
        """Go on removing the source's objects, but not the storage's snapshot, which `copy` has taken.

        Nothing is removed unless the content is seen to be the recorded one, and to keep its snapshot.
        """
        content = seen[1] if seen is not None else await self._content(record.content)
        if content is None or not _is_of_source(content, job, record):
            return
        if content.spec.deletion_policy is not DeletionPolicy.RETAIN:
            if is_being_deleted(content):
                raise SnapshotFailed(f"the VolumeSnapshotContent {record.content} was deleted before it was taken over")
            content = await self._set_policy(content, DeletionPolicy.RETAIN)
        snapshot = seen[0] if seen is not None else await self._source_snapshot(job, record)
        if snapshot is not None:
            await request_removal(self._api, VOLUME_SNAPSHOTS, snapshot)
        else:
            await remove_content(self._api, content)

    async def remove_copies(self, job: DataUpload, record: SourceRecord | None) -> bool:
        """Remove our VolumeSnapshot, its content and the storage's snapshot; whether they are gone."""
        ours = Key(job.metadata.namespace, job.metadata.name)
        snapshot = await find(self._api, VOLUME_SNAPSHOTS, ours)
        if snapshot is not None and _is_copy(snapshot, job):
            await request_removal(self._api, VOLUME_SNAPSHOTS, snapshot)
            return False
        content = await self._content(ours.name)
        if content is None or not _is_copy(content, job) or not _has_handle(content, record):
            return True
        await remove_content(self._api, content)
        return False

    async def remove_source(self, job: DataUpload, record: SourceRecord | None) -> bool:
        """Remove the source's objects together with the storage's snapshot; whether they are gone."""
        snapshot, content = await self._source_now(job, record)
        if content is not None and not is_being_deleted(content):
            content = await self._set_policy(content, DeletionPolicy.DELETE)
        if snapshot is not None:
            await request_removal(self._api, VOLUME_SNAPSHOTS, snapshot)
        elif content is not None:
            await remove_content(self._api, content)
        return snapshot is None and content is None

    async def _recorded(self, job: DataUpload, record: SourceRecord) -> Source:
        """The source that an agent before this one found, to make a copy that is not there yet."""
        snapshot = await find(self._api, VOLUME_SNAPSHOTS, source_key(job))
        content = await self._content(record.content)
        if snapshot is None or content is None:
            raise SnapshotFailed(
                f"the snapshot {record.handle} was taken over from {source_key(job)}, and has been deleted since",
                hint="something else than the agent removed VolumeSnapshots in Velero's namespace",
            )
        return snapshot, content

    async def _source_now(
        self, job: DataUpload, record: SourceRecord | None
    ) -> tuple[VolumeSnapshot | None, VolumeSnapshotContent | None]:
        """What is left of the source."""
        snapshot = await self._source_snapshot(job, record)
        name = _content_name(snapshot) if snapshot is not None else ""
        name = name if record is None else record.content
        content = await self._content(name) if name else None
        return snapshot, content if content is not None and _is_of_source(content, job, record) else None

    async def _content(self, name: str) -> VolumeSnapshotContent | None:
        return await find(self._api, VOLUME_SNAPSHOT_CONTENTS, Key("", name))

    async def _source_snapshot(self, job: DataUpload, record: SourceRecord | None) -> VolumeSnapshot | None:
        """None too when it only has the name of a recorded one."""
        key = source_key(job)
        found = await find(self._api, VOLUME_SNAPSHOTS, key) if key.name else None
        if found is None or record is None:
            return found
        return found if _content_name(found) == record.content else None

    async def _set_policy(self, content: VolumeSnapshotContent, policy: DeletionPolicy) -> VolumeSnapshotContent:
        if content.spec.deletion_policy is policy:
            return content
        return await self._api.patch(
            VOLUME_SNAPSHOT_CONTENTS,
            content.key,
            {"spec": {"deletionPolicy": policy.value}},
            resource_version=content.metadata.resource_version,
        )


def handle_of(content: VolumeSnapshotContent) -> str:
    """By which the storage knows the snapshot; empty while it does not."""
    return content.status.snapshot_handle or content.spec.source.snapshot_handle


def _has_handle(content: VolumeSnapshotContent, record: SourceRecord | None) -> bool:
    """Whether it is of the recorded snapshot, as far as one is recorded."""
    return record is None or handle_of(content) == record.handle


def _is_of_source(content: VolumeSnapshotContent, job: DataUpload, record: SourceRecord | None) -> bool:
    """Whether it is the source's, and does not only have the name of it."""
    return reference_of(content) == source_key(job) and _has_handle(content, record)


def _content_name(snapshot: VolumeSnapshot) -> str:
    """Of a snapshot's content; the snapshot controller's own name for it before the status tells."""
    return snapshot.status.bound_volume_snapshot_content_name or f"snapcontent-{snapshot.metadata.uid}"


def _is_copy(obj: VolumeSnapshot | VolumeSnapshotContent, job: DataUpload) -> bool:
    """Whether it is the job's, also when a stock agent made it, which labels nothing."""
    if is_made_for(obj, job):
        return True
    if made_for(job).keys() & obj.metadata.labels.keys():
        return False
    if isinstance(obj, VolumeSnapshot):
        return obj.spec.source.volume_snapshot_content_name == job.metadata.name
    return reference_of(obj) == job.key


def _check_copies(
    job: DataUpload, record: SourceRecord, snapshot: VolumeSnapshot | None, content: VolumeSnapshotContent | None
) -> None:
    copies: list[VolumeSnapshot | VolumeSnapshotContent] = [one for one in (snapshot, content) if one is not None]
    for one in copies:
        if not _is_copy(one, job):
            raise name_taken(one)
        if is_being_deleted(one):
            raise SnapshotFailed(f"the {one.kind} {one.key}, which the volume is made from, is being deleted")
    if content is not None and not _has_handle(content, record):
        raise name_taken(content)


def _snapshot(job: DataUpload, source: VolumeSnapshot, content: VolumeSnapshotContent) -> VolumeSnapshot:
    return VolumeSnapshot(
        api_version=VOLUME_SNAPSHOTS.api_version,
        kind="VolumeSnapshot",
        metadata=ObjectMeta(
            name=job.metadata.name,
            namespace=job.metadata.namespace,
            labels=made_for(job),
            annotations=_lasting(source),
            owner_references=(owner_of(job),),
        ),
        spec=VolumeSnapshotSpec(
            source=VolumeSnapshotSource(volume_snapshot_content_name=job.metadata.name),
            volume_snapshot_class_name=content.spec.volume_snapshot_class_name,
        ),
    )


def _content(job: DataUpload, record: SourceRecord, source: VolumeSnapshotContent) -> VolumeSnapshotContent:
    labels = made_for(job)
    if _MANAGED_BY_LABEL in source.metadata.labels:
        labels[_MANAGED_BY_LABEL] = source.metadata.labels[_MANAGED_BY_LABEL]
    return VolumeSnapshotContent(
        api_version=VOLUME_SNAPSHOT_CONTENTS.api_version,
        kind="VolumeSnapshotContent",
        metadata=ObjectMeta(name=job.metadata.name, labels=labels, annotations=_lasting(source)),
        spec=VolumeSnapshotContentSpec(
            driver=source.spec.driver,
            deletion_policy=DeletionPolicy.DELETE,
            volume_snapshot_class_name=source.spec.volume_snapshot_class_name,
            volume_snapshot_ref=ObjectReference(
                api_version=VOLUME_SNAPSHOTS.api_version,
                kind="VolumeSnapshot",
                namespace=job.metadata.namespace,
                name=job.metadata.name,
            ),
            source=VolumeSnapshotContentSource(snapshot_handle=record.handle),
        ),
    )


def _lasting(obj: KubeObject) -> dict[str, str]:
    return {key: value for key, value in obj.metadata.annotations.items() if key not in _TRANSIENT}
