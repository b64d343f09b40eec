"""The jobs whose data is moved by this agent right now: one task each, and what it came to.

The state machine starts and cancels them and reads outcomes; it never waits for one. A key is in here from the start of
its work until the machine forgets it, so that there are never two workers for one object.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agent.base.errors import CanceledError, LighterageError
from agent.kube.meta import Key
from agent.movers.runner import RunningWork, WorkRunner
from agent.movers.spec import JobResult, JobSpec, Progress, RateLimits, Secrets
from agent.movers.supervisor import JobCallbacks


@dataclass(frozen=True, slots=True)
class Moved:
    """The data is where it should be."""

    result: JobResult


@dataclass(frozen=True, slots=True)
class Failed:
    """It is not, and the error says why."""

    error: LighterageError


Outcome = Moved | Failed

JobId = tuple[str, Key]
"""Kind and key: objects of different kinds may have the same name."""


class Work:
    """One job."""

    def __init__(self, uid: str) -> None:
        self.uid = uid
        """Of the object: one of the same name that was made anew is another."""
        self.progress: Progress | None = None
        self.outcome: Outcome | None = None
        self._running: RunningWork | None = None
        self._task: asyncio.Task[None] | None = None
        self._canceled: str | None = None
        self._limits: RateLimits | None = None

    def cancel(self, reason: str) -> None:
        """End soon. Also before it has begun, and more than once."""
        if self._canceled is None:
            self._canceled = reason
            if self._running is not None:
                self._running.cancel(reason)

    def set_limits(self, limits: RateLimits) -> None:
        """From now on. Also before it has begun."""
        self._limits = limits
        if self._running is not None:
            self._running.set_limits(limits)

    async def _run(self, runner: WorkRunner, spec: JobSpec, secrets: Secrets, callbacks: JobCallbacks | None) -> None:
        try:
            async with runner.job(spec, secrets, callbacks) as running:
                self._running = running
                if self._canceled is not None:
                    running.cancel(self._canceled)
                if self._limits is not None:
                    running.set_limits(self._limits)
                async for progress in running.updates():
                    self.progress = progress
                self.outcome = Moved(await running.result())
        except LighterageError as error:
            self.outcome = Failed(error)
        finally:
            self._running = None


class Movings:
    """All of them. Tasks belong to the group that is passed in and end with it."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._works: dict[JobId, Work] = {}

    def get(self, key: JobId) -> Work | None:
        """The work for an object, running or at its end."""
        return self._works.get(key)

    def __iter__(self) -> Iterator[Work]:
        return iter(list(self._works.values()))

    def start(
        self,
        key: JobId,
        uid: str,
        runner: WorkRunner,
        spec: JobSpec,
        secrets: Secrets,
        callbacks: JobCallbacks | None,
        ended: Callable[[], None],
    ) -> Work:
        """Begin. `ended` is called when there is an outcome. `ValueError` when there is a work for the key already."""
        if key in self._works:
            raise ValueError(f"{key} is being worked on")
        work = self._works[key] = Work(uid)

        async def run() -> None:
            try:
                await work._run(runner, spec, secrets, callbacks)
            except asyncio.CancelledError:
                work.outcome = Failed(CanceledError("the agent ends"))
                raise
            finally:
                ended()

        work._task = self._group.create_task(run(), name=f"move {key}")
        return work

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
