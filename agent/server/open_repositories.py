"""Repositories and volumes for callers of the control API: jobs that no object asks for, done by this agent's workers.

Implements `agent.control.contract.Repositories`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from agent.base.errors import ExposeUnsupported, SourceGone, VolumeNotMounted
from agent.control.contract import Limits
from agent.exposers.contract import Broken, Waiting
from agent.exposers.host_path import NodeVolumes
from agent.exposers.pod_volume_source import mounted_volume
from agent.kube.job import PodReference
from agent.kube.names import is_dns_label, is_dns_subdomain
from agent.kube.volumes import VolumeMode
from agent.movers.runner import WorkRunner
from agent.movers.spec import JobSpec, Look, RestoreTree, Secrets
from agent.server.live_configuration import LiveConfiguration
from agent.server.parts import Basis, object_jobs


class OpenRepositories:
    """Of one agent."""

    def __init__(
        self, basis: Basis, config: LiveConfiguration, limits: Limits, workers: WorkRunner, volumes: NodeVolumes
    ) -> None:
        self._basis = basis
        self._limits = limits
        self._jobs = object_jobs(basis, config)
        self._volumes = volumes
        self.runner = workers
        self.folder = Path(basis.flags.cache_dir)

    async def job(
        self, volume_namespace: str, storage_location: str, work: Look | RestoreTree
    ) -> tuple[JobSpec, Secrets]:
        """What to give to a worker. It may take of the network what all jobs of the node together may."""
        await asyncio.to_thread(self.folder.mkdir, parents=True, exist_ok=True)
        spec, secrets = await self._jobs.of_repository(
            work, volume_namespace=volume_namespace, storage_location=storage_location
        )
        now = self._limits.in_force
        limits = msgspec.structs.replace(
            spec.limits,
            upload_bytes=now.upload_bytes_per_second,
            download_bytes=now.download_bytes_per_second,
            requests=now.requests_per_second,
        )
        return msgspec.structs.replace(spec, limits=limits), secrets

    async def volume(self, pod_namespace: str, pod: str, volume: str) -> str:
        """The folder that is a volume of a pod of this node. Raises `ExposeError` when there is none."""
        if not (is_dns_label(pod_namespace) and is_dns_subdomain(pod) and is_dns_label(volume)):
            raise SourceGone(f"there is no pod {pod_namespace[:64]}/{pod[:64]} with a volume {volume[:64]!r}")
        reference = PodReference(kind="Pod", namespace=pod_namespace, name=pod)
        found = await mounted_volume(self._basis.api, self._volumes, self._basis.flags.node, reference, volume)
        if isinstance(found, Broken):
            raise found.error
        if isinstance(found, Waiting):
            raise VolumeNotMounted(f"the volume {volume!r} of the pod {pod_namespace}/{pod} is not mounted yet")
        if found.mode is not VolumeMode.FILESYSTEM:
            raise ExposeUnsupported(f"the volume {volume!r} of the pod {pod_namespace}/{pod} is a block device")
        return found.path
