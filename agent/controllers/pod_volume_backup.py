"""PodVolumeBackups: the agent of the pod's node does them, and no other may (contract §2.3)."""

from __future__ import annotations

from typing import Final

import msgspec

from agent.base.errors import LighterageError, MoverUnsupported, NodeLost
from agent.controllers.kind import Claim, Ours, Refused
from agent.controllers.sources import Sources
from agent.controllers.status import Definitions
from agent.exposers.contract import Exposer, Ready
from agent.kube.job import Phase
from agent.kube.names import POD_VOLUME_BACKUP_LABEL, POD_VOLUME_FINALIZER
from agent.kube.pod_volume_backup import PodVolumeBackup
from agent.kube.resource import DATA_UPLOADS, POD_VOLUME_BACKUPS, Resource
from agent.movers.runner import WorkRunner
from agent.movers.spec import JobSpec, Secrets

UPLOADER: Final = "kopia"


def canceled_phase(definitions: Definitions) -> Phase:
    """How a PodVolumeBackup ends that was canceled (contract §13.12).

    Servers 1.17 and 1.18 would wait for the whole backup's time limit on `Canceled`; those before do not have it.
    """
    if not definitions.has_phase(POD_VOLUME_BACKUPS.plural, Phase.CANCELED):
        return Phase.FAILED
    newer = definitions.has_field(DATA_UPLOADS.plural, "spec.parentSnapshot")
    return Phase.CANCELED if newer else Phase.FAILED


def uploader_refusal(what: str, uploader: str) -> Refused | None:
    """Why nothing can be done with this uploader; None when it can."""
    if uploader == UPLOADER:
        return None
    return Refused(
        MoverUnsupported(
            f"{what} asks for the uploader {uploader or 'restic'!r}, which this agent does not have",
            hint="use the uploader kopia; backups made with restic are restored by Velero 1.16 to 1.18's own agent",
        )
    )


class PodVolumeBackupKind(msgspec.Struct, frozen=True):
    """PodVolumeBackups as the state machine sees them."""

    sources: Sources
    exposer: Exposer[PodVolumeBackup]
    definitions: Definitions
    resource: Resource[PodVolumeBackup] = POD_VOLUME_BACKUPS
    name: str = "PodVolumeBackup"
    finalizer: str = POD_VOLUME_FINALIZER
    pod_label: str = POD_VOLUME_BACKUP_LABEL
    has_node_from_the_start: bool = False
    is_anybodys: bool = False
    priority: int = 1
    """An application may stand still until these are done (contract §7.1)."""

    @property
    def canceled_phase(self) -> Phase:
        """As the server that is installed now can bear it."""
        return canceled_phase(self.definitions)

    def namespace(self, job: PodVolumeBackup) -> str:
        """Of the pod."""
        return job.spec.pod.namespace

    def handles(self, job: PodVolumeBackup) -> bool:
        """All of them."""
        return True

    def refusal(self, job: PodVolumeBackup) -> Refused | None:
        """By the uploader."""
        return uploader_refusal(f"the PodVolumeBackup {job.key}", job.spec.uploader_type)

    async def claim(self, job: PodVolumeBackup) -> Claim:
        """What is here."""
        return Ours()

    def node(self, job: PodVolumeBackup) -> str:
        """The pod's."""
        return job.spec.node

    async def locate(self, job: PodVolumeBackup) -> str | LighterageError:
        """Said from the start."""
        return job.spec.node or NodeLost(f"the PodVolumeBackup {job.key} names no node")

    def is_here(self, job: PodVolumeBackup) -> bool:
        """Whether it is this node's."""
        return job.spec.node == self.sources.node

    async def work(self, job: PodVolumeBackup, ready: Ready) -> tuple[WorkRunner, JobSpec, Secrets]:
        """A backup."""
        spec, secrets = await self.sources.jobs.pod_volume_backup(job, path=ready.path, mode=ready.mode)
        return self.sources.runners.of(ready), spec, secrets
