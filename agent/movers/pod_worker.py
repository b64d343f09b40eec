"""The inside of a mover pod: wait for the job, have it done, tell how it goes, leave the outcome behind (§13.15).

`PodWorker` looks at two objects, its own pod and the one that it works for, and moves nothing itself: a `WorkRunner`
does, in a process of its own (`pod_main`), so that a worker which crashes, hangs or needs too much memory still leaves
an outcome with a name.

The outcome is written first, then told by events: what the agent needs is never lost to an API server that is away.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import msgspec
import structlog

from agent.base.clock import Clock
from agent.base.errors import (
    AccessDenied,
    CanceledError,
    ConfigurationError,
    LighterageError,
    LocationInvalid,
    MoverCrashed,
    MoverOutOfMemory,
    MoverProtocolError,
    MoverUnavailable,
    TokenExpired,
)
from agent.kube.api import KubeApi
from agent.kube.informer import Informer
from agent.kube.job_names import log_fields
from agent.kube.meta import Key
from agent.kube.pods import Pod
from agent.kube.resource import PODS, Resource
from agent.kube.selector import Selector
from agent.kube.volumes import ObjectReference
from agent.kube.wait import wait_for_event
from agent.movers.failure import Redactor, describe, rebuild
from agent.movers.pod_counters import LastCounters
from agent.movers.pod_events import DataPathEvents
from agent.movers.pod_messages import MAX_EVENT_MESSAGE, write_error, write_progress, write_result
from agent.movers.pod_protocol import (
    CANCEL_ANNOTATION,
    CANCELED_REASON,
    CANCELING_REASON,
    COMPLETED_REASON,
    FAILED_REASON,
    JOB_ANNOTATION,
    LIMITS_ANNOTATION,
    PROGRESS_REASON,
    STARTED_REASON,
    STOPPED_REASON,
    MovedObject,
)
from agent.movers.protocol import Log
from agent.movers.runner import RunningWork, WorkRunner
from agent.movers.spec import (
    BackupResult,
    JobError,
    JobResult,
    JobSpec,
    Progress,
    RateLimits,
    S3Location,
    Secrets,
    UrlLocation,
)
from agent.movers.supervisor import JobCallbacks

_LOOK_SECONDS = 1.0
_MEMORY_HINT = "raise podResources.memoryLimit of mover pods, or lower the number of threads of a job"


class PodPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Which pod this is, and whose job it does."""

    pod: Key
    resource: Resource[MovedObject]
    name: str
    """Of the object, in the pod's namespace."""
    node: str = ""

    @property
    def key(self) -> Key:
        """Of the object."""
        return Key(self.pod.namespace, self.name)


class PodOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds."""

    wait: float = 1_800.0
    """For the job: as long as an agent takes to give up a pod that it prepared."""
    progress: float = 10.0
    """Between two events of progress, which come also when nothing moves."""
    renewal: float = 90.0
    """Until a Secret that was replaced is in the pod: the kubelet looks about once a minute."""
    stop_grace: float = 20.0
    """That a job may take to save what it has once the pod is told to end; the kubelet's patience is longer."""


class PodWorker:
    """One mover pod, for one job."""

    def __init__(
        self,
        api: KubeApi,
        runner: WorkRunner,
        clock: Clock,
        rng: random.Random,
        place: PodPlace,
        *,
        secrets: Callable[[UrlLocation | S3Location], Secrets],
        leave: Callable[[str], None],
        log: Callable[[Log], None],
        stopped: asyncio.Event,
        was_out_of_memory: Callable[[], bool],
        cache_dir: str = "",
        options: PodOptions | None = None,
    ) -> None:
        """`leave` writes the termination message; `stopped` is SIGTERM.

        `secrets` are read when there is a job, and again when the store refuses them;
        `was_out_of_memory` tells whether the kernel killed something in this container for want of memory;
        `cache_dir` counts instead of the job's, which is a folder of the agent.
        """
        self._api = api
        self._runner = runner
        self._clock = clock
        self._place = place
        self._secrets = secrets
        self._leave = leave
        self._log = log
        self._options = options or PodOptions()
        self._changed = asyncio.Event()
        self._stopped = stopped
        self._was_out_of_memory = was_out_of_memory
        self._cache_dir = cache_dir
        self._progress = Progress()
        self._counters = LastCounters()
        self._events: DataPathEvents | None = None
        self._redact = Redactor(Secrets(password=""))
        of_pod = Selector(fields={"metadata.name": place.pod.name})
        of_object = Selector(fields={"metadata.name": place.name})
        namespace = place.pod.namespace
        self._pods: Informer[Pod] = Informer(api, PODS, clock, rng, namespace=namespace, selector=of_pod)
        self._objects = Informer(api, place.resource, clock, rng, namespace=namespace, selector=of_object)
        self._pods.add_handler(self._wake)
        self._objects.add_handler(self._wake)

    async def run(self) -> JobResult:
        """Do the job, and leave behind what it came to; raises the error that it came to, an incomplete backup too."""
        async with self._informed():
            try:
                spec, result = await self._do()
            except asyncio.CancelledError:
                error = describe(CanceledError("the mover was ended at once"), self._redact)
                self._leave(write_error(error, counters=self._counters.metrics()))
                raise
            except Exception as error:  # noqa: BLE001  # the border of the process: whatever it is, it is told by name
                if not isinstance(error, LighterageError):
                    self._say("error", "".join(traceback.format_exception(error))[-2_000:])
                raise await self._failed(describe(error, self._redact)) from None
            self._leave(write_result(spec, result, counters=self._counters.metrics()))
            if isinstance(result, BackupResult) and result.incomplete:
                told = f"the job was canceled, the snapshot {result.snapshot} keeps what was saved"
                await self._tell(CANCELED_REASON, told)
                await self._tell(STOPPED_REASON, self._title("stopped"))
                raise CanceledError(told)
            await self._tell(COMPLETED_REASON, write_result(spec, result, MAX_EVENT_MESSAGE))
            await self._tell(STOPPED_REASON, self._title("stopped"))
            return result

    async def _failed(self, error: JobError) -> LighterageError:
        self._leave(write_error(error, counters=self._counters.metrics()))
        if error.code == CanceledError.code:
            await self._tell(CANCELED_REASON, f"{self._title('canceled')}: {error.message}")
        else:
            await self._tell(FAILED_REASON, f"{self._title('failed')}: {error.code}: {error.message}", warning=True)
        await self._tell(STOPPED_REASON, self._title("stopped"))
        return rebuild(error)

    async def _do(self) -> tuple[JobSpec, JobResult]:
        pod = await self._wait_for_job()
        spec = msgspec.structs.replace(_spec_of(pod), cache_dir=self._cache_dir)
        secrets = self._secrets(spec.location)
        self._redact = Redactor(secrets)
        await self._tell(STARTED_REASON, self._title("started"))
        work = asyncio.create_task(self._work_with_what_is_mounted(spec, secrets))
        patience = asyncio.create_task(self._patience())
        try:
            await asyncio.wait((work, patience), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise CanceledError("the pod was told to end, and the job did not save what it had in time")
            return spec, work.result()
        except MoverOutOfMemory as error:
            raise MoverOutOfMemory(error.message, hint=_MEMORY_HINT) from None
        except MoverCrashed as error:
            if self._was_out_of_memory():
                raise MoverOutOfMemory(
                    f"the mover pod needed more memory than it was allowed; {error.message}", hint=_MEMORY_HINT
                ) from None
            raise
        finally:
            for task in (work, patience):
                task.cancel()
            await asyncio.gather(work, patience, return_exceptions=True)

    async def _patience(self) -> None:
        await self._stopped.wait()
        await self._clock.sleep(self._options.stop_grace)

    async def _work_with_what_is_mounted(self, spec: JobSpec, secrets: Secrets) -> JobResult:
        """Go on with other secrets when the store refuses the ones that it was begun with, and they were replaced."""
        known = [secrets]
        while True:
            try:
                return await self._work(spec, known[-1])
            except (AccessDenied, TokenExpired) as error:
                if (other := await self._others(spec.location, known[-1])) is None:
                    raise
                self._say("warning", f"goes on with new credentials; those that were replaced: {error.message}")
                known.append(other)
                self._redact = Redactor(*known)

    async def _others(self, location: UrlLocation | S3Location, refused: Secrets) -> Secrets | None:
        """What is mounted instead of secrets that are refused; waited for where the store had taken them before."""
        patience = self._options.renewal if self._progress.bytes_done else 0.0
        deadline = self._clock.monotonic() + patience
        while True:
            with suppress(ConfigurationError, LocationInvalid):  # half replaced
                if (mounted := self._secrets(location)) != refused:
                    return mounted
            if self._clock.monotonic() >= deadline or self._why_to_end() is not None:
                return None
            await self._clock.sleep(_LOOK_SECONDS)

    async def _work(self, spec: JobSpec, secrets: Secrets) -> JobResult:
        callbacks = JobCallbacks(on_log=self._log, on_metric=self._counters.take)
        async with self._runner.job(spec, secrets, callbacks) as running:
            async with asyncio.TaskGroup() as group:
                others = [group.create_task(self._obey(running)), group.create_task(self._report())]
                async for progress in running.updates():
                    self._progress = progress
                for task in others:
                    task.cancel()
            return await running.result()

    async def _wait_for_job(self) -> Pod:
        """The pod with its job; raises `CanceledError`, and `MoverUnavailable` when none comes."""
        deadline = self._clock.monotonic() + self._options.wait
        while True:
            self._changed.clear()
            if (reason := self._why_to_end()) is not None:
                raise CanceledError(f"the mover was ended before it had a job: {reason}")
            pod, owner = self._pods.store.get(self._place.pod), self._objects.store.get(self._place.key)
            if pod is not None and owner is not None and JOB_ANNOTATION in pod.metadata.annotations:
                structlog.contextvars.bind_contextvars(**log_fields(owner))
                self._events = self._events_on(owner, pod)
                return pod
            left = deadline - self._clock.monotonic()
            if left <= 0:
                raise MoverUnavailable(
                    f"the pod {self._place.pod} was given no job within {self._options.wait:.0f} s",
                    hint="see whether the agent of this node runs",
                )
            await wait_for_event(self._clock, self._changed, left)

    async def _obey(self, running: RunningWork) -> None:
        """Cancel and change limits as pod and object say."""
        canceled, limits = False, ""
        while True:
            self._changed.clear()
            if not canceled and (reason := self._why_to_end()) is not None:
                canceled = True
                running.cancel(reason)
                await self._tell(CANCELING_REASON, f"{self._title('is canceled')}: {reason}")
            pod = self._pods.store.get(self._place.pod)
            wanted = pod.metadata.annotations.get(LIMITS_ANNOTATION, "") if pod is not None else ""
            if wanted != limits:
                limits = wanted
                self._set_limits(running, wanted)
            await self._changed.wait()

    def _set_limits(self, running: RunningWork, wanted: str) -> None:
        try:
            running.set_limits(msgspec.json.decode(wanted, type=RateLimits))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self._say("warning", f"the limits in the pod's annotation cannot be understood: {error}")

    def _why_to_end(self) -> str | None:
        """Why the job is to end, by what was last seen of the pod and the object; None when it is not."""
        if self._stopped.is_set():
            return "the pod was told to end"
        pod = self._pods.store.get(self._place.pod)
        if pod is not None and CANCEL_ANNOTATION in pod.metadata.annotations:
            return pod.metadata.annotations[CANCEL_ANNOTATION]
        if pod is not None and pod.metadata.deletion_timestamp is not None:
            return "the pod is being deleted"
        return self._why_not_wanted(pod)

    def _why_not_wanted(self, pod: Pod | None) -> str | None:
        key, kind = self._place.key, self._place.resource.view.__name__
        owner = self._objects.store.get(key)
        if owner is None:
            is_gone = self._objects.is_synced and key not in self._objects.unreadable
            return f"the {kind} {key} is gone" if is_gone else None
        if pod is not None and owner.metadata.uid not in {one.uid for one in pod.metadata.owner_references}:
            return f"the {kind} {key} is another one than the pod was made for"
        if owner.metadata.deletion_timestamp is not None:
            return f"the {kind} is being deleted"
        if owner.spec.cancel:
            return "spec.cancel was set"
        return f"the {kind} is {owner.status.phase}" if owner.status.phase.is_final else None

    async def _report(self) -> None:
        while True:
            await self._tell(PROGRESS_REASON, write_progress(self._progress))
            await self._clock.sleep(self._options.progress)

    def _events_on(self, owner: MovedObject, pod: Pod) -> DataPathEvents:
        about = ObjectReference(
            api_version=owner.api_version,
            kind=owner.kind,
            namespace=owner.metadata.namespace,
            name=owner.metadata.name,
            uid=owner.metadata.uid,
            resource_version=owner.metadata.resource_version,
        )
        return DataPathEvents(self._api, self._clock, about, node=self._place.node, pod_uid=pod.metadata.uid)

    async def _tell(self, reason: str, message: str, *, warning: bool = False) -> None:
        if self._events is None:
            return
        if (error := await self._events.tell(reason, message, warning=warning)) is not None:
            self._say("warning", f"the event {reason} could not be written: {error}")

    def _title(self, what: str) -> str:
        return f"Data path for {self._place.name} {what}"

    def _say(self, level: str, text: str) -> None:
        self._log(Log(level=level, text=self._redact.clip(text)))

    @asynccontextmanager
    async def _informed(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(each) for each in (self._pods.run(), self._objects.run(), self._until_stopped())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_stopped(self) -> None:
        await self._stopped.wait()
        self._changed.set()

    def _wake(self, _: Key) -> None:
        self._changed.set()


def _spec_of(pod: Pod) -> JobSpec:
    try:
        return msgspec.json.decode(pod.metadata.annotations[JOB_ANNOTATION], type=JobSpec)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MoverProtocolError(
            f"the job in the annotation of the pod {pod.key} cannot be understood: {error}",
            hint="agent and mover pod are of different versions",
        ) from None
