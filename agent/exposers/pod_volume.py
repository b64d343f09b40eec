"""PodVolumeBackups and PodVolumeRestores: a volume that a pod of this node has mounted (contract §3.3).

Nothing has to be made for a worker of the agent: the volume lies on the node already, and only its path is looked for.
Where configuration wants the work done in a pod, a mover pod on this node mounts that same folder of the node. Either
way the agent itself has to see the kubelet's folder, to find the volume and to tell a restored pod to go on.
"""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from agent.base.errors import DoneFileFailed, ExposeUnsupported
from agent.exposers.contract import Broken, Done, Ready, Runner, Waiting
from agent.exposers.done_file import write_done_file
from agent.exposers.made import find, is_made_for, request_removal
from agent.exposers.pod_volume_source import MountedVolume, mounted_volume
from agent.exposers.restore_wait import has_waited
from agent.exposers.settings import ExposerSettings
from agent.kube.names import POD_VOLUME_BACKUP_LABEL, POD_VOLUME_RESTORE_LABEL
from agent.kube.pod_volume_backup import PodVolumeBackup
from agent.kube.pod_volume_restore import PodVolumeRestore
from agent.kube.resource import PODS

PodVolumeT = TypeVar("PodVolumeT", PodVolumeBackup, PodVolumeRestore)


class PodVolumeExposer(Generic[PodVolumeT]):
    """What backups and restores have in common."""

    def __init__(self, settings: ExposerSettings, label: str) -> None:
        self._settings = settings
        self._label = label

    async def advance(self, job: PodVolumeT) -> Waiting | Ready | Broken:
        """Find the volume; with a mover pod, make that too and wait until it runs."""
        found = await self._find(job)
        if not isinstance(found, MountedVolume):
            return found
        return Ready(node=self._settings.node, mode=found.mode, path=found.path, runner=Runner.LOCAL)

    async def finish(self, job: PodVolumeT) -> Waiting | Done | Broken:
        """Nothing: what was read is in the repository."""
        return Done()

    async def clean_up(self, job: PodVolumeT) -> Waiting | Done:
        """Remove the mover pod, if there is one, whatever configuration says now."""
        api = self._settings.api
        pod = await find(api, PODS, job.key)
        if pod is None or not is_made_for(pod, job):
            return Done()
        await request_removal(api, PODS, pod)
        return Waiting(f"the pod {job.key} ends")

    async def diagnose(self, job: PodVolumeT) -> tuple[str, ...]:
        """Where the volume is, or why it is not."""
        found = await self._find(job)
        if isinstance(found, MountedVolume):
            return (f"the volume {job.spec.volume!r} of the pod {found.pod.key} is mounted at {found.path}",)
        return (found.reason if isinstance(found, Waiting) else str(found.error),)

    async def _find(self, job: PodVolumeT) -> MountedVolume | Waiting | Broken:
        settings = self._settings
        if not settings.sees_host_pods:
            return Broken(
                ExposeUnsupported(
                    f"the agent of {settings.node} does not see the volumes of pods",
                    hint="let the DaemonSet mount the kubelet's pods folder (velero install without "
                    "--node-agent-disable-host-path)",
                )
            )
        return await mounted_volume(settings.api, settings.volumes, settings.node, job.spec.pod, job.spec.volume)


class PodVolumeBackupExposer(PodVolumeExposer[PodVolumeBackup]):
    """Volumes to read."""

    def __init__(self, settings: ExposerSettings) -> None:
        super().__init__(settings, POD_VOLUME_BACKUP_LABEL)


class PodVolumeRestoreExposer(PodVolumeExposer[PodVolumeRestore]):
    """Volumes to write, of pods that wait for that."""

    def __init__(self, settings: ExposerSettings) -> None:
        super().__init__(settings, POD_VOLUME_RESTORE_LABEL)

    async def finish(self, job: PodVolumeRestore) -> Waiting | Done | Broken:
        """Write the done file (contract §7.3); a pod that was told so before and has gone on needs none."""
        found = await self._find(job)
        if not isinstance(found, MountedVolume):
            return found
        if has_waited(found.pod):
            return Done()
        owners = job.metadata.owner_references
        if not owners:
            return Broken(DoneFileFailed(f"the PodVolumeRestore {job.key} names no restore that its pod waits for"))
        try:
            await asyncio.to_thread(write_done_file, found.path, owners[0].uid)
        except DoneFileFailed as error:
            return Broken(error)
        return Done()
