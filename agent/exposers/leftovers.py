"""What agents made for objects that are over, and nobody removed (contract §2.5, last row).

Pods and claims go with their owner, but volumes and snapshot contents have no owner to go with, and an agent may die,
or run out of patience with the storage, before they are gone. `sweep` finds them by the label that all of ours carry.

Only what is certainly ours is touched: it carries the label, lies in Velero's namespace or was bound to something
there, and the object that it was made for does not exist any more, by uid, or has been final for a good while. Objects
are listed before the jobs, so a job that began in between is never taken for one that is gone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec
import structlog

from agent.base.errors import KubeConflict, KubeForbidden, KubeNotFound
from agent.exposers.contract import Done, Exposer, Waiting
from agent.exposers.discard import throw_away
from agent.exposers.made import every, request_removal
from agent.exposers.rebind import settle
from agent.exposers.settings import ExposerSettings
from agent.exposers.snapshot_content import remove_content
from agent.kube.codec import ObjectT
from agent.kube.data_download import DataDownload
from agent.kube.data_upload import DataUpload
from agent.kube.names import JOB_UID_LABEL, valid_name
from agent.kube.pod_volume_backup import PodVolumeBackup
from agent.kube.pod_volume_restore import PodVolumeRestore
from agent.kube.pods import Pod
from agent.kube.resource import (
    DATA_DOWNLOADS,
    DATA_UPLOADS,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    POD_VOLUME_BACKUPS,
    POD_VOLUME_RESTORES,
    PODS,
    VOLUME_SNAPSHOT_CONTENTS,
    VOLUME_SNAPSHOTS,
    Resource,
)
from agent.kube.selector import Selector
from agent.kube.snapshots import VolumeSnapshot, VolumeSnapshotContent
from agent.kube.times import Time, ns_from_time
from agent.kube.volumes import PersistentVolume, PersistentVolumeClaim

FINAL_SECONDS: Final = 900.0
"""How long a job has to be final: longer than its own agent goes on removing what it made."""

_OURS = Selector(has_labels=(JOB_UID_LABEL,))
_JobT = TypeVar("_JobT", DataUpload, DataDownload, PodVolumeBackup, PodVolumeRestore)
_Leftover = Pod | PersistentVolumeClaim | PersistentVolume | VolumeSnapshot | VolumeSnapshotContent
_log = structlog.stdlib.get_logger(__name__)


class SweepReport(msgspec.Struct, frozen=True):
    """One sweep."""

    going: tuple[str, ...] = ()
    """What was found and has been told to go, for people. What is in two reports in a row has somebody who holds it."""


class _Job(msgspec.Struct, frozen=True):
    """An object that things were made for."""

    name: str
    is_final: bool
    completed: Time | None
    clean_up: Callable[[], Awaitable[Waiting | Done]]


class JobExposers(msgspec.Struct, frozen=True, kw_only=True):
    """Those of the four kinds: who knows best what belongs to a job that still exists."""

    uploads: Exposer[DataUpload]
    downloads: Exposer[DataDownload]
    backups: Exposer[PodVolumeBackup]
    restores: Exposer[PodVolumeRestore]


class Leftovers:
    """Object-level rescue. Any agent may do it, several at once too."""

    def __init__(self, settings: ExposerSettings, exposers: JobExposers) -> None:
        self._settings = settings
        self._api = settings.api
        self._exposers = exposers
        self._final_since: dict[str, float] = {}

    async def sweep(self) -> SweepReport:
        """Find and remove. At start and every few minutes; raises `KubeError`, after which the next sweep goes on."""
        found = await self._found()
        if not found:
            self._final_since.clear()
            return SweepReport()
        jobs = await self._jobs()
        self._final_since = {uid: since for uid, since in self._final_since.items() if uid in jobs}
        going: list[str] = []
        for uid, objects in found.items():
            try:
                going += await self._handle(jobs.get(uid), uid, objects)
            except (KubeConflict, KubeNotFound):
                continue  # somebody else is at it
        if going:
            _log.info("removing what was left behind", objects=going)
        return SweepReport(tuple(going))

    async def _handle(self, job: _Job | None, uid: str, objects: list[_Leftover]) -> list[str]:
        if job is None:
            return [text for obj in objects if (text := await self._remove(obj))]
        if not job.is_final or not self._is_over(uid, job):
            return []
        state = await job.clean_up()
        return [f"{job.name}: {state.reason}"] if isinstance(state, Waiting) else []

    def _is_over(self, uid: str, job: _Job) -> bool:
        clock = self._settings.clock
        if job.completed is not None:
            return (clock.now_ns() - ns_from_time(job.completed)) / 1e9 >= FINAL_SECONDS
        since = self._final_since.setdefault(uid, clock.monotonic())  # agents exist that do not write when
        return clock.monotonic() - since >= FINAL_SECONDS

    async def _remove(self, obj: _Leftover) -> str:
        """Have an object go whose job does not exist any more; what it is, or empty when it is none of ours."""
        namespace = self._settings.namespace
        match obj:
            case Pod():
                await request_removal(self._api, PODS, obj)
            case PersistentVolumeClaim():
                await throw_away(self._api, obj, {JOB_UID_LABEL: obj.metadata.labels[JOB_UID_LABEL]})
            case PersistentVolume():
                if isinstance(await settle(self._api, obj, namespace), Done):
                    return ""
            case VolumeSnapshot():
                await request_removal(self._api, VOLUME_SNAPSHOTS, obj)
            case VolumeSnapshotContent():
                if obj.spec.volume_snapshot_ref.namespace != namespace:
                    return ""
                await remove_content(self._api, obj)
        return f"{obj.kind} {obj.key}"

    async def _found(self) -> dict[str, list[_Leftover]]:
        """What carries our label, by the uid in it. Claims and snapshots come before what they are bound to."""
        namespace = self._settings.namespace
        leftovers: list[_Leftover] = [
            *await self._list(PODS, namespace),
            *await self._list(PERSISTENT_VOLUME_CLAIMS, namespace),
            *await self._list(PERSISTENT_VOLUMES, ""),
            *await self._list(VOLUME_SNAPSHOTS, namespace),
            *await self._list(VOLUME_SNAPSHOT_CONTENTS, ""),
        ]
        found: defaultdict[str, list[_Leftover]] = defaultdict(list)
        for obj in leftovers:
            found[obj.metadata.labels[JOB_UID_LABEL]].append(obj)
        return dict(found)

    async def _jobs(self) -> dict[str, _Job]:
        exposers = self._exposers
        return {
            **await self._jobs_of(DATA_UPLOADS, exposers.uploads),
            **await self._jobs_of(DATA_DOWNLOADS, exposers.downloads),
            **await self._jobs_of(POD_VOLUME_BACKUPS, exposers.backups),
            **await self._jobs_of(POD_VOLUME_RESTORES, exposers.restores),
        }

    async def _jobs_of(self, resource: Resource[_JobT], exposer: Exposer[_JobT]) -> dict[str, _Job]:
        """Those that exist, by the uid as labels have it. Raises when some of them cannot be seen: they may exist."""
        jobs: dict[str, _Job] = {}
        token = ""
        while True:
            page = await self._api.list(resource, self._settings.namespace, continue_token=token)
            if page.unreadable:
                raise page.unreadable[0].error
            for job in page.items:
                jobs[valid_name(job.metadata.uid)] = _job(job, exposer)
            token = page.continue_token
            if not token:
                return jobs

    async def _list(self, resource: Resource[ObjectT], namespace: str) -> list[ObjectT]:
        """What carries our label. Kinds that the cluster does not have or does not show have none."""
        try:
            return [obj async for obj in every(self._api, resource, namespace, _OURS)]
        except (KubeForbidden, KubeNotFound):
            return []


def _job(job: _JobT, exposer: Exposer[_JobT]) -> _Job:
    async def clean_up() -> Waiting | Done:
        return await exposer.clean_up(job)

    return _Job(f"{job.kind} {job.key}", job.status.phase.is_final, job.status.completion_timestamp, clean_up)
