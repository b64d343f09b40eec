"""What the control API sees of jobs: the objects that the controllers know, with the progress of their workers.

Implements `agent.control.contract.Jobs`.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.base.errors import ControlJobNotFound, ControlNotCancelable, KubeNotFound
from agent.control.contract import JobState
from agent.controllers.controllers import Controllers, Listed
from agent.controllers.job import WAITING_ANNOTATION, Job, is_canceled, is_paused, pause_annotation
from agent.kube.api import KubeApi
from agent.kube.codec import JsonObject
from agent.kube.data_download import DataDownload
from agent.kube.data_upload import DataUpload
from agent.kube.meta import Key
from agent.kube.pod_volume_backup import PodVolumeBackup
from agent.movers.pod_protocol import MOVED_RESOURCES
from agent.movers.spec import Progress


class JobBoard:
    """Of one agent."""

    def __init__(self, api: KubeApi, namespace: str, controllers: Controllers) -> None:
        self._api = api
        self._namespace = namespace
        self._controllers = controllers

    def all(self) -> Iterator[JobState]:
        """Every object that is known, of all nodes."""
        return map(_state, self._controllers.listed())

    def get(self, kind: str, name: str) -> JobState | None:
        """One of them."""
        found = self._find(kind, name)
        return None if found is None else _state(found)

    async def cancel(self, kind: str, name: str) -> JobState:
        """Set `spec.cancel`, as Velero does; the controllers see to the rest. Nothing is done to what has ended."""
        found = self._known(kind, name)
        if found.job.status.phase.is_final or is_canceled(found.job):
            return _state(found)
        try:
            changed = await self._api.patch(MOVED_RESOURCES[kind], found.job.key, {"spec": {"cancel": True}})
        except KubeNotFound:
            raise ControlJobNotFound(f"{kind} {name!r} is gone") from None
        if not changed.spec.cancel:
            raise ControlNotCancelable(
                f"{kind} {name!r} cannot be canceled: the definition of its kind has no spec.cancel",
                hint="delete the object, or upgrade Velero to 1.17",
            )
        return _state(Listed(kind, changed, found.node, found.work))

    async def pause(self, kind: str, name: str, *, paused: bool) -> JobState:
        """Annotate the object, so that every agent knows, also the next one; nothing is done to what is to end."""
        found = self._known(kind, name)
        if found.job.status.phase.is_final or is_canceled(found.job):
            return _state(found)
        patch: JsonObject = {"metadata": {"annotations": {**pause_annotation(paused)}}}
        try:
            changed = await self._api.patch(MOVED_RESOURCES[kind], found.job.key, patch)
        except KubeNotFound:
            raise ControlJobNotFound(f"{kind} {name!r} is gone") from None
        return _state(Listed(kind, changed, found.node, found.work))

    def _known(self, kind: str, name: str) -> Listed:
        found = self._find(kind, name)
        if found is None:
            raise ControlJobNotFound(f"there is no {kind} {name!r}", hint="`lighter agent jobs` lists what there is")
        return found

    def _find(self, kind: str, name: str) -> Listed | None:
        key = Key(self._namespace, name)
        return next((one for one in self._controllers.listed() if one.kind == kind and one.job.key == key), None)


def _state(listed: Listed) -> JobState:
    job, status = listed.job, listed.job.status
    namespace, volume = _volume(job)
    return JobState(
        kind=listed.kind,
        name=job.metadata.name,
        uid=job.metadata.uid,
        phase=status.phase,
        node=listed.node,
        volume_namespace=namespace,
        volume=volume,
        storage_location=job.spec.backup_storage_location,
        snapshot_id=job.status.snapshot_id if isinstance(job, DataUpload | PodVolumeBackup) else job.spec.snapshot_id,
        message=status.message,
        waiting_for="" if status.phase.is_final else job.metadata.annotations.get(WAITING_ANNOTATION, ""),
        canceled=is_canceled(job),
        paused=is_paused(job),
        created=job.metadata.creation_timestamp,
        started=status.start_timestamp,
        ended=status.completion_timestamp,
        progress=_progress(listed),
    )


def _volume(job: Job) -> tuple[str, str]:
    """Where the volume is, and what it is called there."""
    if isinstance(job, DataUpload):
        return job.spec.source_namespace, job.spec.source_pvc
    if isinstance(job, DataDownload):
        return job.spec.target_volume.namespace, job.spec.target_volume.pvc
    return job.spec.pod.namespace, f"{job.spec.pod.name}/{job.spec.volume}"


def _progress(listed: Listed) -> Progress:
    """What the worker says, else what the object does."""
    work, written = listed.work, listed.job.status.progress
    if work is not None and work.progress is not None and not listed.job.status.phase.is_final:
        return work.progress
    return Progress(bytes_done=written.bytes_done, bytes_total=written.total_bytes or None)
