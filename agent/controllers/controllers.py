"""All four controllers of one agent, sharing slots, pods of the node, and the prepare queue.

`server` makes one `Controllers` and runs it; tests make several on one API server.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping

import msgspec

from agent.base.clock import Clock
from agent.controllers.claims import Claims
from agent.controllers.context import Context, NodeLiveness, Timing, nothing_to_check
from agent.controllers.data_download import DataDownloadKind
from agent.controllers.data_upload import DataMovers, DataUploadKind
from agent.controllers.job import Job, JobT
from agent.controllers.kind import JobKind
from agent.controllers.limits import jobs_at_once, share_rates
from agent.controllers.loop import Controller
from agent.controllers.moving import JobId, Movings, Work
from agent.controllers.node_pods import NodePodInformer
from agent.controllers.pod_volume_backup import PodVolumeBackupKind
from agent.controllers.pod_volume_restore import PodVolumeRestoreKind
from agent.controllers.prepare_queue import PrepareQueue
from agent.controllers.slots import Slots
from agent.controllers.sources import JobSource, Runners, Sources
from agent.controllers.status import Definitions, EventSink, StatusWriter
from agent.controllers.stock import StockMovers
from agent.controllers.sweep import Leftovers, keep_swept
from agent.exposers.contract import Exposer
from agent.kube.agent_config import AgentLimits
from agent.kube.api import KubeApi, Unreadable
from agent.kube.data_download import DataDownload
from agent.kube.data_upload import DataUpload
from agent.kube.meta import Key
from agent.kube.names import DATA_DOWNLOAD_LABEL, DATA_UPLOAD_LABEL, POD_UID_LABEL
from agent.kube.pod_volume_backup import PodVolumeBackup
from agent.kube.pod_volume_restore import PodVolumeRestore
from agent.kube.pods import Pod
from agent.movers.supervisor import JobCallbacks
from agent.observe.tracing import Tracing

_DRAIN_LOOK_SECONDS = 0.1

_AnyController = (
    Controller[DataUpload] | Controller[DataDownload] | Controller[PodVolumeBackup] | Controller[PodVolumeRestore]
)


class Exposers(msgspec.Struct, frozen=True, kw_only=True):
    """How each kind gets at its volumes."""

    data_upload: Exposer[DataUpload]
    data_download: Exposer[DataDownload]
    pod_volume_backup: Exposer[PodVolumeBackup]
    pod_volume_restore: Exposer[PodVolumeRestore]


class ControllerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How one agent works."""

    node: str
    namespace: str
    """Velero's."""
    concurrency: int = 1
    limits: AgentLimits = msgspec.field(default_factory=AgentLimits)
    prepare_queue_length: int = 0
    """Objects being exposed at once in the whole namespace; 0: any number."""
    pod_volumes: bool = True
    """Whether this agent sees the pod volumes of its node; without them it leaves those two kinds alone."""
    timing: Timing = msgspec.field(default_factory=Timing)
    movers: DataMovers = msgspec.field(default_factory=DataMovers)
    time_limit: Callable[[Job], float] = lambda _: 0.0
    check: Callable[[Job], Awaitable[None]] = nothing_to_check
    callbacks: Callable[[Job], JobCallbacks | None] = lambda _: None


class Listed(msgspec.Struct, frozen=True):
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
        leftovers: Leftovers | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._api = api
        self._clock = clock
        self._rng = rng
        self._options = options
        self._exposers = exposers
        self._definitions = definitions
        self._nodes = nodes
        self._writer = StatusWriter(api, definitions, events, clock, tracing or Tracing())
        self._leftovers = leftovers
        self._concurrency = options.concurrency
        self._limits = options.limits
        self._movings: Movings | None = None
        self._context: Context | None = None
        self.slots = Slots(jobs_at_once(options.concurrency, options.limits))
        self.pods = NodePodInformer(api, options.node, clock, rng)
        self._sources = Sources(options.node, api, self.pods, jobs, runners)
        self._loops: list[_AnyController] = []
        self._queue = PrepareQueue(options.prepare_queue_length, clock, self._exposing)

    def set_concurrency(self, concurrency: int) -> None:
        """Jobs at once on this node from now on."""
        self._concurrency = concurrency
        self.slots.set_limit(jobs_at_once(self._concurrency, self._limits))

    def set_limits(self, limits: AgentLimits) -> None:
        """What all jobs of this node may take together, from now on; running ones share it anew."""
        self._limits = limits
        self.slots.set_limit(jobs_at_once(self._concurrency, self._limits))
        self._share_rates()

    def set_prepare_queue_length(self, length: int) -> None:
        """Objects being exposed at once in the namespace from now on; 0: any number."""
        self._queue.set_length(length)

    def works(self) -> Iterator[Work]:
        """Jobs that move data now."""
        return iter(()) if self._movings is None else iter(self._movings)

    def listed(self) -> Iterator[Listed]:
        """Every object that agents like this one work on, of all nodes."""
        for loop in self._loops:
            for job, node in loop.objects():
                work = None if self._movings is None else self._movings.get((loop.kind.name, job.key))
                yield Listed(loop.kind.name, job, node, work)

    def count_jobs(self) -> Mapping[tuple[str, str], int]:
        """Objects by kind and by whether their job is `running`, `paused`, or `waiting` for a slot."""
        counts: Counter[tuple[str, str]] = Counter()
        for loop in self._loops:
            for job in loop.informer.store:
                job_id = (loop.kind.name, job.key)
                work = None if self._movings is None else self._movings.get(job_id)
                if work is not None and work.outcome is None:
                    counts[loop.kind.name, "paused" if work.is_paused else "running"] += 1
                elif self.slots.is_waiting(job_id):
                    counts[loop.kind.name, "waiting"] += 1
        return counts

    @property
    def is_synced(self) -> bool:
        """Whether every kind was listed at least once."""
        return bool(self._loops) and all(loop.informer.is_synced for loop in self._loops)

    async def run(self) -> None:
        """Work until canceled; running jobs are canceled then, and keep what helps the next try."""
        async with asyncio.TaskGroup() as group:
            self._movings = Movings(group, self._share_rates)
            context = self._context = Context(
                node=self._options.node,
                clock=self._clock,
                writer=self._writer,
                slots=self.slots,
                nodes=self._nodes,
                movings=self._movings,
                queue=self._queue,
                claims=Claims(self._clock),
                pods=self.pods,
                stock=StockMovers(self._api, self.pods, self._clock, self._rng),
                time_limit=self._options.time_limit,
                callbacks=self._options.callbacks,
                check=self._options.check,
                timing=self._options.timing,
            )
            group.create_task(self.pods.run())
            await self.pods.wait_synced()
            self._make_loops(context)
            for loop in self._loops:
                group.create_task(loop.run())
            if self._leftovers is not None:
                group.create_task(keep_swept(self._leftovers, self._clock, self._rng))

    @property
    def unreadable(self) -> dict[str, Unreadable]:
        """Objects of the four kinds that cannot be read, and so are not handled."""
        return {
            f"{loop.kind.name} {key}": unreadable
            for loop in self._loops
            for key, unreadable in loop.informer.unreadable.items()
        }

    async def drain(self, seconds: float) -> None:
        """Look at nothing any more, and let running jobs save what helps their successors, for at most so long.

        What was accepted but is not mounted here is given back, so that other agents go on with it.
        """
        if self._context is not None:
            self._context.draining = True
        for loop in self._loops:
            loop.queue.close()
        deadline = self._clock.monotonic() + seconds
        for work in self.works():
            work.leave("the agent ends")
        for loop in self._loops:
            await loop.give_back(deadline)
        while (
            any(work.ends_with_us and work.outcome is None for work in self.works())
            and self._clock.monotonic() < deadline
        ):
            await self._clock.sleep(_DRAIN_LOOK_SECONDS)

    def _share_rates(self) -> None:
        share_rates(self._limits, self.works())

    def _exposing(self) -> Iterator[tuple[JobId, str]]:
        for loop in self._loops:
            yield from loop.exposing()

    def _make_loops(self, context: Context) -> None:
        sources, movers = self._sources, self._options.movers
        uploads = self._loop(DataUploadKind(sources, self._exposers.data_upload, movers), context)
        downloads = self._loop(DataDownloadKind(sources, self._exposers.data_download, movers), context)
        self._wake_by_label(DATA_UPLOAD_LABEL, uploads)
        self._wake_by_label(DATA_DOWNLOAD_LABEL, downloads)
        self._loops = [uploads, downloads]
        if not self._options.pod_volumes:
            return
        exposers, known = self._exposers, self._definitions
        backups = self._loop(PodVolumeBackupKind(sources, exposers.pod_volume_backup, known), context)
        restores = self._loop(PodVolumeRestoreKind(sources, exposers.pod_volume_restore, known), context)
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
