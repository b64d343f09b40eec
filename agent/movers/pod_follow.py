"""A mover pod as it is followed by the agent: its events are the progress, its termination message the outcome.

Two informers, of the one pod and of the events on its object, say what there is; `PodWork` looks at it whenever
something changed and every few seconds, as often as it likes. How a pod is reached (`PodControl`) differs between pods
of ours and the stock mover's, what is read of them does not.

Silence counts only while the API server answers: an agent that sees nothing says nothing about a pod.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import msgspec

from agent.base.clock import Clock
from agent.base.errors import (
    CanceledError,
    KubeError,
    KubeForbidden,
    LighterageError,
    MoverCrashed,
    MoverOutOfMemory,
    MoverSilent,
    MoverUnavailable,
)
from agent.kube.api import KubeApi
from agent.kube.backoff import Backoff
from agent.kube.cluster import Event
from agent.kube.informer import DEFAULT_BACKOFF, Informer
from agent.kube.meta import Key, OwnerReference
from agent.kube.pods import Pod, PodPhase, Terminated
from agent.kube.resource import EVENTS, PODS
from agent.kube.selector import Selector
from agent.kube.wait import wait_for_event, within
from agent.movers.pod_messages import clipped, is_outcome, read_outcome, read_progress, told_counters
from agent.movers.pod_protocol import PROGRESS_REASON, REASONS, limits_given
from agent.movers.protocol import Metric
from agent.movers.spec import BackupResult, JobResult, JobSpec, Progress, RateLimits
from agent.movers.supervisor import JobCallbacks
from agent.storage.meter import OK

_OOM_KILLED = "OOMKilled"
_FALL_BACK = "FallbackToLogsOnError"
_MEMORY_HINT = "raise the memory limit of mover pods, or lower the number of threads of a job"
_TEXT = 500
"""Characters of what the kubelet says."""


class FollowOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds."""

    look: float = 5.0
    """The pod is looked at this often even if nothing is heard."""
    silence: float = 180.0
    """Without an event for so long a pod is given up; longer than the pod takes to give up its own worker."""
    cancel_grace: float = 120.0
    """That a canceled pod may take to end; longer than it gives its own worker."""
    hand_over: float = 300.0
    """For giving the pod its job, which an API server that is away delays."""
    refused: float = 60.0
    """The same where the API server refuses it, as one that has just started does until it knows the roles."""
    let_go: float = 10.0
    """For telling a pod to end that nobody waits for any more."""
    backoff: Backoff = DEFAULT_BACKOFF


class PodControl(Protocol):
    """How one kind of mover pod is told something. All methods may raise `KubeError`, and are called again then."""

    async def begin(self, spec: JobSpec) -> Pod:
        """Have the job done, or going on; the pod that does it."""
        ...

    async def cancel(self, reason: str) -> None:
        """Have it end."""
        ...

    async def set_limits(self, limits: RateLimits) -> None:
        """From now on."""
        ...


class PodWork:
    """A job that a pod does. Its runner owns the task that runs `follow`."""

    def __init__(
        self,
        api: KubeApi,
        clock: Clock,
        rng: random.Random,
        control: PodControl,
        spec: JobSpec,
        callbacks: JobCallbacks,
        options: FollowOptions,
    ) -> None:
        self.spec = spec
        self.progress = Progress()
        """The last that was heard."""
        self._api = api
        self._clock = clock
        self._rng = rng
        self._control = control
        self._callbacks = callbacks
        self._options = options
        self._changed = asyncio.Event()
        self._heard = clock.monotonic()
        self._reports = 0
        self._pod: Pod | None = None
        """As it was last seen, also when it is gone."""
        self._gone = False
        self._counted = False
        """Whether the counters of its worker were in its outcome, and were told."""
        self._canceled: tuple[float, str] | None = None
        self._cancel_told = False
        self._limits = spec.limits
        self._limits_told: RateLimits | None = spec.limits
        loop = asyncio.get_running_loop()
        self._outcome: asyncio.Future[JobResult] = loop.create_future()
        self._news: asyncio.Future[None] = loop.create_future()

    @property
    def done(self) -> bool:
        """Whether there is a result or an error."""
        return self._outcome.done()

    async def result(self) -> JobResult:
        """What came of it.

        Raises what the pod reported, `MoverCrashed`, `MoverSilent`, `MoverOutOfMemory`, `MoverProtocolError`,
        `MoverUnavailable` when it could not be given the job, and `CanceledError`. A canceled backup that could save
        something is a result, `incomplete`.
        """
        return await asyncio.shield(self._outcome)

    async def updates(self) -> AsyncIterator[Progress]:
        """Progress as it comes, until the end; a slow reader misses what has been overtaken."""
        seen = 0
        while not self.done:
            if self._reports > seen:
                seen = self._reports
                yield self.progress
            else:
                waiting: list[asyncio.Future[Any]] = [self._news, self._outcome]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    def cancel(self, reason: str = "") -> None:
        """End it soon, saving what helps the next run; it is given up when that takes longer than the grace."""
        if self._canceled is None and not self.done:
            self._canceled = (self._clock.monotonic(), reason)
            self._changed.set()

    def set_limits(self, limits: RateLimits) -> None:
        """From now on."""
        self._limits = limits
        self._changed.set()

    async def follow(self) -> None:
        """Until there is an outcome; it is told through `result` only."""
        try:
            pod = await self._begin()
            async with self._informers(pod):
                result = await self._watch(pod)
                if not self._counted:
                    self._tell_moved(result)
                self._outcome.set_result(result)
        except LighterageError as error:
            self._outcome.set_exception(error)
        except Exception as error:  # noqa: BLE001  # a callback's: it is the job's end, and its owner's to judge
            self._outcome.set_exception(error)
        finally:
            if not self._outcome.done():
                self._outcome.set_exception(CanceledError("nobody follows the job any more"))
            self._outcome.exception()  # may have nobody waiting

    def _tell_moved(self, result: JobResult) -> None:
        """What went to the store, or came from it: of a pod that tells no counters, its outcome has only that."""
        if isinstance(result, BackupResult):
            operation, moved = "put", result.uploaded_bytes
        else:
            operation, moved = "get", result.downloaded_bytes
        labels = {"operation": operation, "outcome": OK}
        self._callbacks.on_metric(Metric(name="storage_bytes", labels=labels, value=moved))

    async def let_go(self) -> None:
        """Tell the pod to end, if it has not ended and was not told yet. The last chance to do so is not retried."""
        if self._pod is None or self._gone or self._cancel_told or _has_ended(self._pod):
            return
        reason = self._canceled[1] if self._canceled else ""
        try:
            await within(self._clock, self._options.let_go, self._control.cancel(reason or "nobody waits for the job"))
        except KubeError:
            return  # whoever removes the pod ends it too

    async def _begin(self) -> Pod:
        begun, failures = self._clock.monotonic(), 0
        while True:
            try:
                pod = await self._control.begin(self.spec)
            except KubeError as error:
                failures += 1
                if self._clock.monotonic() - begun >= self._patience(error):
                    raise MoverUnavailable(f"the mover pod could not be given its job: {error}") from error
                await self._clock.sleep(self._options.backoff.delay(failures, self._rng))
            else:
                self._pod = pod
                self._limits_told = limits_given(pod, self.spec.limits)
                self._heard = self._clock.monotonic()
                return pod

    def _patience(self, error: KubeError) -> float:
        if error.retryable:
            return self._options.hand_over
        return self._options.refused if isinstance(error, KubeForbidden) else 0.0

    @asynccontextmanager
    async def _informers(self, pod: Pod) -> AsyncIterator[None]:
        namespace = pod.metadata.namespace
        of_pod = Selector(fields={"metadata.name": pod.metadata.name})
        of_owner = Selector(fields={"involvedObject.uid": owner_of(pod).uid})
        api, clock, rng = self._api, self._clock, self._rng
        self._pods = Informer(api, PODS, clock, rng, namespace=namespace, selector=of_pod)
        self._events = Informer(api, EVENTS, clock, rng, namespace=namespace, selector=of_owner)
        self._pods.add_handler(self._pod_changed)
        self._events.add_handler(self._event_changed)
        tasks = [asyncio.create_task(self._pods.run()), asyncio.create_task(self._events.run())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _pod_changed(self, key: Key) -> None:
        """Told of every version, so that the last one of a pod that is gone at once is not missed."""
        seen = self._pods.store.get(key)
        if seen is None or self._pod is None or seen.metadata.uid != self._pod.metadata.uid:
            self._gone = key not in self._pods.unreadable
        else:
            self._pod = seen
        self._changed.set()

    def _event_changed(self, key: Key) -> None:
        event: Event | None = self._events.store.get(key)
        if event is None or event.reason not in REASONS:
            return
        self._heard = self._clock.monotonic()
        if event.reason == PROGRESS_REASON and (progress := read_progress(event.message)) is not None:
            self._take(progress)
        self._changed.set()

    def _take(self, progress: Progress) -> None:
        if progress == self.progress or progress.bytes_done < self.progress.bytes_done:
            return
        self.progress = progress
        self._reports += 1
        news, self._news = self._news, asyncio.get_running_loop().create_future()
        news.set_result(None)

    async def _watch(self, pod: Pod) -> JobResult:
        told = 0
        while True:
            self._changed.clear()
            if self._reports > told:
                told = self._reports
                self._callbacks.on_progress(self.progress)
            if (result := self._look(pod)) is not None:
                return result
            await self._steer()
            await self._pause()

    async def _pause(self) -> None:
        before, look = self._clock.monotonic(), self._options.look
        await wait_for_event(self._clock, self._changed, look)
        if (late := self._clock.monotonic() - before - look) > look:
            self._heard += late  # it is this agent that was stopped or starved: what the pod said was not read yet

    def _look(self, pod: Pod) -> JobResult | None:
        """The result if there is one, None while there is none; raises how it ended otherwise."""
        pod, now, options = self._pod or pod, self._clock.monotonic(), self._options
        if _has_ended(pod):
            return self._judge(pod)
        if self._gone or (self._pods.is_synced and not len(self._pods.store) and not self._pods.unreadable):
            self._gone = True
            if self._canceled is not None:
                raise CanceledError(f"the job was canceled{_reason(self._canceled)}, and its pod is gone")
            raise MoverCrashed(f"the mover pod {pod.key} is gone, {self._so_far()}", hint="somebody deleted it")
        if self._canceled is not None and now - self._canceled[0] > options.cancel_grace:
            raise CanceledError(
                f"the job was canceled{_reason(self._canceled)}; the mover pod {pod.key} did not end in time, "
                f"{self._so_far()}"
            )
        if not self._sees():
            self._heard = now
        elif now - self._heard > options.silence:
            raise MoverSilent(
                f"the mover pod {pod.key} was silent for {now - self._heard:.0f} s, {self._so_far()}",
                hint="the volume or the node hangs, or the pod cannot reach the API server",
            )
        return None

    def _sees(self) -> bool:
        return all(one.is_synced and one.last_error is None for one in (self._pods, self._events))

    async def _steer(self) -> None:
        """Tell the pod what it has not been told yet."""
        try:
            if self._canceled is not None and not self._cancel_told:
                await self._control.cancel(self._canceled[1])
                self._cancel_told = True
            if (limits := self._limits) != self._limits_told:
                await self._control.set_limits(limits)
                self._limits_told = limits
        except KubeError:
            return  # at the next look

    def _judge(self, pod: Pod) -> JobResult:
        """What a pod came to that has ended."""
        ended = _termination(pod)
        message = ended.message.strip() if ended is not None else ""
        if is_outcome(message):
            for metric in told_counters(message):
                self._callbacks.on_metric(metric)
                self._counted = True
            return read_outcome(message, self.spec.work)
        if ended is not None and ended.reason == _OOM_KILLED:
            raise MoverOutOfMemory(
                f"the mover pod {pod.key} needed more memory than it was allowed ({_OOM_KILLED}), {self._so_far()}",
                hint=_MEMORY_HINT,
            )
        if message and not _falls_back_to_log(pod):
            return read_outcome(message, self.spec.work)
        last = f"; its log ends: {clipped(message.splitlines()[-1])}" if message else ""
        raise MoverCrashed(f"the mover pod {pod.key} {_ending(pod, ended)}, {self._so_far()}{last}")

    def _so_far(self) -> str:
        done = self.progress
        total = "" if done.bytes_total is None else f" of {done.bytes_total}"
        return f"after {done.bytes_done}{total} bytes"


@asynccontextmanager
async def following(work: PodWork) -> AsyncIterator[PodWork]:
    """The block of a job: `work` is followed in it, and its pod told to end at its end.

    When the block's own task is canceled, which is how an agent ends, the pod goes on: the next agent follows it.
    """
    task = asyncio.create_task(work.follow())
    interrupted = False
    try:
        yield work
    except asyncio.CancelledError:
        interrupted = True
        raise
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not interrupted:
            await work.let_go()


def owner_of(pod: Pod) -> OwnerReference:
    """The object that a mover pod works for (contract §13.3); raises `MoverUnavailable`."""
    for owner in pod.metadata.owner_references:
        if owner.controller:
            return owner
    raise MoverUnavailable(f"the pod {pod.key} belongs to no object, so it is not known whose job it does")


def _has_ended(pod: Pod) -> bool:
    return pod.status.phase in {PodPhase.SUCCEEDED, PodPhase.FAILED} or _termination(pod) is not None


def _termination(pod: Pod) -> Terminated | None:
    """Of the container that moves the data: the first one."""
    first = pod.spec.containers[0].name if pod.spec.containers else ""
    for status in pod.status.container_statuses:
        if status.name == first or not first:
            return status.state.terminated
    return None


def _falls_back_to_log(pod: Pod) -> bool:
    """Whether a termination message may be the end of the log, which the mover did not mean as one."""
    return bool(pod.spec.containers) and pod.spec.containers[0].termination_message_policy == _FALL_BACK


def _ending(pod: Pod, ended: Terminated | None) -> str:
    said = ": ".join(filter(None, (pod.status.reason, pod.status.message)))
    if ended is None:
        return f"ended without a result ({(said or 'the kubelet does not say why')[:_TEXT]})"
    why = "; ".join(filter(None, (ended.reason, said)))[:_TEXT]
    how = f"was killed by signal {ended.signal}" if ended.signal else f"ended with status {ended.exit_code}"
    return f"{how} and without a result{f' ({why})' if why else ''}"


def _reason(canceled: tuple[float, str]) -> str:
    return f": {canceled[1]}" if canceled[1] else ""
