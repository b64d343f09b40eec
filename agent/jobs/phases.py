"""Metrics of phases: what the agent writes into objects, counted as it is told as events.

`CountedEvents` stands before the sink for Kubernetes events, which hears of every phase that this agent wrote, once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Final, Protocol

from agent.base.clock import Clock
from agent.kube.data_download import DataDownload
from agent.kube.data_upload import DataUpload
from agent.kube.job import Phase
from agent.kube.job_names import Job
from agent.kube.pod_volume_backup import PodVolumeBackup
from agent.observe.metrics import Metrics

_OUTCOMES: Final[Mapping[Phase, str]] = {
    Phase.COMPLETED: "success",
    Phase.FAILED: "failure",
    Phase.CANCELED: "cancel",
}
_CODE = re.compile(r"([a-z0-9-]+(?:\.[a-z0-9-]+)*): ", re.ASCII)
_MOST_OBJECTS = 10_000


class EventSink(Protocol):
    """As `agent.controllers.status.EventSink`."""

    def emit(self, job: Job, reason: str, message: str, *, warning: bool = False) -> None:
        """Say that something happened to `job`."""
        ...


class CountedEvents:
    """An `EventSink` that counts phases and hands everything on to the next."""

    def __init__(self, inner: EventSink, metrics: Metrics, clock: Clock) -> None:
        self._inner = inner
        self._metrics = metrics
        self._clock = clock
        self._entered: dict[str, tuple[Phase, float]] = {}
        """By uid: the phase that an object is in, and since when."""

    def emit(self, job: Job, reason: str, message: str, *, warning: bool = False) -> None:
        """Count it if it is a phase, and tell the next."""
        if reason == job.status.phase:
            self._count(job)
        self._inner.emit(job, reason, message, warning=warning)

    def _count(self, job: Job) -> None:
        phase, now, uid = job.status.phase, self._clock.monotonic(), job.metadata.uid
        before, since = self._entered.pop(uid, (None, 0.0))
        if before is phase:
            self._entered[uid] = before, since
            return
        if before is not None:
            self._metrics.left_phase(job.kind, before, now - since)
        elif phase is Phase.ACCEPTED:
            self._metrics.left_phase(job.kind, Phase.NEW, self._since(job.metadata.creation_timestamp))
        if phase.is_final:
            self._count_end(job)
            return
        self._entered[uid] = phase, now
        if len(self._entered) > _MOST_OBJECTS:
            del self._entered[next(iter(self._entered))]
        if phase is Phase.IN_PROGRESS:
            self._metrics.waited(job.kind, self._since(job.metadata.creation_timestamp))
        if isinstance(job, PodVolumeBackup) and _is_first(job):
            self._metrics.velero.backup_taken_up()

    def _count_end(self, job: Job) -> None:
        phase, metrics = job.status.phase, self._metrics
        seconds = _seconds(job.status.start_timestamp, job.status.completion_timestamp)
        metrics.ended(job.kind, phase, seconds)
        if phase is Phase.FAILED:
            metrics.failed(job.kind, _code(job.status.message))
        if isinstance(job, DataUpload):
            metrics.velero.data_upload_ended(_OUTCOMES[phase])
        elif isinstance(job, DataDownload):
            metrics.velero.data_download_ended(_OUTCOMES[phase])
        elif isinstance(job, PodVolumeBackup):
            spec, owners = job.spec, job.metadata.owner_references
            backup = f"{job.metadata.namespace}/{owners[0].name if owners else ''}"
            name = job.metadata.name
            operation = f"{name}-{spec.backup_storage_location}-{spec.pod.namespace}-{spec.uploader_type}-backup"
            metrics.velero.backup_ended(name, operation, backup, seconds or 0.0)

    def _since(self, moment: datetime | None) -> float:
        return 0.0 if moment is None else max(self._clock.now_ns() / 1e9 - moment.timestamp(), 0.0)


def _is_first(job: PodVolumeBackup) -> bool:
    """Whether this is the phase with which an agent takes it up: servers up to 1.16 know no Accepted."""
    phase, accepted = job.status.phase, job.status.accepted_timestamp
    return phase is Phase.ACCEPTED or (phase is Phase.IN_PROGRESS and accepted is None)


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    return None if start is None or end is None else max((end - start).total_seconds(), 0.0)


def _code(message: str) -> str:
    """The code of an error, with which messages begin."""
    found = _CODE.match(message)
    return found[1] if found else "unknown"
