"""Objects of other agents, and of none: what is left to others when their own agent does not come (contract §2.5).

Every agent sees every object, so whatever any of them may do is done by one: they come at different moments, write onto
the version that they saw, and who comes second finds it done.
"""

from __future__ import annotations

from typing import Generic

from agent.base.errors import CanceledError, ExposeTimeout, LighterageError, NodeLost
from agent.controllers.context import Again, Context
from agent.controllers.finish import Finisher
from agent.controllers.job import JobT, with_finalizer, with_status
from agent.controllers.kind import JobKind
from agent.controllers.memory import Remembered, share
from agent.kube.job import Phase

_NOWHERE_SECONDS = 60.0
"""At most, until it is asked again where an object belongs that is on no node: nobody is told if it never will be."""
_SOMEWHERE_SECONDS = 300.0
"""The same for one on a node with an agent, which is told when its pod goes, unless it is away just then."""


class Rescuer(Generic[JobT]):
    """The objects of one kind that this agent does not work on."""

    def __init__(self, kind: JobKind[JobT], context: Context, finisher: Finisher[JobT]) -> None:
        self._kind = kind
        self._context = context
        self._finisher = finisher

    async def look(self, job: JobT, memory: Remembered[JobT]) -> Again:
        """End it, or take it over, if its own agent is gone or lets it wait beyond all bounds."""
        node, timing = self._kind.node(job), self._context.timing
        if not node:
            return await self._nobodys(job, memory)
        if self._context.nodes.is_dead(node):
            return await self._abandoned(job, memory, node)
        memory.orphan = memory.look_up_at = None
        if job.status.phase is Phase.ACCEPTED:
            bound = timing.prepare + timing.others
            waited = memory.since(memory.phase_since, self._context.clock)
            if waited > bound + share(self._context.node, memory.uid) * timing.spread:
                error = f"the agent of the node {node} did not make the volume accessible within {bound:.0f} s"
                return await self._finisher.end_at_once(job, memory, ExposeTimeout(error, hint="see that agent's log"))
        return None

    async def canceled(self, job: JobT, memory: Remembered[JobT], reason: str) -> Again:
        """End what is to be canceled: at once where nobody works on it, else when its agent had its time."""
        timing, node, phase = self._context.timing, self._kind.node(job), job.status.phase
        error = CanceledError(reason)
        has_agent = bool(node) and not self._context.nodes.is_dead(node)
        if phase.is_new:
            patience = timing.others if has_agent else self._context.claim_spread
        elif not has_agent:
            patience = timing.spread
        elif phase in {Phase.IN_PROGRESS, Phase.CANCELING}:
            patience = timing.force_running + timing.spread
        else:
            patience = timing.force_prepared + timing.spread
        due = patience - (1 - share(self._context.node, memory.uid)) * min(timing.spread, patience)
        waited = memory.since(memory.canceled, self._context.clock)
        if waited < due:
            return due - waited
        return await self._finisher.end_at_once(job, memory, error)

    async def unclaimed(self, job: JobT, memory: Remembered[JobT]) -> Again:
        """A new object that only another node's agent may take."""
        node = self._kind.node(job)
        if not node:
            return await self._nobodys(job, memory)
        if self._context.nodes.is_dead(node):
            return await self._abandoned(job, memory, node)
        memory.orphan = memory.look_up_at = None
        return None

    async def _abandoned(self, job: JobT, memory: Remembered[JobT], node: str) -> Again:
        """Its agent is dead, or never was."""
        if (wait := self._turn(memory, self._context.timing.spread)) is not None:
            return wait
        if job.status.phase is Phase.ACCEPTED and self._kind.is_anybodys:
            return await self._take_over(job)
        state = job.status.phase or Phase.NEW
        error = NodeLost(
            f"the node {node} or the agent on it is gone, while the {self._kind.name} was {state}",
            hint="see why, and repeat the backup or restore",
        )
        return await self._finisher.end_at_once(job, memory, error)

    async def _nobodys(self, job: JobT, memory: Remembered[JobT]) -> Again:
        """It names no node: given back by its agent, or of a kind or server that does not say."""
        if job.status.phase is Phase.ACCEPTED and self._kind.is_anybodys:
            if (wait := self._turn(memory, self._context.claim_spread)) is not None:
                return wait
            return await self._take_over(job)
        now = self._context.clock.monotonic()
        if memory.look_up_at is None:
            memory.look_up_at = now + self._context.until_look_up(memory.uid, _NOWHERE_SECONDS)
        if now < memory.look_up_at:
            return memory.look_up_at - now
        found = await self._kind.locate(job)
        if isinstance(found, str) and found and self._context.nodes.is_dead(found):
            found = NodeLost(f"the node {found} or the agent on it is gone", hint="see why, and repeat the restore")
        if isinstance(found, LighterageError):
            return await self._finisher.end_at_once(job, memory, found)
        wait = self._context.until_look_up(memory.uid, _SOMEWHERE_SECONDS if found else _NOWHERE_SECONDS)
        memory.look_up_at = now + wait
        return wait

    async def _take_over(self, job: JobT) -> Again:
        """Go on with an accepted object whose agent cannot; how long it may take counts on."""
        taken = with_status(job, accepted_by_node=self._context.node)
        await self._context.writer.write(self._kind.resource, job, with_finalizer(taken, self._kind.finalizer))
        return None

    def _turn(self, memory: Remembered[JobT], spread: float) -> Again:
        """Seconds until it is this agent's turn; None when it is."""
        clock = self._context.clock
        if memory.orphan is None:
            memory.orphan = clock.monotonic()
        due = share(self._context.node, memory.uid) * spread
        waited = memory.since(memory.orphan, clock)
        return due - waited if waited < due else None
