"""What an object needs before its data can move and may not have yet: its volume, and the order to move it.

Each attempt gives what was asked for, what it waits for, or why there will be none; a wait that may not last longer
becomes an error. What only the API server is in the way of is raised as `KubeError` and tried again.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable
from typing import Generic, TypeVar

from agent.base.errors import ExposeTimeout, KubeError, KubeForbidden, KubeInvalid, KubeNotFound, LighterageError
from agent.controllers.context import Context
from agent.controllers.job import JobT
from agent.controllers.kind import JobKind
from agent.controllers.memory import Remembered
from agent.controllers.moving import Order
from agent.controllers.spans import with_trace
from agent.exposers.contract import Broken, Ready, Runner, Waiting

_T = TypeVar("_T")


class Attempts(Generic[JobT]):
    """Those of one kind."""

    def __init__(self, kind: JobKind[JobT], context: Context) -> None:
        self._kind = kind
        self._context = context

    async def checked(self, job: JobT, memory: Remembered[JobT]) -> LighterageError | None:
        """What is known to be wrong although nothing is exposed yet; what may heal is asked for again meanwhile."""
        if (now := self._context.clock.monotonic()) < memory.check_from:
            return None
        try:
            refused = await self._patiently(memory, self._context.check(job))
        except KubeError:
            raise
        except LighterageError as error:
            memory.check_from = now + self._context.timing.look_again
            return None if error.retryable else error
        memory.check_from = math.inf
        return refused

    async def advanced(
        self, job: JobT, memory: Remembered[JobT], limit: float | None = None
    ) -> Ready | Waiting | LighterageError:
        """The exposer's next steps."""
        memory.exposed = True
        if (pod := self._context.stock.pod_of(self._kind.pod_label, job)) is not None:
            await self._context.stock.remove(pod)
            return Waiting(f"the pod {pod.key} of the stock agent has to end")
        state = await self._patiently(memory, self._kind.exposer.advance(job), limit)
        return state.error if isinstance(state, Broken) else state

    async def volume(self, job: JobT, memory: Remembered[JobT], limit: float) -> Ready | Waiting | LighterageError:
        """The volume; what it waits for; or why there is none, which a wait becomes when it is too long."""
        state = await self.advanced(job, memory, limit)
        if isinstance(state, Waiting) and self._is_late(memory, limit):
            return ExposeTimeout(f"the volume was not accessible within {limit:.0f} s: {state.reason}")
        return state

    async def order(
        self, job: JobT, memory: Remembered[JobT], ready: Ready, limit: float
    ) -> Order | Waiting | LighterageError:
        """The same for what is to be done with it."""
        try:
            made = await self._patiently(memory, self._kind.work(job, ready), limit)
        except KubeError:
            raise
        except LighterageError as error:
            return Waiting(str(error)) if error.retryable and not self._is_late(memory, limit) else error
        if isinstance(made, LighterageError):
            return made
        memory.trying = None
        runner, spec, secrets = made
        callbacks, in_pod = self._context.callbacks(job), ready.runner is Runner.POD
        return Order(runner, with_trace(spec, job), secrets, callbacks, in_pod)

    async def _patiently(
        self, memory: Remembered[JobT], call: Awaitable[_T], limit: float | None = None
    ) -> _T | LighterageError:
        """What `call` gives; or the error of the API server, once it has answered so for too long to go on."""
        context = self._context
        try:
            result = await call
        except KubeError as error:
            hopeless = isinstance(error, KubeForbidden | KubeInvalid | KubeNotFound)
            if hopeless and memory.refused is None:
                memory.refused = context.clock.monotonic()
            too_long = hopeless and memory.since(memory.refused, context.clock) >= context.timing.refused
            if too_long or (limit is not None and self._is_late(memory, limit)):
                return error
            raise
        memory.refused = None
        return result

    def _is_late(self, memory: Remembered[JobT], limit: float) -> bool:
        """Whether it is tried for longer than that."""
        if memory.trying is None:
            memory.trying = self._context.clock.monotonic()
        return memory.since(memory.trying, self._context.clock) > limit
