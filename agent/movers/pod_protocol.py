"""How an agent and a mover pod talk: names that both, and the exposer of the pod, agree on (contract §13.15).

    agent: exposes a volume by a pod whose container runs `lighter mover run`
    pod:   waits for its own annotation JOB_ANNOTATION
    agent: patches the pod: JOB_ANNOTATION = the `JobSpec` as JSON, without secrets; LIMITS_ANNOTATION while it runs
    pod:   does the job; progress as events on the object, the result as its termination message
    cancel: the pod watches `spec.cancel` and the deletion of its object itself, and CANCEL_ANNOTATION of its own pod

Secrets never go through annotations: the exposer mounts the repository's password and the location's credentials, both
Secrets of Velero's namespace, into the pod. What is said in events and in the termination message is `pod_messages`'.
"""

from __future__ import annotations

from typing import Final, TypeAlias, cast

import msgspec

from agent.kube.data_download import DataDownload
from agent.kube.data_upload import DataUpload
from agent.kube.pod_volume_backup import PodVolumeBackup
from agent.kube.pod_volume_restore import PodVolumeRestore
from agent.kube.pods import Pod
from agent.kube.resource import DATA_DOWNLOADS, DATA_UPLOADS, POD_VOLUME_BACKUPS, POD_VOLUME_RESTORES, Resource
from agent.movers.spec import RateLimits

JOB_ANNOTATION: Final = "lighterage.io/job"
LIMITS_ANNOTATION: Final = "lighterage.io/limits"
CANCEL_ANNOTATION: Final = "lighterage.io/cancel"
"""Why the agent wants the job to end; for causes that the object does not show, such as a time limit."""

PASSWORD_FOLDER: Final = "/etc/lighterage/repository"  # noqa: S105 - a folder, not a secret
"""Where the Secret `velero-repo-credentials` is mounted; the file is its key."""
PASSWORD_SECRET: Final = "velero-repo-credentials"  # noqa: S105 - a name, not a secret
PASSWORD_KEY: Final = "repository-password"  # noqa: S105
CREDENTIALS_FOLDER: Final = "/etc/lighterage/location"
"""Where the Secret of the backup storage location is mounted, if it names one."""
CREDENTIALS_FILE: Final = "credentials"
"""The file in it, whatever the key is called."""
CACHE_FOLDER: Final = "/cachedir"
"""Where a cache volume is mounted, if there is one."""
TERMINATION_LOG: Final = "/dev/termination-log"
"""Where the pod leaves its termination message, unless TERMINATION_LOG_VARIABLE says otherwise."""

RUN_COMMAND: Final = ("lighter", "mover", "run")
"""Followed by `--kind DataUpload --name NAME`. It stays in the foreground until its job has ended."""
HOLD_COMMAND: Final = ("lighter", "mover", "hold")
"""What a pod runs that only mounts a volume: nothing, until it is told to end."""

POD_NAME_VARIABLE: Final = "POD_NAME"
"""The pod's own name, by the downward API; without it the pod has the name of its object, as stock pods do."""
NAMESPACE_VARIABLE: Final = "VELERO_NAMESPACE"
NODE_VARIABLE: Final = "NODE_NAME"
TERMINATION_LOG_VARIABLE: Final = "LIGHTERAGE_TERMINATION_LOG"
PROXY_VARIABLE: Final = "LIGHTERAGE_S3_PROXY"

STARTED_REASON: Final = "Data-Path-Started"
PROGRESS_REASON: Final = "Data-Path-Progress"
COMPLETED_REASON: Final = "Data-Path-Completed"
FAILED_REASON: Final = "Data-Path-Failed"
CANCELED_REASON: Final = "Data-Path-Canceled"
CANCELING_REASON: Final = "Data-Path-Canceling"
STOPPED_REASON: Final = "Data-Path-Stopped"
REASONS: Final = frozenset(
    {
        STARTED_REASON,
        PROGRESS_REASON,
        COMPLETED_REASON,
        FAILED_REASON,
        CANCELED_REASON,
        CANCELING_REASON,
        STOPPED_REASON,
    }
)
"""Each is a sign of life."""


def limits_given(pod: Pod, first: RateLimits) -> RateLimits | None:
    """What a pod was told last that may have had another agent before; `first` when that was nothing.

    None when nobody can say, so that it has to be told again.
    """
    text = pod.metadata.annotations.get(LIMITS_ANNOTATION)
    if text is None:
        return first
    try:
        return msgspec.json.decode(text, type=RateLimits)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


MovedObject: TypeAlias = DataUpload | DataDownload | PodVolumeBackup | PodVolumeRestore
MOVED_RESOURCES: Final = {
    resource.view.__name__: cast(Resource[MovedObject], resource)  # read as one of the four, written by merge patch
    for resource in (DATA_UPLOADS, DATA_DOWNLOADS, POD_VOLUME_BACKUPS, POD_VOLUME_RESTORES)
}
"""The kinds of objects that have a mover pod, by name."""
