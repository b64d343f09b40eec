"""The jobs whose data is moved by this agent right now: one task each, and what it came to.

The state machine starts and cancels them and reads outcomes; it never waits for one. A key is in here from the start of
its work until the machine forgets it, so that there are never two workers for one object.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import msgspec
import structlog

from agent.base.errors import CanceledError, LighterageError, MoverError
from agent.kube.meta import Key
from agent.movers.runner import RunningWork, WorkRunner
from agent.movers.spec import Backup, JobResult, JobSpec, Progress, RateLimits, Secrets
from agent.movers.supervisor import JobCallbacks

_log = structlog.stdlib.get_logger(__name__)


class Moved(msgspec.Struct, frozen=True):
    """The data is where it should be."""

    result: JobResult


class Failed(msgspec.Struct, frozen=True):
    """It is not, and the error says why."""

    error: LighterageError


Outcome = Moved | Failed

JobId = tuple[str, Key]
"""Kind and key: objects of different kinds may have the same name."""


class Order(msgspec.Struct, frozen=True):
    """What is to be done, by whom."""

    runner: WorkRunner
    spec: JobSpec
    secrets: Secrets
    callbacks: JobCallbacks | None = None
    in_pod: bool = False
    """Whether it is done in a pod, which goes on when the agent ends, and is found again by the next one."""


class Work:
    """One job."""

    def __init__(self, uid: str, order: Order) -> None:
        self.uid = uid
        """Of the object: one of the same name that was made anew is another."""
        self.spec = order.spec
        self.progress: Progress | None = None
        self.outcome: Outcome | None = None
        self._order = order
        self._running: RunningWork | None = None
        self._task: asyncio.Task[None] | None = None
        self._canceled: str | None = None
        self._killed = ""
        self._limits: RateLimits | None = None
        self._paused = False

    @property
    def is_paused(self) -> bool:
        """Whether it is told to stand still, and did not end."""
        return self._paused and self.outcome is None

    @property
    def is_backup(self) -> bool:
        """Whether it sends to the store rather than fetches from there."""
        return isinstance(self.spec.work, Backup)

    @property
    def ends_with_us(self) -> bool:
        """Whether nothing of it is left running when this agent ends."""
        return not self._order.in_pod

    @property
    def secrets(self) -> Secrets:
        """With which it was begun."""
        return self._order.secrets

    @property
    def limits(self) -> RateLimits:
        """What it may ask of the store at the moment."""
        return self._limits or self.spec.limits

    def leave(self, reason: str) -> None:
        """The agent ends: save what helps the next one, unless that finds the work still going on."""
        if self.ends_with_us:
            self.cancel(reason)

    def cancel(self, reason: str) -> None:
        """End soon. Also before it has begun, and more than once."""
        if self._canceled is None:
            self._canceled = reason
            if self._running is not None:
                self._running.cancel(reason)

    def kill(self, reason: str) -> None:
        """End now, whatever that leaves half done: for work that a cancel does not end."""
        if self._task is not None and self.outcome is None and not self._killed:
            self._killed = reason
            self._task.cancel()

    def set_limits(self, limits: RateLimits) -> None:
        """From now on, or from the start if that is still to come."""
        self._steer(msgspec.structs.replace(limits, paused=self._paused))

    def set_paused(self, paused: bool) -> None:
        """Stand still, or go on. What it may take while it goes on stays as it is."""
        self._paused = paused
        self._steer(msgspec.structs.replace(self.limits, paused=paused))

    def _steer(self, limits: RateLimits) -> None:
        if limits == self._limits:
            return
        self._limits = limits
        if self._running is not None:
            self._running.set_limits(limits)

    async def _run(self) -> None:
        try:
            self.outcome = Moved(await self._do())
        except LighterageError as error:
            self.outcome = Failed(error)
        except asyncio.CancelledError:
            self.outcome = Failed(CanceledError(self._killed or "the agent ends"))
            if not self._killed:
                raise
        except Exception as error:  # noqa: BLE001  # a mistake of ours in one job must not end all others
            _log.exception("a job failed in an unforeseen way", object=self.spec.id)
            self.outcome = Failed(MoverError(f"the job {self.spec.id} failed in an unforeseen way: {error!r}"))
        finally:
            self._running = None

    async def _do(self) -> JobResult:
        order = self._order
        async with order.runner.job(order.spec, order.secrets, order.callbacks) as running:
            self._running = running
            if self._limits is not None:
                running.set_limits(self._limits)
            if self._canceled is not None:
                running.cancel(self._canceled)
            async for progress in running.updates():
                self.progress = progress
            return await running.result()


class Movings:
    """All of them. Tasks belong to the group that is passed in and end with it."""

    def __init__(self, group: asyncio.TaskGroup, changed: Callable[[], None] = lambda: None) -> None:
        self._group = group
        self._changed = changed
        self._works: dict[JobId, Work] = {}

    def get(self, key: JobId) -> Work | None:
        """The work for an object, running or at its end."""
        return self._works.get(key)

    def __iter__(self) -> Iterator[Work]:
        return iter(list(self._works.values()))

    def start(self, key: JobId, uid: str, order: Order, ended: Callable[[], None]) -> Work:
        """Begin. `ended` is called when there is an outcome. `ValueError` when there is a work for the key already."""
        if key in self._works:
            raise ValueError(f"{key} is being worked on")
        work = self._works[key] = Work(uid, order)

        async def run() -> None:
            try:
                await work._run()
            finally:
                self._changed()
                ended()

        work._task = self._group.create_task(run(), name=f"move {key}")
        self._changed()
        return work

    def set_paused(self, key: JobId, paused: bool) -> bool:
        """Have a work stand still or go on, the others share what it leaves; whether that is a change."""
        work = self._works.get(key)
        if work is None or work.outcome is not None or work.is_paused == paused:
            return False
        work.set_paused(paused)
        self._changed()
        return True

    def end(self, key: JobId, reason: str) -> bool:
        """Cancel and forget what ended; False while it still runs."""
        work = self._works.get(key)
        if work is None:
            return True
        if work.outcome is None:
            work.cancel(reason)
            return False
        del self._works[key]
        return True
