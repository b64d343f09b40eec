"""DataDownloads: as DataUploads, once the claim that waits for the data exists (contract §2.2)."""

from __future__ import annotations

from dataclasses import dataclass

from agent.base.errors import KubeNotFound, SnapshotNotFound
from agent.controllers.data_upload import DataMovers
from agent.controllers.kind import Claim, NotYet, Ours, Refused
from agent.controllers.sources import Sources
from agent.exposers.contract import Exposer, Ready
from agent.kube.data_download import DataDownload
from agent.kube.job import Phase
from agent.kube.meta import Key
from agent.kube.names import DATA_DOWNLOAD_LABEL, DATA_UPLOAD_DOWNLOAD_FINALIZER, valid_name
from agent.kube.resource import DATA_DOWNLOADS, PERSISTENT_VOLUME_CLAIMS, Resource
from agent.movers.runner import WorkRunner
from agent.movers.spec import JobSpec, Secrets


@dataclass(frozen=True, slots=True)
class DataDownloadKind:
    """DataDownloads as the state machine sees them."""

    sources: Sources
    exposer: Exposer[DataDownload]
    movers: DataMovers
    resource: Resource[DataDownload] = DATA_DOWNLOADS
    name: str = "DataDownload"
    finalizer: str = DATA_UPLOAD_DOWNLOAD_FINALIZER
    canceled_phase: Phase = Phase.CANCELED
    has_node_from_the_start: bool = False

    def namespace(self, job: DataDownload) -> str:
        """Of the target PVC."""
        return job.spec.target_volume.namespace

    def handles(self, job: DataDownload) -> bool:
        """By the name of the data mover."""
        return self.movers.handles(job.spec.datamover)

    async def claim(self, job: DataDownload) -> Claim:
        """Every agent's, when there is a snapshot and a claim; the server makes the claim after the object."""
        if (refusal := self.movers.refusal(job.spec.datamover)) is not None:
            return refusal
        if not job.spec.snapshot_id:
            return Refused(
                SnapshotNotFound(
                    f"the backup of {job.spec.source_namespace} has no snapshot for this volume",
                    hint="its DataUpload did not complete: restore from another backup",
                )
            )
        target = Key(job.spec.target_volume.namespace, job.spec.target_volume.pvc)
        try:
            await self.sources.api.get(PERSISTENT_VOLUME_CLAIMS, target)
        except KubeNotFound:
            return NotYet(f"the claim {target} does not exist yet")
        return Ours()

    def node(self, job: DataDownload) -> str:
        """Who accepted it, then who has its volume."""
        return job.status.node or job.status.accepted_by_node

    def is_here(self, job: DataDownload) -> bool:
        """Whether the exposer pod runs on this node."""
        return bool(self.sources.pods.by_label(DATA_DOWNLOAD_LABEL, valid_name(job.metadata.name)))

    async def work(self, job: DataDownload, ready: Ready) -> tuple[WorkRunner, JobSpec, Secrets]:
        """A restore."""
        spec, secrets = await self.sources.jobs.data_download(job, path=ready.path, mode=ready.mode)
        return self.sources.runners.of(ready), spec, secrets
