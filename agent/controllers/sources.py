"""What the kinds ask of the house below: pods on this node, jobs made from objects, and who does them."""

from __future__ import annotations

from typing import Protocol

import msgspec

from agent.controllers.job import Job
from agent.exposers.contract import Ready
from agent.kube.api import KubeApi
from agent.kube.data_download import DataDownload
from agent.kube.data_upload import DataUpload
from agent.kube.names import valid_name
from agent.kube.pod_volume_backup import PodVolumeBackup
from agent.kube.pod_volume_restore import PodVolumeRestore
from agent.kube.pods import Pod
from agent.kube.volumes import VolumeMode
from agent.movers.runner import WorkRunner
from agent.movers.spec import JobSpec, Secrets


class NodePods(Protocol):
    """The pods of this node as they were last seen."""

    def by_label(self, label: str, value: str) -> list[Pod]:
        """Those with this label, in any namespace."""
        ...

    def by_uid(self, uid: str) -> Pod | None:
        """The one with this uid."""
        ...


class JobSource(Protocol):
    """From an object to a job: where the repository is, its secrets, its source's name (contract §5)."""

    async def data_upload(self, job: DataUpload, *, path: str, mode: VolumeMode) -> tuple[JobSpec, Secrets]:
        """A backup of a snapshot's volume."""
        ...

    async def data_download(self, job: DataDownload, *, path: str, mode: VolumeMode) -> tuple[JobSpec, Secrets]:
        """A restore into a new volume."""
        ...

    async def pod_volume_backup(self, job: PodVolumeBackup, *, path: str, mode: VolumeMode) -> tuple[JobSpec, Secrets]:
        """A backup of a mounted volume."""
        ...

    async def pod_volume_restore(
        self, job: PodVolumeRestore, *, path: str, mode: VolumeMode
    ) -> tuple[JobSpec, Secrets]:
        """A restore into a mounted volume."""
        ...


class Runners(Protocol):
    """Who does the jobs of this agent."""

    def of(self, ready: Ready) -> WorkRunner:
        """For a volume that is ready: the workers of this agent, or the pod that holds the volume."""
        ...


def pods_of(pods: NodePods, label: str, job: Job) -> list[Pod]:
    """The pods on this node that were made for `job`, and not for an earlier object of its name."""
    return [
        pod
        for pod in pods.by_label(label, valid_name(job.metadata.name))
        if pod.metadata.namespace == job.metadata.namespace
        and any(owner.uid == job.metadata.uid for owner in pod.metadata.owner_references)
    ]


def pod_versions(pods: NodePods, label: str, job: Job) -> tuple[tuple[str, str], ...]:
    """The same, as far as it matters whether something about them has changed."""
    found = (pod.metadata for pod in pods_of(pods, label, job))
    return tuple(sorted((metadata.uid, metadata.resource_version) for metadata in found))


class Sources(msgspec.Struct, frozen=True):
    """All of it, for one agent."""

    node: str
    api: KubeApi
    pods: NodePods
    jobs: JobSource
    runners: Runners
