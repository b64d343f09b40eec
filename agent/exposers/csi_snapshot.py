"""A CSI snapshot made accessible for a DataUpload (contract §3.1): handed over, made a volume, mounted by a pod.

Every step is an object of the cluster, so what exists says how far it is. The claim is made before the pod, and the pod
is the last of all: where it is, nothing before it has to be made any more. While the pod starts, each look goes
on removing the source's objects, which nobody has to wait for.
"""

from __future__ import annotations

from msgspec.structs import replace

from agent.base.errors import KubeNotFound, PodBroken, ProvisioningFailed
from agent.exposers.contract import Broken, Done, Ready, Runner, Waiting
from agent.exposers.copies import copy_for, remove_copies
from agent.exposers.diagnosis import Involved, diagnose
from agent.exposers.discard import volume_of
from agent.exposers.host_path import csi_volume_path
from agent.exposers.hosting_pod import SNAPSHOT_GROUP, ClaimVolume, PodRequest, hosting_pod, runner_of, volume_path
from agent.exposers.made import find, find_made, is_being_deleted, is_made_for, make, request_removal
from agent.exposers.mover_secrets import mover_credential
from agent.exposers.outcome import outcome_of
from agent.exposers.pod_state import Running, state_of_pod
from agent.exposers.provisioning import why_unprovisioned
from agent.exposers.settings import ExposerSettings
from agent.exposers.snapshot_claim import ClaimPlan, SnapshotClaims, snapshot_claim
from agent.exposers.snapshot_handover import SnapshotHandover, Source, source_key
from agent.exposers.snapshot_record import SourceRecord, find_record, write_record
from agent.exposers.snapshot_state import state_of_snapshot
from agent.kube.data_upload import DataUpload
from agent.kube.meta import Key
from agent.kube.names import DATA_UPLOAD_LABEL
from agent.kube.pods import NodeSelector, Pod
from agent.kube.resource import (
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    VOLUME_SNAPSHOTS,
)
from agent.kube.times import ns_from_time
from agent.kube.volumes import PersistentVolumeClaim

_BOUND, _LOST = "Bound", "Lost"
_READ_ONLY = "ReadOnlyMany"
_CLAIM_FIRST_SECONDS = 30.0
"""How long the snapshot waits for the volume that was made from it: some drivers do not delete it before."""


class CsiSnapshotExposer:
    """Implements `Exposer[DataUpload]`."""

    def __init__(self, settings: ExposerSettings) -> None:
        self._settings = settings
        self._api = settings.api
        self._handover = SnapshotHandover(settings)
        self._claims = SnapshotClaims(settings)

    async def advance(self, job: DataUpload) -> Waiting | Ready | Broken:
        """The next steps towards a pod that has the snapshot's volume."""
        return await outcome_of(f"{job.kind} {job.key}", self._advance(job))

    async def finish(self, job: DataUpload) -> Done:
        """A backup hands nothing over."""
        return Done()

    async def clean_up(self, job: DataUpload) -> Waiting | Done:
        """Pod, claim, volume, both snapshots with their contents, and copied secrets go."""
        left = []
        record = await find_record(self._api, job)
        pod = await find(self._api, PODS, job.key)
        if pod is not None and is_made_for(pod, job):
            await request_removal(self._api, PODS, pod)
            left.append("the pod")
        claim = await find(self._api, PERSISTENT_VOLUME_CLAIMS, job.key)
        if not await self._claims.remove(job, claim):
            left.append("the claim")
        if not self._comes_first(job, claim):
            # One after the other: whoever waits for the storage looks at the rest once, not each time.
            if not await self._handover.remove_copies(job, record):
                left.append("the snapshot")
            elif not await self._handover.remove_source(job, record):
                left.append(f"the snapshot in {job.spec.source_namespace}")
        if record is not None and not await remove_copies(self._api, job, record.wanted):
            left.append("copied secrets")
        if not left and not await self._claims.is_volume_gone(job):
            left.append("the volume")
        return Waiting(f"not deleted yet of {job.key}: {', '.join(left)}") if left else Done()

    async def diagnose(self, job: DataUpload) -> tuple[str, ...]:
        """Facts about pod, claim, volume and snapshots."""
        name = Key("", job.metadata.name)
        record = await find_record(self._api, job)
        return await diagnose(
            self._api,
            Involved(
                pods=(job.key,),
                claims=(job.key,),
                snapshots=(job.key, source_key(job)),
                contents=(name,) if record is None else (name, Key("", record.content)),
            ),
        )

    async def _advance(self, job: DataUpload) -> Waiting | Ready | Broken:
        pod = await find_made(self._api, PODS, job.key, job)
        record = await find_record(self._api, job)
        if pod is None and job.status.node:
            raise PodBroken(f"the pod {job.key}, which held the volume on node {job.status.node}, is gone")
        if pod is None:
            return await self._make_pod(job, record)
        if record is not None:
            await self._handover.release_source(job, record)
        runner = runner_of(pod)
        if runner is None:
            raise PodBroken(
                f"the pod {pod.key} was made by another kind of agent, and cannot be taken over",
                hint="the next backup is made by this agent from its start",
            )
        return await self._look_at(job, pod, runner)

    async def _make_pod(self, job: DataUpload, record: SourceRecord | None) -> Waiting:
        """All steps up to the pod, as far as they are not done."""
        plan = await self._claims.plan(job)
        claim = await self._make_claim(job, plan, record)
        if isinstance(claim, Waiting):
            return claim
        read_only = _READ_ONLY in claim.spec.access_modes
        request = PodRequest(
            job=job,
            label=DATA_UPLOAD_LABEL,
            group=SNAPSHOT_GROUP,
            volume=ClaimVolume(claim.metadata.name, read_only),
            mode=claim.spec.volume_mode,
            storage_class=plan.storage_class,
            topology=plan.topology,
            avoid_nodes=plan.avoid_nodes,
            spc_t=read_only and plan.mapping.spc_no_relabeling,
        )
        return await self._create_pod(job, request)

    async def _make_claim(
        self, job: DataUpload, plan: ClaimPlan, record: SourceRecord | None
    ) -> PersistentVolumeClaim | Waiting:
        claim = await find_made(self._api, PERSISTENT_VOLUME_CLAIMS, job.key, job)
        if claim is not None and is_being_deleted(claim):
            return Waiting(f"the claim {job.key} is being deleted")
        if claim is not None and record is None:
            return claim
        source: Source | None = None
        if record is None:
            found = await self._handover.source(job)
            if isinstance(found, Waiting):
                return found
            source = found
            record = await self._claims.record(job, plan, *source)
            await write_record(self._api, job, record)
        waiting = await copy_for(self._api, job, job.spec.source_namespace, record.wanted)
        if waiting is not None:
            return waiting
        await self._handover.copy(job, record, source)
        await self._handover.release_source(job, record, source)
        return claim or await make(self._api, PERSISTENT_VOLUME_CLAIMS, snapshot_claim(job, plan, record), job)

    async def _create_pod(self, job: DataUpload, request: PodRequest) -> Waiting:
        settings = self._settings
        runner = settings.runner(request.mode)
        if runner is Runner.POD:
            credential = await mover_credential(settings, job.spec.backup_storage_location)
            request = replace(request, credential=credential)
        try:
            template = await settings.pod_template(runner)
        except KubeNotFound as error:
            return Waiting(f"there is no DaemonSet to copy the pod from: {error}")
        await make(self._api, PODS, hosting_pod(request, runner, template, settings.config()), job)
        return Waiting(f"the pod {job.key} was made and starts")

    async def _look_at(self, job: DataUpload, pod: Pod, runner: Runner) -> Waiting | Ready | Broken:
        claim = await find(self._api, PERSISTENT_VOLUME_CLAIMS, job.key)
        if claim is None or claim.status.phase == _LOST:
            raise ProvisioningFailed(f"the claim {job.key} or its volume is gone while the pod {pod.key} needs it")
        state = await state_of_pod(self._api, self._settings.clock, pod, lambda: self._reachable_from(claim))
        if isinstance(state, Running):
            path = await self._path(job, pod, claim, runner)
            return Ready(node=state.node, mode=claim.spec.volume_mode, path=path, runner=runner, pod=pod.metadata.name)
        if isinstance(state, Waiting) and claim.status.phase != _BOUND:
            return await self._why_unbound(job, claim) or state
        return state

    async def _reachable_from(self, claim: PersistentVolumeClaim) -> NodeSelector | None:
        """The nodes that the volume allows, as far as it exists."""
        volume = await volume_of(self._api, claim) if claim.spec.volume_name else None
        affinity = volume.spec.node_affinity if volume is not None else None
        return affinity.required if affinity is not None else None

    async def _path(self, job: DataUpload, pod: Pod, claim: PersistentVolumeClaim, runner: Runner) -> str:
        """As the worker sees it. Only the node's own agent can look; what others say is where it has to be."""
        if runner is Runner.POD:
            return volume_path(job)
        uid, volume, mode = pod.metadata.uid, claim.spec.volume_name, claim.spec.volume_mode
        if pod.spec.node_name != self._settings.node:
            return csi_volume_path(uid, volume, mode)
        return await self._settings.volumes.find(uid, volume, mode)

    async def _why_unbound(self, job: DataUpload, claim: PersistentVolumeClaim) -> Waiting | None:
        """What keeps a claim from getting its volume; None when nothing is known."""
        snapshot = await find(self._api, VOLUME_SNAPSHOTS, job.key)
        waiting = state_of_snapshot(self._settings.clock, snapshot) if snapshot is not None else None
        return waiting or await why_unprovisioned(self._api, self._settings.clock, claim)

    def _comes_first(self, job: DataUpload, claim: PersistentVolumeClaim | None) -> bool:
        """Whether the snapshot has to wait until the claim that was made from it is gone."""
        if claim is None or not is_made_for(claim, job):
            return False
        since = claim.metadata.deletion_timestamp
        if since is None:
            return True
        return (self._settings.clock.now_ns() - ns_from_time(since)) / 1e9 < _CLAIM_FIRST_SECONDS
