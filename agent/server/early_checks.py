"""What can be known to be wrong with an object before its volume is made accessible.

Making its job is asking for everything that it takes: location, credentials, certificates, password, repository, and
names. So the job is made once for nothing, before snapshots are handed over and pods are started, and a missing Secret
is told within seconds. The server, asked for a repository this early, has it ready when the volume is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from agent.controllers.job import Job
from agent.controllers.sources import JobSource
from agent.kube.data_download import DataDownload
from agent.kube.data_upload import DataUpload
from agent.kube.pod_volume_backup import PodVolumeBackup
from agent.kube.volumes import VolumeMode

_NOWHERE = "/"


def early_check(jobs: JobSource) -> Callable[[Job], Awaitable[None]]:
    """Raises what `jobs` raises: leaves that are `retryable` may heal, all others are definite."""

    async def check(job: Job) -> None:
        mode = VolumeMode.FILESYSTEM
        if isinstance(job, DataUpload):
            await jobs.data_upload(job, path=_NOWHERE, mode=mode)
        elif isinstance(job, DataDownload):
            await jobs.data_download(job, path=_NOWHERE, mode=mode)
        elif isinstance(job, PodVolumeBackup):
            await jobs.pod_volume_backup(job, path=_NOWHERE, mode=mode)
        else:
            await jobs.pod_volume_restore(job, path=_NOWHERE, mode=mode)

    return check
