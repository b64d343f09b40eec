"""DataUploads: any agent may accept one; the node where its volume is mounted does it (contract §2.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from agent.base.errors import LighterageError, MoverUnsupported, NodeLost, SnapshotFailed
from agent.controllers.kind import Claim, Ours, Refused
from agent.controllers.sources import Sources, pods_of
from agent.exposers.contract import Exposer, Ready
from agent.kube.data_upload import DataUpload
from agent.kube.job import Phase
from agent.kube.names import DATA_UPLOAD_DOWNLOAD_FINALIZER, DATA_UPLOAD_LABEL
from agent.kube.resource import DATA_UPLOADS, Resource
from agent.movers.runner import WorkRunner
from agent.movers.spec import JobSpec, Secrets

BUILT_IN_MOVERS: Final = frozenset({"", "velero", "velero-fs"})
BLOCK_MOVER: Final = "velero-block"


class DataMovers(msgspec.Struct):
    """Which names of data movers this agent answers to. Others belong to other software, and that is said once."""

    names: frozenset[str] = BUILT_IN_MOVERS
    refused: frozenset[str] = frozenset({BLOCK_MOVER})
    tell: Callable[[str], None] = lambda _: None
    _told: set[str] = msgspec.field(default_factory=set)

    def handles(self, name: str) -> bool:
        """Whether objects with this name are ours to do or to refuse."""
        if name in self.names or name in self.refused:
            return True
        if name not in self._told and len(self._told) < 100:
            self._told.add(name)
            self.tell(f"objects for the data mover {name!r} are left to it")
        return False

    def refusal(self, name: str) -> Refused | None:
        """Why an object with this name cannot be done; None when it can."""
        if name not in self.refused:
            return None
        return Refused(
            MoverUnsupported(
                f"the data mover {name} is not implemented in this release",
                hint="use velero-fs, or no data mover, in the volume policy or the backup",
            )
        )


class DataUploadKind(msgspec.Struct, frozen=True):
    """DataUploads as the state machine sees them."""

    sources: Sources
    exposer: Exposer[DataUpload]
    movers: DataMovers
    resource: Resource[DataUpload] = DATA_UPLOADS
    name: str = "DataUpload"
    finalizer: str = DATA_UPLOAD_DOWNLOAD_FINALIZER
    canceled_phase: Phase = Phase.CANCELED
    pod_label: str = DATA_UPLOAD_LABEL
    has_node_from_the_start: bool = False
    is_anybodys: bool = True
    priority: int = 0

    def namespace(self, job: DataUpload) -> str:
        """Of the source PVC."""
        return job.spec.source_namespace

    def handles(self, job: DataUpload) -> bool:
        """By the name of the data mover."""
        return self.movers.handles(job.spec.datamover)

    def refusal(self, job: DataUpload) -> Refused | None:
        """By the data mover, and the kind of snapshot."""
        if (refusal := self.movers.refusal(job.spec.datamover)) is not None:
            return refusal
        if job.spec.snapshot_type != "CSI" or job.spec.csi_snapshot is None:
            return Refused(SnapshotFailed(f"the DataUpload {job.key} names no CSI snapshot to move"))
        return None

    async def claim(self, job: DataUpload) -> Claim:
        """Every agent's, at first."""
        return Ours()

    def node(self, job: DataUpload) -> str:
        """Who accepted it, then who has its volume."""
        return job.status.node or job.status.accepted_by_node

    async def locate(self, job: DataUpload) -> str | LighterageError:
        """Nowhere else: what is not new and names no node is nobody's."""
        return "" if job.status.phase.is_new else NodeLost(f"the DataUpload {job.key} is {job.status.phase} on no node")

    def is_here(self, job: DataUpload) -> bool:
        """Whether the exposer pod runs on this node."""
        return bool(pods_of(self.sources.pods, DATA_UPLOAD_LABEL, job))

    async def work(self, job: DataUpload, ready: Ready) -> tuple[WorkRunner, JobSpec, Secrets]:
        """A backup."""
        spec, secrets = await self.sources.jobs.data_upload(job, path=ready.path, mode=ready.mode)
        return self.sources.runners.of(ready), spec, secrets
