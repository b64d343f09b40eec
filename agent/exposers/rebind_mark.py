"""What is written on a volume while it is on its way from our claim to the user's (`rebind`)."""

from __future__ import annotations

from typing import Final

import msgspec

from agent.kube.meta import Key
from agent.kube.volumes import PersistentVolume, ReclaimPolicy

MARK_ANNOTATION: Final = "lighterage.io/rebind"
"""On a PersistentVolume that is on its way to its user: a `Mark`."""
RESTORED_ANNOTATION: Final = "lighterage.io/restored-by"
"""On one that has arrived: uid of the DataDownload. It stays, while the label `JOB_UID_LABEL` goes."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be known of a volume whose claim of ours may be gone."""

    volume_uid: str
    """A copy of the object, which backup tools make, is not on its way to anywhere."""
    reclaim_policy: ReclaimPolicy
    """What it was, and shall be again."""
    claim_namespace: str
    claim_name: str
    claim_uid: str
    target_namespace: str
    target_name: str

    @property
    def target(self) -> Key:
        """Of the user's claim."""
        return Key(self.target_namespace, self.target_name)


def mark_of(volume: PersistentVolume) -> Mark | None:
    """The mark of a volume; None when it has none, or one that is not ours."""
    try:
        mark = msgspec.json.decode(volume.metadata.annotations.get(MARK_ANNOTATION, ""), type=Mark)
    except (msgspec.MsgspecError, ValueError):
        return None
    return mark if mark.volume_uid == volume.metadata.uid else None
