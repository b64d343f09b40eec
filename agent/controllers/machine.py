"""The state machine of the four kinds (contract §2): one look at one object, and the next step for it.

    ""/New -> Accepted -> Prepared -> InProgress -> Completed | Failed | Canceled, the last by way of Canceling

Level-triggered: `look` reads the object and the world and does what is next, so it may run twice, in two agents, or
again after a crash anywhere. Only an object's own agent works on it; when that one's node is dead, any other ends it.
Everything that waits has a reason that ends up in the object's message, and a bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol

from agent.base.clock import Clock
from agent.base.errors import CanceledError, ExposeTimeout, KubeConflict, KubeError, KubeNotFound, LighterageError
from agent.controllers.finish import Finisher
from agent.controllers.job import (
    Job,
    JobT,
    accepted_at,
    is_canceled,
    is_deleted,
    with_exposing,
    with_metadata,
    with_status,
)
from agent.controllers.kind import JobKind, NotOurs, NotYet, Refused
from agent.controllers.moving import JobId, Movings
from agent.controllers.slots import Slots
from agent.controllers.status import StatusWriter
from agent.exposers.contract import Broken, Waiting
from agent.kube.job import NodeOS, Phase
from agent.kube.meta import Key
from agent.movers.runner import WorkRunner
from agent.movers.spec import JobSpec, Secrets
from agent.movers.supervisor import JobCallbacks


class NodeLiveness(Protocol):
    """Which agents are alive (contract §2.5)."""

    def is_dead(self, node: str) -> bool:
        """Whether nobody has looked after the objects of this node for so long that others have to end them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds."""

    prepare: float = 1800.0
    """From Accepted to InProgress (`--data-mover-prepare-timeout`)."""
    others: float = 120.0
    """How much later another agent ends what its own agent should have ended."""
    force_prepared: float = 300.0
    force_running: float = 3600.0
    """After `cancel` was first seen: any agent ends the object, before and after it is InProgress."""
    restart: float = 600.0
    """For what a restarted agent needs to go on with an object that was InProgress."""
    look_again: float = 5.0
    """At objects that wait for something that no event tells of."""
    resync: float = 60.0


@dataclass(slots=True)
class Context:
    """What all machines of an agent share."""

    node: str
    clock: Clock
    writer: StatusWriter
    slots: Slots
    nodes: NodeLiveness
    movings: Movings
    queue_has_room: Callable[[JobId], bool]
    """Whether this object too may be exposed in the namespace (`prepareQueueLength`)."""
    time_limit: Callable[[Job], float] = lambda _: 0.0
    """Seconds that this object may be InProgress; 0: any time."""
    callbacks: Callable[[Job], JobCallbacks | None] = lambda _: None
    timing: Timing = field(default_factory=Timing)


_PROGRESS_SECONDS = 10.0
_STORE_LAG_SECONDS = 0.5
"""Until the store shows what was written already, by us or by another."""

_Work = tuple[WorkRunner, JobSpec, Secrets]

Again = float | None
"""Seconds after which to look again without an event; None: an event comes."""


class Machine(Generic[JobT]):
    """The steps of one kind."""

    def __init__(self, kind: JobKind[JobT], context: Context, wake: Callable[[Key], None]) -> None:
        self._kind = kind
        self._context = context
        self._wake = wake
        self._finisher = Finisher(kind, context)
        self._cancel_seen: dict[Key, float] = {}
        self._waiting: dict[Key, str] = {}
        self._restarting: dict[Key, float] = {}

    async def look(self, key: Key, job: JobT | None) -> Again:
        """Do the next step for an object, None when it is gone. Raises `KubeError`: look again after a while."""
        if job is None or not self._kind.handles(job):
            return self._forget(key, "the object is gone")
        work = self._context.movings.get(self._id(job))
        if work is not None and work.uid != job.metadata.uid:
            return self._forget(key, "the object was made anew")
        if job.status.phase.is_final:
            step = self._after_the_end
        elif self._finisher.has_ended(job):
            return _STORE_LAG_SECONDS
        else:
            step = self._finisher.go_on if self._finisher.is_decided(job) else self._step
        try:
            return await step(job)
        except (KubeConflict, KubeNotFound):
            return _STORE_LAG_SECONDS

    async def _step(self, job: JobT) -> Again:
        phase = job.status.phase
        if self._kind.finalizer not in job.metadata.finalizers and not is_deleted(job):
            finalizers = (*job.metadata.finalizers, self._kind.finalizer)
            await self._write(job, with_metadata(job, finalizers=finalizers))
            return None
        if is_canceled(job) or phase is Phase.CANCELING:
            step = self._cancel
        elif phase.is_new:
            step = self._new
        elif not self._is_mine(job):
            step = self._rescue
        else:
            step = {Phase.ACCEPTED: self._accepted, Phase.PREPARED: self._prepared}.get(phase, self._in_progress)
        return await step(job)

    # ---- one phase each ----

    async def _new(self, job: JobT) -> Again:
        context = self._context
        claim = await self._kind.claim(job)
        if isinstance(claim, NotOurs):
            return None
        if isinstance(claim, Refused):
            return await self._finisher.fail(job, claim.error)
        if isinstance(claim, NotYet):
            return self._wait(job, claim.reason)
        if not context.writer.has_phase(self._kind.resource, Phase.ACCEPTED):
            return await self._prepared(job)
        if not context.queue_has_room(self._id(job)):
            return self._wait(job, "as many objects are being exposed as prepareQueueLength allows")
        accepted = with_status(
            job,
            phase=Phase.ACCEPTED,
            accepted_by_node=context.node,
            accepted_timestamp=context.writer.now(),
            **({"node": context.node} if self._kind.has_node_from_the_start else {}),
        )
        await self._write(job, with_exposing(accepted, True))
        return None

    async def _accepted(self, job: JobT) -> Again:
        if self._is_overdue(job, 0.0):
            return await self._time_out(job)
        state = await self._kind.exposer.advance(job)
        if isinstance(state, Broken):
            return await self._finisher.fail(job, state.error)
        if isinstance(state, Waiting):
            return self._wait(job, state.reason)
        if state.node != self._context.node:
            return self._wait(job, f"the agent of node {state.node} has to take over")
        self._waiting.pop(job.key, None)
        await self._write(job, with_status(job, phase=Phase.PREPARED, node=self._context.node))
        return None

    async def _prepared(self, job: JobT) -> Again:
        work = await self._ready_work(job, late=self._is_overdue(job, 0.0))
        if isinstance(work, Waiting):
            return self._wait(job, work.reason)
        if isinstance(work, LighterageError):
            return await self._finisher.fail(job, work)
        context = self._context
        if not context.slots.acquire(self._id(job), self._kind.namespace(job), lambda: self._wake(job.key)):
            return self._wait(job, "as many jobs run on this node as loadConcurrency allows")
        try:
            started = with_status(
                job,
                phase=Phase.IN_PROGRESS,
                node=context.node,
                node_os=NodeOS.LINUX,
                start_timestamp=context.writer.now(),
            )
            started = await self._write(job, with_exposing(started, False))
        except KubeError:
            context.slots.release(self._id(job))
            raise
        self._waiting.pop(job.key, None)
        return self._start(started, work)

    async def _ready_work(self, job: JobT, *, late: bool) -> _Work | Waiting | LighterageError:
        """What is to be done; what it waits for; or why it cannot be done, which a wait becomes when it is too late."""
        state = await self._kind.exposer.advance(job)
        if isinstance(state, Broken):
            return state.error
        if isinstance(state, Waiting):
            return ExposeTimeout(f"the volume was not accessible in time: {state.reason}") if late else state
        try:
            return await self._kind.work(job, state)
        except KubeError:
            raise
        except LighterageError as error:
            return Waiting(str(error)) if error.retryable and not late else error

    async def _in_progress(self, job: JobT) -> Again:
        context = self._context
        work = context.movings.get(self._id(job))
        if work is not None and work.outcome is not None:
            return await self._finisher.conclude(job, work.outcome)
        if (moved := self._finisher.moved(job)) is not None:  # by an agent that did not come to the end
            return await self._finisher.conclude(job, moved)
        limit = context.time_limit(job)
        if work is not None:
            if limit and self._age(job) > limit:
                work.cancel(f"it took longer than {limit:.0f} s")
            if work.progress is not None:
                await self._finisher.show_progress(job, work.progress)
            return _PROGRESS_SECONDS
        return await self._start_again(job)

    async def _start_again(self, job: JobT) -> Again:
        """The agent was restarted while this ran: the engine goes on from what is in the repository already."""
        since = self._restarting.setdefault(job.key, self._context.clock.monotonic())
        late = self._context.clock.monotonic() - since > self._context.timing.restart
        work = await self._ready_work(job, late=late)
        if isinstance(work, Waiting):
            return self._wait(job, work.reason)
        if isinstance(work, LighterageError):
            return await self._finisher.fail(job, work)
        self._context.slots.take(self._id(job), self._kind.namespace(job))
        return self._start(job, work)

    def _start(self, job: JobT, work: _Work) -> Again:
        context, key = self._context, job.key
        self._restarting.pop(key, None)
        context.movings.start(self._id(job), job.metadata.uid, *work, context.callbacks(job), lambda: self._wake(key))
        return _PROGRESS_SECONDS

    async def _cancel(self, job: JobT) -> Again:
        """Bring it to its end, at once where nothing runs, through Canceling where something does."""
        context, key = self._context, job.key
        seen = self._cancel_seen.setdefault(key, context.clock.monotonic())
        reason = _reason(job)
        work = context.movings.get(self._id(job))
        if work is not None:
            work.cancel(reason)
            if work.outcome is not None:
                return await self._finisher.conclude(job, work.outcome, canceled=reason)
            if job.status.phase is Phase.IN_PROGRESS and context.writer.has_phase(self._kind.resource, Phase.CANCELING):
                await self._write(job, with_status(job, phase=Phase.CANCELING, message=reason))
            return 1.0
        waited = context.clock.monotonic() - seen
        running = job.status.phase in {Phase.IN_PROGRESS, Phase.CANCELING}
        forced = waited > (context.timing.force_running if running else context.timing.force_prepared)
        if job.status.phase.is_new or self._is_mine(job) or forced or self._is_abandoned(job):
            return await self._finisher.cancel(job, CanceledError(reason))
        return context.timing.resync

    # ---- other agents' objects ----

    async def _rescue(self, job: JobT) -> Again:
        """End what the agent of a dead node left, and what its own agent lets wait beyond all bounds."""
        node = self._kind.node(job)
        if self._is_abandoned(job):
            return await self._finisher.fail(
                job,
                ExposeTimeout(
                    f"the node {node} or its agent is gone while the {self._kind.name} was {job.status.phase}",
                    hint="the next backup or restore runs on another node",
                ),
            )
        if job.status.phase in {Phase.ACCEPTED, Phase.PREPARED} and self._is_overdue(job, self._context.timing.others):
            return await self._time_out(job)
        return self._context.timing.resync

    async def _time_out(self, job: JobT) -> Again:
        timing = self._context.timing
        facts = await self._kind.exposer.diagnose(job)
        reason = self._waiting.get(job.key) or (facts[0] if facts else "nothing is known about the reason")
        return await self._finisher.fail(
            job,
            ExposeTimeout(
                f"the volume was not accessible within {timing.prepare:.0f} s: {reason}",
                hint="the agent's log has the state of all objects involved",
            ),
            facts,
        )

    async def _after_the_end(self, job: JobT) -> Again:
        context, key = self._context, job.key
        self._cancel_seen.pop(key, None)
        self._waiting.pop(key, None)
        if not context.movings.end(self._id(job), "the object is final already"):
            return 1.0
        context.slots.release(self._id(job))
        if self._kind.finalizer not in job.metadata.finalizers:
            return None
        node = self._kind.node(job)
        if node and node != context.node and not context.nodes.is_dead(node):
            return context.timing.resync
        return await self._finisher.release(job)

    # ---- small questions ----

    def _is_mine(self, job: JobT) -> bool:
        node = self._kind.node(job)
        if node == self._context.node:
            return True
        return job.status.phase is Phase.ACCEPTED and self._kind.is_here(job)

    def _is_abandoned(self, job: JobT) -> bool:
        node = self._kind.node(job)
        return bool(node) and node != self._context.node and self._context.nodes.is_dead(node)

    def _is_overdue(self, job: JobT, later: float) -> bool:
        accepted = accepted_at(job)
        if accepted is None or job.status.phase.is_new:
            return False
        return (self._context.writer.now() - accepted).total_seconds() > self._context.timing.prepare + later

    def _age(self, job: JobT) -> float:
        started = job.status.start_timestamp
        return 0.0 if started is None else (self._context.writer.now() - started).total_seconds()

    def _id(self, job: JobT) -> JobId:
        return self._kind.name, job.key

    def _wait(self, job: JobT, reason: str) -> Again:
        self._waiting[job.key] = reason
        return self._context.timing.look_again

    def _forget(self, key: Key, reason: str) -> Again:
        self._cancel_seen.pop(key, None)
        self._waiting.pop(key, None)
        self._restarting.pop(key, None)
        self._finisher.forget(key)
        if not self._context.movings.end((self._kind.name, key), reason):
            return 1.0
        self._context.slots.release((self._kind.name, key))
        return None

    async def _write(self, before: JobT, after: JobT) -> JobT:
        return await self._context.writer.write(self._kind.resource, before, after)


def _reason(job: Job) -> str:
    if is_deleted(job):
        return "canceled: the object is being deleted"
    return f"canceled: spec.cancel was set{f' ({job.status.message})' if job.status.message else ''}"
