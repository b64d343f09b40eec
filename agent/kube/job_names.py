"""What an object is called in logs and metrics: its volume, for people, and the fields of each line about it."""

from __future__ import annotations

from typing import TypeAlias

from agent.kube.data_download import DataDownload
from agent.kube.data_upload import DataUpload
from agent.kube.names import PVC_NAME_ANNOTATION
from agent.kube.pod_volume_backup import PodVolumeBackup
from agent.kube.pod_volume_restore import PodVolumeRestore
from agent.observe.log import job_fields

Job: TypeAlias = DataUpload | DataDownload | PodVolumeBackup | PodVolumeRestore


def volume_of(job: Job) -> tuple[str, str]:
    """Namespace and name; a claim's where there is one, else `<pod>/<volume>`."""
    if isinstance(job, DataUpload):
        return job.spec.source_namespace, job.spec.source_pvc
    if isinstance(job, DataDownload):
        return job.spec.target_volume.namespace, job.spec.target_volume.pvc
    claim = job.metadata.annotations.get(PVC_NAME_ANNOTATION, "")
    return job.spec.pod.namespace, claim or f"{job.spec.pod.name}/{job.spec.volume}"


def log_fields(job: Job) -> dict[str, str]:
    """For `structlog.contextvars.bound_contextvars`, or a logger of its own."""
    return job_fields(job.kind, job.metadata.name, "/".join(volume_of(job)), job.metadata.uid)
