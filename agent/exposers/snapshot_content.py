"""Removing a VolumeSnapshotContent whose VolumeSnapshot may be gone.

The driver's sidecar deletes a content that was bound only when it carries an annotation, which the snapshot controller
sets while the VolumeSnapshot is being deleted. A VolumeSnapshot that goes before the controller has protected it, a
moment after it was bound, takes that chance along, and the content would stay for ever: the controller leaves contents
without a snapshot alone, for fear of losing somebody's data. Whoever owns the content has to say it.
"""

from __future__ import annotations

from typing import Final

from agent.base.errors import KubeConflict, KubeNotFound
from agent.exposers.made import find, is_being_deleted, request_removal
from agent.kube.api import KubeApi
from agent.kube.meta import Key
from agent.kube.resource import VOLUME_SNAPSHOT_CONTENTS, VOLUME_SNAPSHOTS
from agent.kube.snapshots import VolumeSnapshotContent

BEING_DELETED_ANNOTATION: Final = "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted"
BEING_CREATED_ANNOTATION: Final = "snapshot.storage.kubernetes.io/volumesnapshot-being-created"


def reference_of(content: VolumeSnapshotContent) -> Key:
    """The VolumeSnapshot that a content is for."""
    return Key(content.spec.volume_snapshot_ref.namespace, content.spec.volume_snapshot_ref.name)


async def remove_content(api: KubeApi, content: VolumeSnapshotContent) -> None:
    """Delete a content, and by its policy the storage's snapshot. Call it again until it is gone."""
    await request_removal(api, VOLUME_SNAPSHOT_CONTENTS, content)
    reference = content.spec.volume_snapshot_ref
    if not is_being_deleted(content) or not reference.uid or BEING_DELETED_ANNOTATION in content.metadata.annotations:
        return
    snapshot = await find(api, VOLUME_SNAPSHOTS, reference_of(content))
    if snapshot is not None and snapshot.metadata.uid == reference.uid:
        return  # the snapshot controller says it
    try:
        await api.patch(
            VOLUME_SNAPSHOT_CONTENTS,
            content.key,
            {"metadata": {"annotations": {BEING_DELETED_ANNOTATION: "yes"}}},
            resource_version=content.metadata.resource_version,
        )
    except (KubeNotFound, KubeConflict):
        return
