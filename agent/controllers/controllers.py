"""All four controllers of one agent, sharing slots, pods of the node, and the prepare queue.

`server` makes one `Controllers` and runs it; tests make several on one API server.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from agent.base.clock import Clock
from agent.controllers.data_download import DataDownloadKind
from agent.controllers.data_upload import DataMovers, DataUploadKind
from agent.controllers.job import Job, JobT, is_exposing
from agent.controllers.kind import JobKind
from agent.controllers.loop import Controller
from agent.controllers.machine import Context, NodeLiveness, Timing
from agent.controllers.moving import JobId, Movings, Work
from agent.controllers.node_pods import NodePodInformer
from agent.controllers.pod_volume_backup import PodVolumeBackupKind, canceled_phase
from agent.controllers.pod_volume_restore import PodVolumeRestoreKind
from agent.controllers.slots import Slots
from agent.controllers.sources import JobSource, Runners, Sources
from agent.controllers.status import Definitions, EventSink, StatusWriter
from agent.exposers.contract import Exposer
from agent.kube.api import KubeApi
from agent.kube.data_download import DataDownload
from agent.kube.data_upload import DataUpload
from agent.kube.meta import Key
from agent.kube.names import DATA_DOWNLOAD_LABEL, DATA_UPLOAD_LABEL, POD_UID_LABEL
from agent.kube.pod_volume_backup import PodVolumeBackup
from agent.kube.pod_volume_restore import PodVolumeRestore
from agent.kube.pods import Pod
from agent.movers.supervisor import JobCallbacks

_DRAIN_LOOK_SECONDS = 0.1

_AnyController = (
    Controller[DataUpload] | Controller[DataDownload] | Controller[PodVolumeBackup] | Controller[PodVolumeRestore]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposers:
    """How each kind gets at its volumes."""

    data_upload: Exposer[DataUpload]
    data_download: Exposer[DataDownload]
    pod_volume_backup: Exposer[PodVolumeBackup]
    pod_volume_restore: Exposer[PodVolumeRestore]


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerOptions:
    """How one agent works."""

    node: str
    namespace: str
    """Velero's."""
    concurrency: int = 1
    prepare_queue_length: int = 0
    """Objects being exposed at once in the whole namespace; 0: any number."""
    pod_volumes: bool = True
    """Whether this agent sees the pod volumes of its node; without them it leaves those two kinds alone."""
    timing: Timing = field(default_factory=Timing)
    movers: DataMovers = field(default_factory=DataMovers)
    time_limit: Callable[[Job], float] = lambda _: 0.0
    callbacks: Callable[[Job], JobCallbacks | None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Listed:
    """An object, and who moves its data."""

    kind: str
    job: Job
    node: str
    """Whose agent looks after it; empty while it is anybody's."""
    work: Work | None
    """Of this agent, while it moves the data."""


class Controllers:
    """The four controllers. Use `run` once."""

    def __init__(
        self,
        api: KubeApi,
        clock: Clock,
        rng: random.Random,
        options: ControllerOptions,
        *,
        exposers: Exposers,
        runners: Runners,
        jobs: JobSource,
        definitions: Definitions,
        events: EventSink,
        nodes: NodeLiveness,
    ) -> None:
        self._api = api
        self._clock = clock
        self._rng = rng
        self._options = options
        self._exposers = exposers
        self._definitions = definitions
        self._nodes = nodes
        self._writer = StatusWriter(api, definitions, events, clock)
        self._prepare_queue_length = options.prepare_queue_length
        self._movings: Movings | None = None
        self.slots = Slots(options.concurrency)
        self.pods = NodePodInformer(api, options.node, clock, rng)
        self._sources = Sources(options.node, api, self.pods, jobs, runners)
        self._loops: list[_AnyController] = []
        self._claims: set[JobId] = set()

    def set_concurrency(self, concurrency: int) -> None:
        """Jobs at once on this node from now on."""
        self.slots.set_limit(concurrency)

    def set_prepare_queue_length(self, length: int) -> None:
        """Objects being exposed at once in the namespace from now on; 0: any number."""
        self._prepare_queue_length = length

    def works(self) -> Iterator[Work]:
        """Jobs that move data now."""
        return iter(()) if self._movings is None else iter(self._movings)

    def listed(self) -> Iterator[Listed]:
        """Every object that agents like this one work on, of all nodes."""
        for loop in self._loops:
            for job, node in loop.objects():
                work = None if self._movings is None else self._movings.get((loop.kind.name, job.key))
                yield Listed(loop.kind.name, job, node, work)

    @property
    def is_synced(self) -> bool:
        """Whether every kind was listed at least once."""
        return bool(self._loops) and all(loop.informer.is_synced for loop in self._loops)

    async def run(self) -> None:
        """Work until canceled; running jobs are canceled then, and keep what helps the next try."""
        async with asyncio.TaskGroup() as group:
            self._movings = Movings(group)
            context = Context(
                node=self._options.node,
                clock=self._clock,
                writer=self._writer,
                slots=self.slots,
                nodes=self._nodes,
                movings=self._movings,
                queue_has_room=self._queue_has_room,
                time_limit=self._options.time_limit,
                callbacks=self._options.callbacks,
                timing=self._options.timing,
            )
            group.create_task(self.pods.run())
            await self.pods.wait_synced()
            self._make_loops(context)
            for loop in self._loops:
                group.create_task(loop.run())

    async def drain(self, seconds: float) -> None:
        """Look at nothing any more, and let running jobs save what helps their successors, for at most so long."""
        for loop in self._loops:
            loop.queue.close()
        deadline = self._clock.monotonic() + seconds
        for work in self.works():
            work.cancel("the agent ends")
        while any(work.outcome is None for work in self.works()) and self._clock.monotonic() < deadline:
            await self._clock.sleep(_DRAIN_LOOK_SECONDS)

    def _make_loops(self, context: Context) -> None:
        sources, movers = self._sources, self._options.movers
        uploads = self._loop(DataUploadKind(sources, self._exposers.data_upload, movers), context)
        downloads = self._loop(DataDownloadKind(sources, self._exposers.data_download, movers), context)
        self._wake_by_label(DATA_UPLOAD_LABEL, uploads)
        self._wake_by_label(DATA_DOWNLOAD_LABEL, downloads)
        self._loops = [uploads, downloads]
        if not self._options.pod_volumes:
            return
        canceled = canceled_phase(self._definitions)
        backups = self._loop(PodVolumeBackupKind(sources, self._exposers.pod_volume_backup, canceled), context)
        restores = self._loop(PodVolumeRestoreKind(sources, self._exposers.pod_volume_restore, canceled), context)
        self._loops += [backups, restores]

        def wake(pod: Pod) -> None:
            for job in restores.informer.store:
                if job.metadata.labels.get(POD_UID_LABEL) == pod.metadata.uid or job.spec.pod.uid == pod.metadata.uid:
                    restores.queue.add(job.key)

        self.pods.add_handler(wake)

    def _loop(self, kind: JobKind[JobT], context: Context) -> Controller[JobT]:
        return Controller(kind, context, self._api, self._options.namespace, self._rng)

    def _wake_by_label(self, label: str, loop: _AnyController) -> None:
        def wake(pod: Pod) -> None:
            name = pod.metadata.labels.get(label)
            for owner in pod.metadata.owner_references if name else ():
                loop.queue.add(Key(self._options.namespace, owner.name))

        self.pods.add_handler(wake)

    def _queue_has_room(self, claim: JobId) -> bool:
        """Whether one more may be exposed; if so, `claim` counts although no store shows it yet."""
        if not self._prepare_queue_length:
            return True
        objects = {(loop.kind.name, job.key): job for loop in self._loops for job in loop.informer.store}
        self._claims = {one for one in self._claims if one in objects and objects[one].status.phase.is_new}
        exposing = {one for one, job in objects.items() if is_exposing(job)}
        if len(exposing | self._claims | {claim}) > self._prepare_queue_length:
            return False
        self._claims.add(claim)
        return True
