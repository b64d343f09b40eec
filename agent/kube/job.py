"""What the four kinds of work share: phases, progress, the node's operating system (contract §1.1)."""

from __future__ import annotations

from enum import StrEnum

from agent.kube.meta import View


class Phase(StrEnum):
    """Where a DataUpload, DataDownload, PodVolumeBackup or PodVolumeRestore is. Servers up to 1.16 know only
    `NEW`, `IN_PROGRESS`, `COMPLETED` and `FAILED` for the two pod-volume kinds.
    """

    EMPTY = ""
    """As the server creates it: the same as `NEW`."""
    NEW = "New"
    ACCEPTED = "Accepted"
    PREPARED = "Prepared"
    IN_PROGRESS = "InProgress"
    CANCELING = "Canceling"
    CANCELED = "Canceled"
    COMPLETED = "Completed"
    FAILED = "Failed"

    @property
    def is_final(self) -> bool:
        """Whether the object is never written again (ground rule §0.5)."""
        return self in {Phase.CANCELED, Phase.COMPLETED, Phase.FAILED}

    @property
    def is_new(self) -> bool:
        """Whether nobody has taken the object yet."""
        return self in {Phase.EMPTY, Phase.NEW}


class NodeOS(StrEnum):
    """The operating system that a volume needs."""

    UNSET = ""
    AUTO = "auto"
    LINUX = "linux"
    WINDOWS = "windows"


class Progress(View, frozen=True, kw_only=True):
    """Bytes of a running job."""

    total_bytes: int = 0
    bytes_done: int = 0


class PodReference(View, frozen=True, kw_only=True):
    """The pod whose volume is meant."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
