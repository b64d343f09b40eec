"""What a DataUpload remembers of its source snapshot from before the hand-over on (contract §13.9).

Once the VolumeSnapshot of the user's namespace is deleted, nothing else in the cluster tells which content belonged to
it. So this goes into an annotation of the object before anything is changed, for whoever goes on or cleans up.
"""

from __future__ import annotations

from typing import Final

import msgspec

from agent.exposers.copies import Wanted
from agent.exposers.made import find
from agent.kube.api import KubeApi
from agent.kube.data_upload import DataUpload
from agent.kube.resource import DATA_UPLOADS
from agent.kube.volumes import VolumeMode

SOURCE_ANNOTATION: Final = "lighterage.io/source-snapshot"


class SourceRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The source snapshot, and what the volume that is made from it looks like."""

    content: str
    """Name of its VolumeSnapshotContent."""
    handle: str
    """Of the storage's snapshot."""
    size: str
    """Of the volume, as a quantity."""
    mode: VolumeMode
    secrets: tuple[str, ...] = ()
    """Copied for the volume's driver."""
    config_maps: tuple[str, ...] = ()

    @property
    def wanted(self) -> Wanted:
        """What is copied for the volume's driver."""
        return Wanted(self.secrets, self.config_maps)


def read_record(upload: DataUpload) -> SourceRecord | None:
    """The record in an object; None when there is none, or none that can be read."""
    text = upload.metadata.annotations.get(SOURCE_ANNOTATION)
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=SourceRecord)
    except (msgspec.MsgspecError, ValueError):
        return None


async def find_record(api: KubeApi, upload: DataUpload) -> SourceRecord | None:
    """The record in an object that may have been seen before it was written: then the object is read once more."""
    record = read_record(upload)
    if record is not None:
        return record
    now = await find(api, DATA_UPLOADS, upload.key)
    return read_record(now) if now is not None and now.metadata.uid == upload.metadata.uid else None


async def write_record(api: KubeApi, upload: DataUpload, record: SourceRecord) -> None:
    """Keep it in the object. Nothing else of the object is touched."""
    text = msgspec.json.encode(record).decode()
    await api.patch(DATA_UPLOADS, upload.key, {"metadata": {"annotations": {SOURCE_ANNOTATION: text}}})
