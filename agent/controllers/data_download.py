"""DataDownloads: as DataUploads, once the claim that waits for the data exists (contract §2.2)."""

from __future__ import annotations

import msgspec

from agent.base.errors import (
    ExposeUnsupported,
    KubeNotFound,
    LighterageError,
    NodeLost,
    SnapshotNotFound,
    SourceGone,
)
from agent.controllers.data_upload import DataMovers
from agent.controllers.kind import Claim, NotYet, Ours, Refused
from agent.controllers.sources import Sources, pods_of
from agent.exposers.contract import Exposer, Ready
from agent.kube.data_download import DataDownload
from agent.kube.job import NodeOS, Phase
from agent.kube.meta import Key
from agent.kube.names import DATA_DOWNLOAD_LABEL, DATA_UPLOAD_DOWNLOAD_FINALIZER
from agent.kube.resource import DATA_DOWNLOADS, PERSISTENT_VOLUME_CLAIMS, Resource
from agent.movers.runner import WorkRunner
from agent.movers.spec import JobSpec, Secrets


class DataDownloadKind(msgspec.Struct, frozen=True):
    """DataDownloads as the state machine sees them."""

    sources: Sources
    exposer: Exposer[DataDownload]
    movers: DataMovers
    resource: Resource[DataDownload] = DATA_DOWNLOADS
    name: str = "DataDownload"
    finalizer: str = DATA_UPLOAD_DOWNLOAD_FINALIZER
    canceled_phase: Phase = Phase.CANCELED
    pod_label: str = DATA_DOWNLOAD_LABEL
    has_node_from_the_start: bool = False
    is_anybodys: bool = True
    priority: int = 0

    def namespace(self, job: DataDownload) -> str:
        """Of the target PVC."""
        return job.spec.target_volume.namespace

    def handles(self, job: DataDownload) -> bool:
        """By the name of the data mover."""
        return self.movers.handles(job.spec.datamover)

    def refusal(self, job: DataDownload) -> Refused | None:
        """By the data mover, the snapshot, and the system that the volume needs."""
        if (refusal := self.movers.refusal(job.spec.datamover)) is not None:
            return refusal
        if not job.spec.snapshot_id:
            return Refused(
                SnapshotNotFound(
                    f"the backup of {job.spec.source_namespace} has no snapshot for this volume",
                    hint="its DataUpload did not complete: restore from another backup",
                )
            )
        if job.spec.node_os is NodeOS.WINDOWS:
            return Refused(
                ExposeUnsupported(
                    f"the volume {job.spec.target_volume.namespace}/{job.spec.target_volume.pvc} is of a Windows node",
                    hint="this agent fills volumes on Linux nodes only",
                )
            )
        return None

    async def claim(self, job: DataDownload) -> Claim:
        """Every agent's, when there is a claim, which the server makes after the object."""
        target = Key(job.spec.target_volume.namespace, job.spec.target_volume.pvc)
        try:
            await self.sources.api.get(PERSISTENT_VOLUME_CLAIMS, target)
        except KubeNotFound:
            missing = f"the claim {target} does not exist"
            return NotYet(f"{missing} yet", SourceGone(missing, hint="the restore did not create it: see its errors"))
        return Ours()

    def node(self, job: DataDownload) -> str:
        """Who accepted it, then who has its volume."""
        return job.status.node or job.status.accepted_by_node

    async def locate(self, job: DataDownload) -> str | LighterageError:
        """Nowhere else: what is not new and names no node is nobody's."""
        return (
            "" if job.status.phase.is_new else NodeLost(f"the DataDownload {job.key} is {job.status.phase} on no node")
        )

    def is_here(self, job: DataDownload) -> bool:
        """Whether the exposer pod runs on this node."""
        return bool(pods_of(self.sources.pods, DATA_DOWNLOAD_LABEL, job))

    async def work(self, job: DataDownload, ready: Ready) -> tuple[WorkRunner, JobSpec, Secrets]:
        """A restore."""
        spec, secrets = await self.sources.jobs.data_download(job, path=ready.path, mode=ready.mode)
        return self.sources.runners.of(ready), spec, secrets
