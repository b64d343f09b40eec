"""PodVolumeRestores: done by the node of a pod whose init container waits for the data (contract §2.4, §7.3)."""

from __future__ import annotations

from typing import Final

import msgspec

from agent.base.errors import KubeNotFound, LighterageError, PodBroken, SnapshotNotFound, SourceGone
from agent.controllers.kind import Claim, NotYet, Ours, Refused
from agent.controllers.pod_volume_backup import uploader_refusal
from agent.controllers.sources import Sources
from agent.controllers.status import Definitions
from agent.exposers.contract import Exposer, Ready
from agent.exposers.restore_wait import WAIT_CONTAINERS
from agent.kube.job import Phase
from agent.kube.meta import Key
from agent.kube.names import POD_VOLUME_FINALIZER, POD_VOLUME_RESTORE_LABEL
from agent.kube.pod_volume_restore import PodVolumeRestore
from agent.kube.pods import ContainerStatus, Pod, PodPhase
from agent.kube.resource import POD_VOLUME_RESTORES, PODS, Resource
from agent.movers.runner import WorkRunner
from agent.movers.spec import JobSpec, Secrets

_HOPELESS: Final = frozenset(
    {
        "ImagePullBackOff",
        "ErrImagePull",
        "ErrImageNeverPull",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
    }
)


def canceled_phase(definitions: Definitions) -> Phase:
    """How a PodVolumeRestore ends that was canceled: as such, where the server knows that."""
    known = definitions.has_phase(POD_VOLUME_RESTORES.plural, Phase.CANCELED)
    return Phase.CANCELED if known else Phase.FAILED


class PodVolumeRestoreKind(msgspec.Struct, frozen=True):
    """PodVolumeRestores as the state machine sees them."""

    sources: Sources
    exposer: Exposer[PodVolumeRestore]
    definitions: Definitions
    resource: Resource[PodVolumeRestore] = POD_VOLUME_RESTORES
    name: str = "PodVolumeRestore"
    finalizer: str = POD_VOLUME_FINALIZER
    pod_label: str = POD_VOLUME_RESTORE_LABEL
    has_node_from_the_start: bool = True
    is_anybodys: bool = False
    priority: int = 0

    @property
    def canceled_phase(self) -> Phase:
        """As the server that is installed now can bear it."""
        return canceled_phase(self.definitions)

    def namespace(self, job: PodVolumeRestore) -> str:
        """Of the pod."""
        return job.spec.pod.namespace

    def handles(self, job: PodVolumeRestore) -> bool:
        """All of them."""
        return True

    def refusal(self, job: PodVolumeRestore) -> Refused | None:
        """By the uploader and the snapshot."""
        if (refusal := uploader_refusal(f"the PodVolumeRestore {job.key}", job.spec.uploader_type)) is not None:
            return refusal
        if not job.spec.snapshot_id:
            return Refused(SnapshotNotFound(f"the PodVolumeRestore {job.key} names no snapshot"))
        return None

    async def claim(self, job: PodVolumeRestore) -> Claim:
        """When its pod waits for it."""
        pod = self._pod(job)
        return NotYet(f"the pod of {job.key} has just gone") if pod is None else waiting_container(pod)

    def node(self, job: PodVolumeRestore) -> str:
        """Who accepted it; for servers that do not keep that, the pod's node if it is this one."""
        if job.status.node:
            return job.status.node
        return self.sources.node if self._pod(job) is not None else ""

    async def locate(self, job: PodVolumeRestore) -> str | LighterageError:
        """Where its pod is; without the pod there is nothing to restore into."""
        key = Key(job.spec.pod.namespace, job.spec.pod.name)
        try:
            pod = await self.sources.api.get(PODS, key)
        except KubeNotFound:
            return SourceGone(f"the pod {key} does not exist any more")
        if pod.metadata.uid != job.spec.pod.uid:
            return SourceGone(f"the pod {key} is not the one that the restore made: it was made anew")
        return pod.spec.node_name

    def is_here(self, job: PodVolumeRestore) -> bool:
        """Whether the pod is on this node."""
        return self._pod(job) is not None

    async def work(self, job: PodVolumeRestore, ready: Ready) -> tuple[WorkRunner, JobSpec, Secrets]:
        """A restore."""
        spec, secrets = await self.sources.jobs.pod_volume_restore(job, path=ready.path, mode=ready.mode)
        return self.sources.runners.of(ready), spec, secrets

    def _pod(self, job: PodVolumeRestore) -> Pod | None:
        pod = self.sources.pods.by_uid(job.spec.pod.uid)
        if pod is None or (pod.metadata.namespace, pod.metadata.name) != (job.spec.pod.namespace, job.spec.pod.name):
            return None
        return pod


def waiting_container(pod: Pod) -> Claim:
    """Whether the pod waits for its data; if it never will, why."""
    if pod.status.phase in {PodPhase.FAILED, PodPhase.UNKNOWN, PodPhase.SUCCEEDED}:
        return Refused(PodBroken(f"the pod {pod.key} is {pod.status.phase} and does not wait for data any more"))
    if not any(container.name in WAIT_CONTAINERS for container in pod.spec.init_containers):
        return Refused(PodBroken(f"the pod {pod.key} has no init container that waits for data"))
    for status in pod.status.init_container_statuses:
        if status.name in WAIT_CONTAINERS:
            return _of(pod, status)
    return NotYet(f"the init container of the pod {pod.key} has not started")


def _of(pod: Pod, status: ContainerStatus) -> Claim:
    state = status.state
    if state.running is not None:
        return Ours()
    if state.terminated is not None:
        return Refused(PodBroken(f"the init container {status.name} of the pod {pod.key} has ended already"))
    if state.waiting is not None and state.waiting.reason in _HOPELESS:
        why = f"{state.waiting.reason}: {state.waiting.message}".rstrip(": ")
        return Refused(PodBroken(f"the init container {status.name} of the pod {pod.key} cannot start: {why}"))
    return NotYet(f"the init container {status.name} of the pod {pod.key} has not started")
