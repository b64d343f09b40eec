"""What a worker says goes into the agent's logs and metrics; nothing that it says can end its job.

`JobTelemetry.callbacks_for` is what `ControllerOptions.callbacks` takes.
"""

from __future__ import annotations

from typing import Final

import structlog

from agent.kube.job_names import Job, log_fields, volume_of
from agent.movers.spec import Progress
from agent.movers.supervisor import JobCallbacks
from agent.observe.log import worker_level
from agent.observe.metrics import Metrics
from agent.observe.worker_metrics import Recorder

_OPERATIONS: Final = {
    "DataUpload": "backup",
    "PodVolumeBackup": "backup",
    "DataDownload": "restore",
    "PodVolumeRestore": "restore",
}

_log = structlog.stdlib.get_logger("agent.worker")


class JobTelemetry:
    """One agent's."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def callbacks_for(self, job: Job) -> JobCallbacks:
        """For the worker that is about to do this object's job."""
        namespace, volume = volume_of(job)
        recorder = self._metrics.workers.recorder(_OPERATIONS.get(job.kind, "backup"), namespace, volume)
        logger = _log.bind(**log_fields(job))

        return JobCallbacks(
            on_progress=lambda progress: _record(recorder, progress),
            on_log=lambda line: logger.log(worker_level(line.level), line.text),
            on_metric=lambda metric: recorder.metric(metric.name, metric.labels, metric.value),
        )


def _record(recorder: Recorder, progress: Progress) -> None:
    recorder.progress(
        done=progress.bytes_done,
        reused=progress.bytes_cached,
        files=progress.files_done,
        failed=progress.errors,
    )
