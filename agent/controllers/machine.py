"""The state machine of the four kinds (contract §2): one look at one object, and the next step for it.

    ""/New -> Accepted -> Prepared -> InProgress -> Completed | Failed | Canceled, the last by way of Canceling

Level-triggered: `look` reads the object and the world and does what is next, so it may run twice, in two agents, or
again after a crash anywhere. Only an object's own agent works on it; when that one's node is dead, any other ends it.
Everything that waits has a reason that ends up in the object, and a bound.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic

import structlog
from msgspec.structs import replace

from agent.base.errors import (
    AccessDenied,
    CanceledError,
    ExposeTimeout,
    KubeConflict,
    KubeError,
    LighterageError,
    NodeLost,
    TokenExpired,
    VolumeError,
)
from agent.controllers.attempts import Attempts
from agent.controllers.context import Again, Context, NodeLiveness, Timing
from agent.controllers.finish import Finisher
from agent.controllers.job import (
    WAITING_ANNOTATION,
    JobT,
    is_canceled,
    is_paused,
    with_exposing,
    with_finalizer,
    with_metadata,
    with_status,
)
from agent.controllers.kind import JobKind, NotYet, Ours, Refused
from agent.controllers.memory import Memory, PodVersions, Remembered, share
from agent.controllers.moving import Failed, JobId, Order, Work
from agent.controllers.reasons import cancel_reason, cause, taken_away
from agent.controllers.rescue import Rescuer
from agent.controllers.sources import pod_versions
from agent.controllers.stock import volume_in
from agent.exposers.contract import Ready, Waiting
from agent.kube.job import NodeOS, Phase
from agent.kube.meta import Key

__all__ = ["Context", "Machine", "NodeLiveness", "Timing"]

_STORE_LAG_SECONDS = 0.5
"""Until the store shows what was written already, by us or by another."""
_POD_TELLS_SECONDS = 300.0
"""How long a volume that a pod holds, which is watched, is taken to be as it was; nothing can take it from the pod."""
_MISSING_SECONDS = 1.0
"""What is missing mostly comes a moment later: the server makes claims after what they wait for."""
_MISSING_SHARE = 0.25
"""Later it is asked for ever more seldom, this part of what was waited already, and each minute at least."""
_NO_SLOT = "as many jobs run on this node as loadConcurrency allows"
_MAX_REASON = 1_024
_log = structlog.stdlib.get_logger(__name__)
_Step = Callable[[JobT, Remembered[JobT]], Awaitable[Again]]


async def _store_is_behind(_job: object, _memory: object) -> Again:
    """It is final already, or runs; only the store does not show it."""
    return _STORE_LAG_SECONDS


class Machine(Generic[JobT]):
    """The steps of one kind."""

    def __init__(self, kind: JobKind[JobT], context: Context, wake: Callable[[Key], None]) -> None:
        self._kind = kind
        self._context = context
        self._wake = wake
        self._finisher = Finisher(kind, context)
        self._rescuer = Rescuer(kind, context, self._finisher)
        self._attempts = Attempts(kind, context)
        self._memory: Memory[JobT] = Memory(context.clock)

    async def look(self, key: Key, job: JobT | None) -> Again:
        """Do the next step for an object, None when it is gone. Raises `KubeError`: look again after a while."""
        if self._context.draining:
            return None
        if job is None or not self._kind.handles(job):
            return self._forget(key, "the object is gone", None)
        work = self._context.movings.get(self._id(job))
        if (work is not None and work.uid != job.metadata.uid) or self._memory.knows_another(job):
            return self._forget(key, "the object was made anew", 0.0)
        if self._context.writer.is_overwritten(job):
            return _STORE_LAG_SECONDS
        memory = self._memory.of(job)
        if not job.status.phase.is_new:
            self._context.queue.settle(self._id(job))
        if mine := self._is_mine(job):
            memory.look_up_at = 0.0
        step = self._step(job, memory, mine)
        if step not in {self._new, self._prepared}:
            self._context.slots.withdraw(self._id(job))  # it starts no more: others need not wait for it
        return await step(job, memory)

    def _step(self, job: JobT, memory: Remembered[JobT], mine: bool) -> _Step[JobT]:
        """What is next."""
        phase = job.status.phase
        rules: tuple[tuple[bool, _Step[JobT]], ...] = (
            (phase.is_final, self._after_the_end),
            (memory.ended, _store_is_behind),
            (self._finisher.is_decided(job, memory), self._finisher.go_on),
            (is_canceled(job) or phase is Phase.CANCELING, self._cancel),
            (phase.is_new and self._context.movings.get(self._id(job)) is not None, _store_is_behind),
            (phase.is_new, self._new),
            (not mine, self._others),
            (self._kind.finalizer not in job.metadata.finalizers, self._keep),
            (phase is Phase.ACCEPTED, self._accepted),
            (phase is Phase.PREPARED and self._is_prepared_by_stock(job), self._accept),
            (phase is Phase.PREPARED, self._prepared),
        )
        return next((step for applies, step in rules if applies), self._in_progress)

    async def _others(self, job: JobT, memory: Remembered[JobT]) -> Again:
        self._context.slots.release(self._id(job))
        return await self._rescuer.look(job, memory)

    async def _keep(self, job: JobT, _: Remembered[JobT]) -> Again:
        """See that it is not gone before it is cleaned up."""
        await self._write(job, with_finalizer(job, self._kind.finalizer))
        return None

    # ---- one phase each ----

    async def _new(self, job: JobT, memory: Remembered[JobT]) -> Again:
        context, kind = self._context, self._kind
        turn = context.claim_turn(memory.uid, memory.phase_since) if kind.is_anybodys else 0.0
        early = max(turn, memory.not_before) - context.clock.monotonic()
        if early > 0:
            return early
        if not (kind.is_anybodys or kind.is_here(job)):
            return await self._rescuer.unclaimed(job, memory)
        if (refusal := kind.refusal(job)) is not None:
            return await self._finisher.end_at_once(job, memory, refusal.error)
        return await self._claim(job, memory)

    async def _claim(self, job: JobT, memory: Remembered[JobT]) -> Again:
        context, kind = self._context, self._kind
        counts = context.writer.has_phase(kind.resource, Phase.ACCEPTED)
        if counts and not context.queue.admit(self._id(job), kind.namespace(job)):
            return await self._stand_in_line(job, memory)
        claim = await kind.claim(job)
        if isinstance(claim, Ours):
            return await (self._accept(job, memory) if counts else self._skip_acceptance(job, memory))
        context.queue.settle(self._id(job))
        if isinstance(claim, Refused):
            return await self._finisher.end_at_once(job, memory, claim.error)
        return await self._not_yet(job, memory, claim)

    async def _stand_in_line(self, job: JobT, memory: Remembered[JobT]) -> Again:
        """It may wait for long: if it is deleted meanwhile, its snapshot is to be removed before it is gone."""
        if self._kind.is_anybodys and self._kind.finalizer not in job.metadata.finalizers:
            await self._keep(job, memory)
        return self._context.timing.look_again

    async def _accept(self, job: JobT, _: Remembered[JobT]) -> Again:
        context, kind = self._context, self._kind
        accepted = with_status(
            job,
            phase=Phase.ACCEPTED,
            accepted_by_node=context.node,
            accepted_timestamp=context.writer.now(),
            node=context.node if kind.has_node_from_the_start else "",
        )
        with context.claims.trying():
            await self._write(job, with_finalizer(with_exposing(accepted, True), kind.finalizer))
        return None

    async def _skip_acceptance(self, job: JobT, memory: Remembered[JobT]) -> Again:
        """For servers that do not know the phases between (contract §2.3)."""
        kept = self._kind.finalizer in job.metadata.finalizers
        return await (self._prepared(job, memory) if kept else self._keep(job, memory))

    async def _not_yet(self, job: JobT, memory: Remembered[JobT], claim: NotYet) -> Again:
        clock, timing = self._context.clock, self._context.timing
        if claim.error is None:
            return timing.look_again
        waited = memory.since(memory.phase_since, clock)
        if waited >= timing.prepare:
            return await self._finisher.end_at_once(job, memory, claim.error)
        often = min(max(waited * _MISSING_SHARE, _MISSING_SECONDS), timing.resync)
        wait = min(self._context.until_look_up(memory.uid, often), timing.prepare - waited)
        memory.not_before = clock.monotonic() + wait
        return wait

    async def _accepted(self, job: JobT, memory: Remembered[JobT]) -> Again:
        context = self._context
        if memory.took_too_long(context.timing.prepare, context.timing.others, context.clock):
            return await self._time_out(job, memory)
        pods = pod_versions(context.pods, self._kind.pod_label, job)
        state = await self._attempts.checked(job, memory) or await self._attempts.advanced(job, memory)
        if isinstance(state, Ready) and state.node != context.node:
            state = self._elsewhere(state.node)
        if isinstance(state, LighterageError):
            return await self._finisher.end_at_once(job, memory, state)  # another agent may look at what is left of it
        if isinstance(state, Waiting):
            again = await self._wait(job, memory, state.reason)
            elsewhere = state.node not in {"", context.node} and not context.nodes.is_dead(state.node)
            return max(again, context.timing.resync) if elsewhere else again
        memory.ready, memory.pods, memory.look_from = state, pods, context.clock.monotonic() + context.timing.look_again
        await self._write(job, with_status(job, phase=Phase.PREPARED, node=context.node))
        return None

    async def _hand_over(self, job: JobT, memory: Remembered[JobT], node: str) -> Again:
        """Its volume had to be made accessible anew, and came to be on another node: the agent there goes on."""
        state = self._elsewhere(node)
        if isinstance(state, LighterageError) or not self._kind.is_anybodys:
            lost = NodeLost(f"the volume is not on the node {self._context.node} any more, but on {node}")
            return await self._finisher.fail(job, memory, state if isinstance(state, LighterageError) else lost)
        await self._write(job, with_status(job, node=node))
        return None

    def _elsewhere(self, node: str) -> Waiting | LighterageError:
        """The volume came to be on another node."""
        if self._context.nodes.is_dead(node):
            gone = f"the volume is mounted on the node {node}, where no agent is alive"
            return NodeLost(gone, hint="see why, or keep such volumes away from it with loadAffinity")
        return Waiting(f"the agent of node {node} has to take over", node)

    async def _prepared(self, job: JobT, memory: Remembered[JobT]) -> Again:
        context, job_id = self._context, self._id(job)
        if context.movings.get(job_id) is not None:
            return _STORE_LAG_SECONDS  # it runs already
        pods = pod_versions(context.pods, self._kind.pod_label, job)
        if self._keeps_waiting(job_id, memory, pods):
            await self._wait(job, memory, _NO_SLOT)
            return context.timing.resync
        try:
            seen = memory.seen_ready(pods, context.clock)
            ready = seen or await self._attempts.volume(job, memory, context.timing.prepare)
        except BaseException:
            context.slots.withdraw(job_id)
            raise
        if not isinstance(ready, Ready):
            context.slots.withdraw(job_id)
            return await self._not_ready(job, memory, ready)
        if ready.node != context.node:
            context.slots.withdraw(job_id)
            return await self._hand_over(job, memory, ready.node)
        wake, priority = (lambda: self._wake(job.key)), self._kind.priority
        if not context.slots.acquire(job_id, self._kind.namespace(job), wake, priority=priority):
            memory.pods = pods
            memory.look_from = context.clock.monotonic() + (_POD_TELLS_SECONDS if pods else context.timing.resync)
            await self._wait(job, memory, _NO_SLOT)
            return context.timing.resync
        return await self._begin(job, memory, ready)

    def _keeps_waiting(self, job_id: JobId, memory: Remembered[JobT], pods: PodVersions) -> bool:
        """Whether its volume was there when it began to wait for a slot, and nothing says that it is not any more.

        It is looked at once more when there is a slot for it.
        """
        slots = self._context.slots
        if not slots.is_waiting(job_id) or slots.is_next(job_id) or memory.pods != pods:
            return False
        return self._context.clock.monotonic() < memory.look_from

    async def _begin(self, job: JobT, memory: Remembered[JobT], ready: Ready) -> Again:
        """It has a slot: which it keeps unless it is certain that it did not start."""
        context, job_id = self._context, self._id(job)
        try:
            order = await self._attempts.order(job, memory, ready, context.timing.prepare)
        except BaseException:
            context.slots.release(job_id)
            raise
        if not isinstance(order, Order):
            context.slots.release(job_id)
            return await self._not_ready(job, memory, order)
        started = with_status(
            job, phase=Phase.IN_PROGRESS, node=context.node, node_os=NodeOS.LINUX, start_timestamp=context.writer.now()
        )
        started = with_metadata(with_exposing(started, False), annotations={WAITING_ANNOTATION: None})
        try:
            started = await self._write(job, with_finalizer(started, self._kind.finalizer))
        except KubeConflict:
            context.slots.release(job_id)
            raise
        return self._start(started, order)

    async def _in_progress(self, job: JobT, memory: Remembered[JobT]) -> Again:
        context = self._context
        work = context.movings.get(self._id(job))
        outcome = self._finisher.moved(job) if work is None else work.outcome
        if outcome is not None:
            if isinstance(outcome, Failed) and work is not None and work.ends_with_us:
                if (again := await self._with_other_secrets(job, memory, work, outcome)) is not None:
                    return again
                outcome = await self._taken_away(job, outcome)
            return await self._finisher.conclude(job, memory, outcome)
        if work is None:
            return await self._start_again(job, memory)
        self._pause(job)
        limit, age = context.time_limit(job), memory.since(memory.started, context.clock)
        if limit and age > limit:
            memory.overrun = f"it took longer than the {limit:.0f} s that are allowed"
            work.cancel(memory.overrun)
            if age > limit + context.timing.kill:
                work.kill(memory.overrun)
        return await self._finisher.show_progress(job, memory, work.progress)

    async def _with_other_secrets(
        self, job: JobT, memory: Remembered[JobT], work: Work, outcome: Failed
    ) -> float | None:
        """Go on with what the store refused, if its credentials were replaced meanwhile; None when they were not."""
        if not isinstance(outcome.error, AccessDenied | TokenExpired):
            return None
        limit, job_id = self._context.timing.restart, self._id(job)
        ready = await self._attempts.volume(job, memory, limit)
        if not isinstance(ready, Ready) or ready.node != self._context.node:
            return None
        order = await self._attempts.order(job, memory, ready, limit)
        if isinstance(order, Waiting):
            return await self._wait(job, memory, order.reason)
        if not isinstance(order, Order) or order.secrets == work.secrets:
            return None
        _log.warning("refused with credentials that were replaced: goes on with new ones", error=str(outcome.error))
        self._context.movings.end(job_id, "its credentials were replaced")
        self._start(job, order)
        return self._context.timing.look_again

    async def _taken_away(self, job: JobT, outcome: Failed) -> Failed:
        """What a worker says of a volume that is not there any more: whoever held it may have been deleted."""
        if not isinstance(outcome.error, VolumeError):
            return outcome
        state = await self._kind.exposer.advance(job)
        return outcome if isinstance(state, Ready) else Failed(taken_away(outcome.error, state))

    async def _start_again(self, job: JobT, memory: Remembered[JobT]) -> Again:
        """The agent was restarted while this ran: the engine goes on from what is in the repository already."""
        limit = self._context.timing.restart
        pod = self._context.stock.pod_of(self._kind.pod_label, job)
        ready = await self._attempts.volume(job, memory, limit) if pod is None else volume_in(pod, job)
        if isinstance(ready, Ready) and ready.node != self._context.node:
            return await self._hand_over(job, memory, ready.node)
        order = await self._attempts.order(job, memory, ready, limit) if isinstance(ready, Ready) else ready
        if not isinstance(order, Order):
            return await self._not_ready(job, memory, order)
        if pod is not None:
            order = replace(order, runner=self._context.stock.follower(pod))
        self._context.slots.take(self._id(job), self._kind.namespace(job))
        return self._start(job, order)

    def _start(self, job: JobT, order: Order) -> Again:
        key = job.key
        self._context.movings.start(self._id(job), job.metadata.uid, order, lambda: self._wake(key))
        self._pause(job)
        return self._context.timing.look_again

    def _pause(self, job: JobT) -> None:
        """Have its data stand still or go on, as the object says."""
        paused = is_paused(job)
        if self._context.movings.set_paused(self._id(job), paused):
            told = "the data stands still until it is resumed" if paused else "the data moves on"
            self._context.writer.tell(job, "Paused" if paused else "Resumed", told)

    async def _cancel(self, job: JobT, memory: Remembered[JobT]) -> Again:
        """Bring it to its end, at once where nothing runs, through Canceling where something does."""
        context, finisher = self._context, self._finisher
        if memory.canceled is None:
            memory.canceled = context.clock.monotonic()
        reason = cancel_reason(job)
        work = context.movings.get(self._id(job))
        if work is None and not self._is_mine(job):
            return await self._rescuer.canceled(job, memory, reason)
        outcome = finisher.moved(job) if work is None else work.outcome
        if outcome is not None:
            return await finisher.conclude(job, memory, outcome, canceled=reason)
        if work is None:
            return await finisher.cancel(job, memory, CanceledError(reason))
        context.movings.set_paused(self._id(job), False)
        work.cancel(reason)
        if memory.since(memory.canceled, context.clock) > context.timing.kill:
            work.kill(reason)
        if job.status.phase is Phase.IN_PROGRESS and context.writer.has_phase(self._kind.resource, Phase.CANCELING):
            await self._write(job, with_status(job, phase=Phase.CANCELING, message=reason))
            return None
        again = await finisher.show_progress(job, memory, work.progress)
        return context.timing.look_again if again is None else min(again, context.timing.look_again)

    # ---- waiting ----

    async def _not_ready(self, job: JobT, memory: Remembered[JobT], why: Waiting | LighterageError) -> Again:
        if isinstance(why, LighterageError):
            return await self._finisher.fail(job, memory, why)
        return await self._wait(job, memory, why.reason)

    async def _wait(self, job: JobT, memory: Remembered[JobT], reason: str) -> float:
        """Keep the reason, and tell it in the object when the wait lasts."""
        context, now = self._context, self._context.clock.monotonic()
        memory.waiting = reason
        due = memory.phase_since + context.timing.tell if memory.waiting_told is None else memory.waiting_told
        if job.status.phase.is_new or now < due:
            return context.timing.look_again
        memory.waiting_told = now + max(context.timing.resync, now - memory.phase_since)
        told = with_metadata(job, annotations={WAITING_ANNOTATION: reason[:_MAX_REASON]})
        await self._write(job, told)
        return context.timing.look_again

    async def _time_out(self, job: JobT, memory: Remembered[JobT]) -> Again:
        try:
            facts = await self._kind.exposer.diagnose(job)
        except KubeError as failure:
            facts = (f"what it waits for cannot be looked at: {failure}",)
        _log.warning("a volume was not accessible in time", kind=self._kind.name, object=str(job.key), facts=facts)
        limit = self._context.timing.prepare
        error = ExposeTimeout(
            f"the volume was not accessible within {limit:.0f} s: {cause(memory.waiting, facts)}",
            hint="the agent's log has the state of all objects involved",
        )
        return await self._finisher.end_at_once(job, memory, error)

    # ---- the end ----

    async def _after_the_end(self, job: JobT, memory: Remembered[JobT]) -> Again:
        context = self._context
        if not context.movings.end(self._id(job), "the object is final already"):
            return 1.0
        context.slots.release(self._id(job))
        if self._kind.finalizer not in job.metadata.finalizers:
            return await self._finisher.tidy(job, memory) if memory.exposed else None
        node = self._kind.node(job)
        if not memory.ended and node != context.node:
            if node and not context.nodes.is_dead(node):
                return None
            turn = context.timing.others + share(context.node, memory.uid) * context.timing.spread
            if (waited := memory.since(memory.phase_since, context.clock)) < turn:
                return turn - waited
        return await self._finisher.release(job, memory)

    def _forget(self, key: Key, reason: str, again: Again) -> Again:
        job_id = self._kind.name, key
        if not self._context.movings.end(job_id, reason):
            return 1.0
        if (uid := self._memory.forget(key)) is not None:
            self._context.writer.forget(uid)
        self._context.queue.settle(job_id)
        self._context.slots.release(job_id)
        return again

    # ---- small questions ----

    def _is_mine(self, job: JobT) -> bool:
        node = self._kind.node(job)
        if node == self._context.node:
            return True
        if not node and self._context.movings.get(self._id(job)) is not None:
            return True
        return job.status.phase is Phase.ACCEPTED and self._kind.is_here(job)

    def _is_prepared_by_stock(self, job: JobT) -> bool:
        """Its volume has to be made accessible anew: a stock mover would begin with our work."""
        return self._context.stock.pod_of(self._kind.pod_label, job) is not None

    def _id(self, job: JobT) -> JobId:
        return self._kind.name, job.key

    async def _write(self, before: JobT, after: JobT) -> JobT:
        return await self._context.writer.write(self._kind.resource, before, after)
