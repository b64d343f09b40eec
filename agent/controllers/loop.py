"""One kind's loop: an informer that says which objects changed, a queue of their keys, and a few who look at them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Generic

import structlog

from agent.base.clock import Clock
from agent.base.errors import KubeConflict, KubeError, KubeNotFound, KubeUnavailable
from agent.controllers.context import Context
from agent.controllers.job import JobT, is_canceled, is_exposing, with_status
from agent.controllers.kind import JobKind
from agent.controllers.machine import Machine
from agent.controllers.moving import JobId
from agent.kube.api import KubeApi
from agent.kube.backoff import Backoff
from agent.kube.informer import Informer, InformerOptions
from agent.kube.job import Phase
from agent.kube.job_names import log_fields
from agent.kube.meta import Key
from agent.kube.workqueue import WorkQueue

_LOOKERS = 4
_BACKOFF = Backoff(first=0.5, cap=20.0)
"""Short: an object that is canceled while the API server is away is to end soon after that is back."""
_SHORTEST_SECONDS = 0.01
"""A rest of a wait that is next to nothing is not looked at again and again."""
_EXPOSING = "exposing"
_log = structlog.stdlib.get_logger(__name__)


class Controller(Generic[JobT]):
    """The objects of one kind in Velero's namespace, each looked at whenever something may have changed for it."""

    def __init__(
        self,
        kind: JobKind[JobT],
        context: Context,
        api: KubeApi,
        namespace: str,
        rng: random.Random,
        *,
        options: InformerOptions | None = None,
    ) -> None:
        clock: Clock = context.clock
        self.kind = kind
        self._context = context
        self.queue = WorkQueue(clock, rng, _BACKOFF)
        self.informer: Informer[JobT] = Informer(
            api,
            kind.resource,
            clock,
            rng,
            namespace=namespace,
            indexes={_EXPOSING: lambda job: ("",) if is_exposing(job) else ()},
            options=options or InformerOptions(resync=context.timing.resync),
        )
        self.informer.add_handler(self.queue.add)
        self._machine = Machine(kind, context, self.queue.add)
        self._unreadable_told: dict[Key, str] = {}

    async def run(self) -> None:
        """Work until canceled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.informer.run())
            group.create_task(self.queue.run())
            await self.informer.wait_synced()
            for _ in range(_LOOKERS):
                group.create_task(self._look())

    def objects(self) -> Iterator[tuple[JobT, str]]:
        """Every object that agents like this one handle, and the node whose agent looks after it."""
        for job in self.informer.store:
            if self.kind.handles(job):
                yield job, self.kind.node(job)

    def exposing(self) -> Iterator[tuple[JobId, str]]:
        """The objects that count toward the prepare queue, with the namespaces of their volumes."""
        for job in self.informer.store.by_index(_EXPOSING, ""):
            yield (self.kind.name, job.key), self.kind.namespace(job)

    async def give_back(self, deadline: float) -> None:
        """Let any agent go on with what this one accepted and does not hold. What cannot be written, stays."""
        for job in self.informer.store:
            if self._context.clock.monotonic() < deadline and self._can_be_given_back(job):
                with suppress(KubeError):
                    await self._context.writer.write(self.kind.resource, job, with_status(job, accepted_by_node=""))

    def _can_be_given_back(self, job: JobT) -> bool:
        kind = self.kind
        if not kind.is_anybodys or job.status.phase is not Phase.ACCEPTED or is_canceled(job):
            return False
        return kind.node(job) == self._context.node and not kind.is_here(job)

    async def _look(self) -> None:
        while (key := await self.queue.get()) is not None:
            try:
                await self._look_at(key)
            finally:
                self.queue.done(key)

    async def _look_at(self, key: Key) -> None:
        if (unreadable := self.informer.unreadable.get(key)) is not None:
            self._tell_unreadable(key, str(unreadable.error))
            self._context.slots.withdraw((self.kind.name, key))
            return  # work that runs for it goes on until the object can be read again, or is gone
        self._unreadable_told.pop(key, None)
        job = self.informer.store.get(key)
        # Work that is begun by this look is a task of this context: its lines say whose they are, too.
        with structlog.contextvars.bound_contextvars(**({} if job is None else log_fields(job))):
            await self._take_step(key, job)

    async def _take_step(self, key: Key, job: JobT | None) -> None:
        try:
            again = await self._machine.look(key, job)
        except (KubeConflict, KubeNotFound):
            self.queue.retry(key)  # somebody was faster, or the store is behind
        except KubeError as error:
            _log.warning("will look again", kind=self.kind.name, object=str(key), error=str(error), code=error.code)
            self.queue.retry(key, at_least=(error.retry_after or 0.0) if isinstance(error, KubeUnavailable) else 0.0)
        except Exception:  # noqa: BLE001  # a mistake of ours about one object must not stop all others
            _log.exception("cannot handle an object", kind=self.kind.name, object=str(key))
            self.queue.retry(key)
        else:
            self.queue.forget(key)
            if again is not None:
                self.queue.add_after(key, max(again, _SHORTEST_SECONDS))

    def _tell_unreadable(self, key: Key, why: str) -> None:
        """Once for each shape of an object: it cannot be handled, and nobody else would say so."""
        if self._unreadable_told.get(key) != why:
            self._unreadable_told[key] = why
            _log.error("an object cannot be read and is left alone", kind=self.kind.name, object=str(key), error=why)
