"""After a restored pod has started: the folder with its done file goes (contract §13.5).

Velero's restore helper may run as a user who cannot remove what the agent made, so `.velero` would stay in the
volume for good, and be in every later backup. The agent removes it through the host path as soon as the init container
has ended well. The informer of this node's pods says when; it tells every pod after a restart too, so nothing is kept.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import structlog

from agent.base.clock import Clock
from agent.base.errors import ExposeUnsupported, LighterageError, SourceGone
from agent.exposers.contract import Waiting
from agent.exposers.done_file import remove_done_folder
from agent.exposers.host_path import NodeVolumes
from agent.exposers.pod_volume_source import volume_folder
from agent.kube.api import KubeApi
from agent.kube.backoff import Backoff
from agent.kube.meta import Key
from agent.kube.pods import Container, Pod, PodPhase
from agent.kube.workqueue import WorkQueue

WAIT_CONTAINERS: Final = frozenset({"restore-wait", "restic-wait"})
"""Init containers that wait for restored volumes."""

_RESTORES_FOLDER = "/restores/"
_BACKOFF = Backoff(first=0.5, cap=5.0)
_MOST_TRIES = 6
_MOST_REMEMBERED = 4_096
_log = structlog.stdlib.get_logger(__name__)


class DoneFolders:
    """Removes `.velero` from the volumes of this node's pods that do not wait any more. Owned by the agent's server."""

    def __init__(self, api: KubeApi, volumes: NodeVolumes, clock: Clock, rng: random.Random) -> None:
        self._api = api
        self._volumes = volumes
        self._queue = WorkQueue(clock, rng, _BACKOFF)
        self._pods: dict[Key, Pod] = {}
        self._tries: dict[Key, int] = {}
        self._done: OrderedDict[str, None] = OrderedDict()

    def pod_changed(self, pod: Pod) -> None:
        """Told of each pod of this node that appeared, changed or went. Does not block."""
        if pod.metadata.uid in self._done:
            return
        if has_waited(pod) and _has_volumes(pod):
            self._pods[pod.key] = pod
            self._queue.add(pod.key)

    async def run(self) -> None:
        """Work until canceled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.run())
            while (key := await self._queue.get()) is not None:
                try:
                    await self._look(key)
                finally:
                    self._queue.done(key)

    async def _look(self, key: Key) -> None:
        pod = self._pods.get(key)
        if pod is None:
            return
        try:
            await self._clean(pod)
        except (SourceGone, ExposeUnsupported):
            self._forget(pod)
        except LighterageError as error:
            tries = self._tries[key] = self._tries.get(key, 0) + 1
            if tries < _MOST_TRIES:
                self._queue.retry(key)
                return
            _log.warning("a done file stays in a volume", pod=str(key), error=str(error), code=error.code)
            self._forget(pod)
        except Exception:  # noqa: BLE001  # a mistake of ours about one pod must not stop all others
            _log.exception("cannot clean the volumes of a restored pod", pod=str(key))
            self._forget(pod)
        else:
            self._forget(pod)

    async def _clean(self, pod: Pod) -> None:
        restore, names = _waited_for(pod)
        for name in names if restore else ():
            folder = await volume_folder(self._api, pod, name)
            if isinstance(folder, Waiting):
                continue
            path = await self._volumes.find(folder.pod_uid, folder.name, folder.mode)
            if await asyncio.to_thread(remove_done_folder, path, restore):
                _log.info("removed the done file of a restore", pod=str(pod.key), volume=name)

    def _forget(self, pod: Pod) -> None:
        self._pods.pop(pod.key, None)
        self._tries.pop(pod.key, None)
        self._queue.forget(pod.key)
        self._done[pod.metadata.uid] = None
        if len(self._done) > _MOST_REMEMBERED:
            self._done.popitem(last=False)


def has_waited(pod: Pod) -> bool:
    """Whether the pod has waited for its volumes, to a good end."""
    for status in pod.status.init_container_statuses:
        if status.name in WAIT_CONTAINERS:
            ended = status.state.terminated
            return ended is not None and ended.exit_code == 0
    return False


def _has_volumes(pod: Pod) -> bool:
    """Whether the pod still has its volumes mounted."""
    return pod.metadata.deletion_timestamp is None and pod.status.phase not in {PodPhase.SUCCEEDED, PodPhase.FAILED}


def _waited_for(pod: Pod) -> tuple[str, Sequence[str]]:
    """The uid of the restore and the names of the volumes, from the init container's own arguments and mounts."""
    container = _wait_container(pod)
    if container is None or not container.args:
        return "", ()
    mounts = [
        str(mount.get("name", ""))
        for mount in container.volume_mounts
        if str(mount.get("mountPath", "")).startswith(_RESTORES_FOLDER)
    ]
    return container.args[0], mounts


def _wait_container(pod: Pod) -> Container | None:
    for container in pod.spec.init_containers:
        if container.name in WAIT_CONTAINERS:
            return container
    return None
