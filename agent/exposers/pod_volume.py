"""PodVolumeBackups and PodVolumeRestores: a volume that a pod of this node has mounted (contract §3.3).

Nothing has to be made for a worker of the agent: the volume lies on the node already, and only its path is looked for.
Where configuration wants the work done in a pod, a mover pod on this node mounts that same folder of the node. Either
way the agent itself has to see the kubelet's folder, to find the volume and to tell a restored pod to go on.
"""

from __future__ import annotations

import asyncio
from typing import Final, Generic, TypeVar

from agent.base.errors import DoneFileFailed, ExposeUnsupported
from agent.exposers.contract import Broken, Done, Ready, Runner, Waiting
from agent.exposers.diagnosis import Involved, diagnose
from agent.exposers.discard import throw_away
from agent.exposers.done_file import write_done_file
from agent.exposers.hosting_pod import (
    POD_VOLUME_GROUP,
    NodeFolder,
    PodRequest,
    hosting_pod,
    runner_of,
    volume_path,
)
from agent.exposers.made import every, find, find_made, is_made_for, made_for, make, request_removal
from agent.exposers.mover_secrets import mover_credential
from agent.exposers.outcome import outcome_of
from agent.exposers.pod_state import Running, state_of_pod
from agent.exposers.pod_volume_source import MountedVolume, mounted_volume
from agent.exposers.restore_claims import cache_claim, cache_key, wants_cache
from agent.exposers.restore_wait import has_waited
from agent.exposers.settings import ExposerSettings
from agent.kube.names import POD_VOLUME_BACKUP_LABEL, POD_VOLUME_RESTORE_LABEL
from agent.kube.pod_volume_backup import PodVolumeBackup
from agent.kube.pod_volume_restore import PodVolumeRestore
from agent.kube.pods import Pod, PodTemplate
from agent.kube.resource import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS
from agent.kube.selector import Selector

HOST_PODS_VOLUME: Final = "host-pods"
"""The DaemonSet's volume of the kubelet's `pods` folder (contract §4.4)."""

PodVolumeT = TypeVar("PodVolumeT", PodVolumeBackup, PodVolumeRestore)


class PodVolumeExposer(Generic[PodVolumeT]):
    """What backups and restores have in common."""

    def __init__(self, settings: ExposerSettings, label: str) -> None:
        self._settings = settings
        self._label = label

    async def advance(self, job: PodVolumeT) -> Waiting | Ready | Broken:
        """Find the volume; where a pod does the work, make that and wait until it runs."""
        return await outcome_of(f"{job.kind} {job.key}", self._advance(job))

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
        """Where the volume is, or why it is not; and facts about the mover pod, if there is one."""
        found = await self._find(job)
        if isinstance(found, MountedVolume):
            fact = f"the volume {job.spec.volume!r} of the pod {found.pod.key} is mounted at {found.path}"
        else:
            fact = found.reason if isinstance(found, Waiting) else str(found.error)
        if await find(self._settings.api, PODS, job.key) is None:
            return (fact,)
        return (*await diagnose(self._settings.api, Involved(pods=(job.key,))), fact)

    async def _advance(self, job: PodVolumeT) -> Waiting | Ready | Broken:
        settings = self._settings
        pod = await find_made(settings.api, PODS, job.key, job)
        if pod is not None and runner_of(pod) is None:
            await request_removal(settings.api, PODS, pod)
            return Waiting(f"the pod {job.key} of the agent that ran here before ends")
        found = await self._find(job)
        if not isinstance(found, MountedVolume):
            return found
        runner = settings.runner(found.mode) if pod is None else runner_of(pod)
        if runner is not Runner.POD:
            return Ready(node=settings.node, mode=found.mode, path=found.path, runner=Runner.LOCAL)
        if pod is None:
            pod = await self._make_pod(job, found)
        state = await state_of_pod(settings.api, settings.clock, pod)
        if not isinstance(state, Running):
            return state
        return Ready(node=state.node, mode=found.mode, path=volume_path(job), runner=Runner.POD, pod=pod.metadata.name)

    async def _make_pod(self, job: PodVolumeT, found: MountedVolume) -> Pod:
        settings, config = self._settings, self._settings.config()
        template = await settings.pod_template(Runner.POD)
        request = PodRequest(
            job=job,
            label=self._label,
            group=POD_VOLUME_GROUP,
            volume=NodeFolder(_path_on_node(template, found)),
            mode=found.mode,
            node_name=settings.node,
            privileged=config.privileged_fs_backup,
            credential=await mover_credential(settings, job.spec.backup_storage_location),
            cache_claim=await self._cache(job),
        )
        return await make(settings.api, PODS, hosting_pod(request, Runner.POD, template, config), job)

    async def _cache(self, job: PodVolumeT) -> str:
        """The name of a claim for the caches of the mover pod; empty for none."""
        return ""

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

    async def clean_up(self, job: PodVolumeRestore) -> Waiting | Done:
        """Remove the mover pod, and the claim for its caches with its volume."""
        api = self._settings.api
        state = await super().clean_up(job)
        claim = await find(api, PERSISTENT_VOLUME_CLAIMS, cache_key(job))
        if claim is not None and is_made_for(claim, job):
            await throw_away(api, claim, made_for(job))
            return Waiting(f"the claim {claim.key} goes")
        async for volume in every(api, PERSISTENT_VOLUMES, selector=Selector(labels=made_for(job))):
            return Waiting(f"the storage deletes the volume {volume.metadata.name}")
        return state

    async def _cache(self, job: PodVolumeRestore) -> str:
        settings, config = self._settings, self._settings.config()
        if not wants_cache(config, job.spec.snapshot_size):
            return ""
        claim = cache_claim(job, config.cache_pvc.storage_class, settings.cache_limit_mb, settings.node)
        found = await find_made(settings.api, PERSISTENT_VOLUME_CLAIMS, claim.key, job)
        return (found or await make(settings.api, PERSISTENT_VOLUME_CLAIMS, claim, job)).metadata.name


def _path_on_node(template: PodTemplate, found: MountedVolume) -> str:
    """The volume's folder as the node itself sees it, where the agent sees it below its own mount."""
    volume = template.spec.volume(HOST_PODS_VOLUME)
    if volume is None or volume.host_path is None:
        raise ExposeUnsupported(
            f"the agent's DaemonSet has no volume {HOST_PODS_VOLUME} of the node, so no mover pod can mount "
            f"{found.path}",
            hint="install Velero with --use-node-agent and without --node-agent-disable-host-path",
        )
    below = found.path.index(f"/{found.pod.metadata.uid}/")
    return volume.host_path.path.rstrip("/") + found.path[below:]
