"""A `WorkRunner` in memory, for tests in virtual time: jobs last and end as a script says.

It keeps watch over what no agent may ever do: two workers at once for one object (`doubled`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from agent.base.clock import Clock
from agent.base.errors import CanceledError, LighterageError
from agent.exposers.contract import Ready
from agent.movers.spec import Backup, BackupResult, JobResult, JobSpec, Progress, RateLimits, RestoreResult, Secrets
from agent.movers.supervisor import JobCallbacks

_STEP_SECONDS = 1.0


class Script(msgspec.Struct, frozen=True):
    """How a job goes."""

    seconds: float = 5.0
    bytes: int = 1 << 20
    error: LighterageError | None = None
    """Instead of a result."""
    cancel_seconds: float = 0.5
    """From a cancel to the end."""
    deaf: bool = False
    """Whether it goes on although it was canceled."""


class MoverWorld(msgspec.Struct):
    """What all fake movers of a test share, whichever agent they belong to."""

    script: Callable[[JobSpec], Script] = lambda _: Script()
    active: dict[str, int] = msgspec.field(default_factory=dict)
    """Workers by job id."""
    started: list[str] = msgspec.field(default_factory=list)
    doubled: list[str] = msgspec.field(default_factory=list)
    """Jobs that had two workers at once."""
    most_at_once: int = 0


class FakeMovers:
    """The workers of one agent."""

    def __init__(self, world: MoverWorld, clock: Clock) -> None:
        self._world = world
        self._clock = clock

    @asynccontextmanager
    async def job(
        self, spec: JobSpec, secrets: Secrets, callbacks: JobCallbacks | None = None
    ) -> AsyncIterator[FakeWork]:
        """Start a worker."""
        world = self._world
        world.started.append(spec.id)
        world.active[spec.id] = world.active.get(spec.id, 0) + 1
        if world.active[spec.id] > 1:
            world.doubled.append(spec.id)
        world.most_at_once = max(world.most_at_once, sum(world.active.values()))
        try:
            yield FakeWork(spec, world.script(spec), self._clock)
        finally:
            world.active[spec.id] -= 1


class FakeRunners(msgspec.Struct, frozen=True):
    """Implements `Runners`: the same workers wherever a volume is."""

    movers: FakeMovers

    def of(self, ready: Ready) -> FakeMovers:
        """Those of this agent."""
        return self.movers


class FakeWork:
    """One job."""

    def __init__(self, spec: JobSpec, script: Script, clock: Clock) -> None:
        self._spec = spec
        self._script = script
        self._clock = clock
        self._canceled: str | None = None
        self.limits: RateLimits | None = None
        self._done = 0.0

    async def updates(self) -> AsyncIterator[Progress]:
        """One a second."""
        script = self._script
        while self._done < script.seconds and (self._canceled is None or script.deaf):
            await self._clock.sleep(min(_STEP_SECONDS, script.seconds - self._done))
            if not (self.limits and self.limits.paused) or self._canceled is not None:
                self._done += _STEP_SECONDS
            share = min(self._done / script.seconds, 1.0)
            yield Progress(bytes_done=int(script.bytes * share), bytes_total=script.bytes)

    def cancel(self, reason: str = "") -> None:
        """End soon."""
        if self._canceled is None:
            self._canceled = reason

    def set_limits(self, limits: RateLimits) -> None:
        """Remember them."""
        self.limits = limits

    async def result(self) -> JobResult:
        """As the script says."""
        script, work = self._script, self._spec.work
        if self._canceled is not None and self._done < script.seconds:
            await self._clock.sleep(script.cancel_seconds)
            if not isinstance(work, Backup):
                raise CanceledError(f"the job was canceled: {self._canceled}")
            return _backup(self._spec, script, incomplete="canceled")
        if script.error is not None:
            raise script.error
        if isinstance(work, Backup):
            return _backup(self._spec, script)
        return RestoreResult(bytes=script.bytes, files=1, directories=1, downloaded_bytes=script.bytes, denied=0)


def _backup(spec: JobSpec, script: Script, incomplete: str = "") -> BackupResult:
    return BackupResult(
        snapshot=f"snapshot-of-{spec.id}",
        incomplete=incomplete,
        total_bytes=script.bytes,
        incremental_bytes=script.bytes // 2,
        uploaded_bytes=script.bytes,
        files=1,
        errors=0,
    )
