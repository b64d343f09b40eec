"""DataDownloads: a new volume that is filled and then given to the claim that waits for it (contract §3.2).

    the user's claim waits (its selector keeps every provisioner away) -> a claim of ours of the same shape -> a pod
    that mounts it -> the data -> `rebind`

The claim is made before the pod, so that the scheduler never has to complain about one that is missing (§13.11). All
objects have the DataDownload's name and go with it; the volumes of both claims are deleted with them, whatever the
reclaim policy of their class is, until the moment that one of them is the user's.
"""

from __future__ import annotations

from typing import Final

from agent.base.errors import PodBroken, ProvisioningFailed, RebindFailed, SourceGone
from agent.exposers.contract import Broken, Done, Ready, Runner, Waiting
from agent.exposers.copies import Wanted, copy_for, remove_copies
from agent.exposers.diagnosis import Involved, diagnose
from agent.exposers.discard import throw_away
from agent.exposers.host_path import csi_volume_path
from agent.exposers.hosting_pod import RESTORE_GROUP, ClaimVolume, PodRequest, hosting_pod, runner_of, volume_path
from agent.exposers.made import find, find_made, is_being_deleted, is_made_for, made_for, make, request_removal
from agent.exposers.mover_secrets import mover_credential
from agent.exposers.outcome import outcome_of
from agent.exposers.pod_state import Running, state_of_pod
from agent.exposers.provisioning import why_unprovisioned
from agent.exposers.rebind import hand_over, settle, target_of, tracked_volumes
from agent.exposers.restore_claims import (
    SELECTED_NODE,
    cache_claim,
    cache_key,
    restore_claim,
    wants_cache,
)
from agent.exposers.settings import ExposerSettings
from agent.kube.data_download import DataDownload
from agent.kube.meta import Key
from agent.kube.names import DATA_DOWNLOAD_LABEL
from agent.kube.pods import NodeSelector, Pod
from agent.kube.resource import (
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    STORAGE_CLASSES,
)
from agent.kube.volumes import BindingMode, PersistentVolumeClaim

_HOST_NAME: Final = "kubernetes.io/hostname"


class GenericRestoreExposer:
    """Volumes to fill."""

    def __init__(self, settings: ExposerSettings) -> None:
        self._settings = settings

    async def advance(self, job: DataDownload) -> Waiting | Ready | Broken:
        """Steps 1 to 6: claims, pod, and where the volume is once the pod runs."""
        return await outcome_of(f"{job.kind} {job.key}", self._advance(job))

    async def finish(self, job: DataDownload) -> Waiting | Done | Broken:
        """Step 7."""
        return await hand_over(self._settings.api, job)

    async def clean_up(self, job: DataDownload) -> Waiting | Done:
        """Remove pod, claims and volumes; a volume that is the user's already is handed over to the end instead."""
        api, left = self._settings.api, list[str]()
        pod = await find(api, PODS, job.key)
        if pod is not None and is_made_for(pod, job):
            await request_removal(api, PODS, pod)
            left.append(f"the pod {job.key} ends")
        for key in (job.key, cache_key(job)):
            claim = await find(api, PERSISTENT_VOLUME_CLAIMS, key)
            if claim is not None and is_made_for(claim, job):
                await throw_away(api, claim, made_for(job))
                left.append(f"the claim {key} goes")
        for volume in await tracked_volumes(api, job):
            state = await settle(api, volume, job.metadata.namespace)
            if isinstance(state, Waiting):
                left.append(state.reason)
        if not await remove_copies(api, job, self._copies()):
            left.append("copied secrets go")
        return Waiting("; ".join(left)) if left else Done()

    async def diagnose(self, job: DataDownload) -> tuple[str, ...]:
        """Facts about the pod, our claims, the user's claim and their volumes."""
        return await diagnose(
            self._settings.api, Involved(pods=(job.key,), claims=(job.key, cache_key(job), target_of(job)))
        )

    async def _advance(self, job: DataDownload) -> Waiting | Ready | Broken:
        api = self._settings.api
        pod = await find_made(api, PODS, job.key, job)
        if pod is None and job.status.node:
            raise PodBroken(f"the pod {job.key}, which held the volume on node {job.status.node}, is gone")
        if pod is not None and runner_of(pod) is None:
            await request_removal(api, PODS, pod)
            return Waiting(f"the pod {job.key} of the agent that ran here before ends")
        if pod is None:
            return await self._make(job, await self._target(job))
        claim = await find_made(api, PERSISTENT_VOLUME_CLAIMS, job.key, job)
        if claim is None:
            raise ProvisioningFailed(f"the claim {job.key} that was to be restored to was removed by somebody")
        state = await state_of_pod(api, self._settings.clock, pod, lambda: self._reachable_from(claim))
        if isinstance(state, Running):
            return await self._ready(pod, state.node, claim, job)
        if isinstance(state, Waiting) and not claim.spec.volume_name:
            return await self._unprovisioned(claim, state)
        return state

    async def _reachable_from(self, claim: PersistentVolumeClaim) -> NodeSelector | None:
        """The nodes that the volume allows, as far as it exists."""
        name = claim.spec.volume_name
        volume = await find(self._settings.api, PERSISTENT_VOLUMES, Key("", name)) if name else None
        affinity = volume.spec.node_affinity if volume is not None else None
        return affinity.required if affinity is not None else None

    async def _make(self, job: DataDownload, target: PersistentVolumeClaim) -> Waiting:
        """The claim, then the pod."""
        api = self._settings.api
        node = await self._selected_node(target)
        if isinstance(node, Waiting):
            return node
        waiting = await copy_for(api, job, target.metadata.namespace, self._copies())
        if waiting is not None:
            return waiting
        claim = await self._claim(job, restore_claim(job, target, node))
        if is_being_deleted(claim):
            return Waiting(f"the claim {job.key} is being deleted")
        await self._pod(job, target, node)
        return Waiting(f"the pod {job.key} was made and starts")

    async def _target(self, job: DataDownload) -> PersistentVolumeClaim:
        key = target_of(job)
        target = await find(self._settings.api, PERSISTENT_VOLUME_CLAIMS, key)
        if target is None:
            raise SourceGone(f"the claim {key} that was to be restored does not exist any more")
        if target.spec.volume_name:
            raise RebindFailed(
                f"the claim {key} is bound to {target.spec.volume_name} already, so nothing can be restored into it",
                hint="restore into a namespace where it does not exist",
            )
        return target

    async def _selected_node(self, target: PersistentVolumeClaim) -> str | Waiting:
        """Where the user's pod will run, or empty where that does not matter."""
        name = target.spec.storage_class_name
        storage_class = await find(self._settings.api, STORAGE_CLASSES, Key("", name)) if name else None
        if name and storage_class is None:
            raise ProvisioningFailed(f"the storage class {name} of the claim {target.key} does not exist")
        node = target.metadata.annotations.get(SELECTED_NODE, "")
        waits = storage_class is not None and storage_class.volume_binding_mode is BindingMode.WAIT_FOR_FIRST_CONSUMER
        if waits and not node and not self._settings.config().restore_pvc.ignore_delay_binding:
            return Waiting(f"no pod uses the claim {target.key} yet, and its class {name} waits for the first")
        return node

    async def _claim(self, job: DataDownload, wanted: PersistentVolumeClaim) -> PersistentVolumeClaim:
        api = self._settings.api
        found = await find_made(api, PERSISTENT_VOLUME_CLAIMS, wanted.key, job)
        return found or await make(api, PERSISTENT_VOLUME_CLAIMS, wanted, job)

    async def _pod(self, job: DataDownload, target: PersistentVolumeClaim, node: str) -> None:
        settings, config = self._settings, self._settings.config()
        runner = settings.runner(target.spec.volume_mode)
        cache, credential = "", None
        if runner is Runner.POD:
            credential = await mover_credential(settings, job.spec.backup_storage_location)
            if wants_cache(config, job.spec.snapshot_size):
                claim = cache_claim(job, config.cache_pvc.storage_class, settings.cache_limit_mb)
                cache = (await self._claim(job, claim)).metadata.name
        request = PodRequest(
            job=job,
            label=DATA_DOWNLOAD_LABEL,
            group=RESTORE_GROUP,
            volume=ClaimVolume(job.metadata.name),
            mode=target.spec.volume_mode,
            storage_class=None if node else target.spec.storage_class_name or "",
            node_selector={_HOST_NAME: node} if node else {},
            credential=credential,
            cache_claim=cache,
        )
        pod = hosting_pod(request, runner, await settings.pod_template(runner), config)
        await make(settings.api, PODS, pod, job)

    async def _ready(self, pod: Pod, node: str, claim: PersistentVolumeClaim, job: DataDownload) -> Waiting | Ready:
        settings, mode = self._settings, claim.spec.volume_mode
        if not claim.spec.volume_name:
            return Waiting(f"the claim {claim.key} is not bound yet")
        runner = runner_of(pod) or Runner.POD
        if runner is Runner.POD:
            path = volume_path(job)
        elif node == settings.node:
            path = await settings.volumes.find(pod.metadata.uid, claim.spec.volume_name, mode)
        else:
            path = csi_volume_path(pod.metadata.uid, claim.spec.volume_name, mode)
        return Ready(node=node, mode=mode, path=path, runner=runner, pod=pod.metadata.name)

    async def _unprovisioned(self, claim: PersistentVolumeClaim, state: Waiting) -> Waiting | Broken:
        """What the provisioner says is more telling than what the scheduler does."""
        if claim.status.phase == "Lost":
            return Broken(ProvisioningFailed(f"the claim {claim.key} has lost its volume"))
        return await why_unprovisioned(self._settings.api, self._settings.clock, claim) or state

    def _copies(self) -> Wanted:
        config = self._settings.config().restore_pvc
        return Wanted(config.secret_names, config.config_map_names)
