"""One kind's loop: an informer that says which objects changed, a queue of their keys, and a few who look at them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Generic

import structlog

from agent.base.clock import Clock
from agent.base.errors import KubeError, KubeUnavailable
from agent.controllers.job import JobT
from agent.controllers.kind import JobKind
from agent.controllers.machine import Context, Machine
from agent.kube.api import KubeApi
from agent.kube.informer import Informer, InformerOptions
from agent.kube.meta import Key
from agent.kube.workqueue import WorkQueue

_LOOKERS = 4
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
        self.queue = WorkQueue(clock, rng)
        self.informer: Informer[JobT] = Informer(
            api,
            kind.resource,
            clock,
            rng,
            namespace=namespace,
            options=options or InformerOptions(resync=context.timing.resync),
        )
        self.informer.add_handler(self.queue.add)
        self._machine = Machine(kind, context, self.queue.add)

    def objects(self) -> Iterator[tuple[JobT, str]]:
        """Every object of the kind that is known, and the node whose agent looks after it."""
        for job in self.informer.store:
            if self.kind.handles(job):
                yield job, self.kind.node(job)

    async def run(self) -> None:
        """Work until canceled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.informer.run())
            group.create_task(self.queue.run())
            await self.informer.wait_synced()
            for _ in range(_LOOKERS):
                group.create_task(self._look())

    async def _look(self) -> None:
        while (key := await self.queue.get()) is not None:
            try:
                await self._look_at(key)
            finally:
                self.queue.done(key)

    async def _look_at(self, key: Key) -> None:
        try:
            again = await self._machine.look(key, self.informer.store.get(key))
        except KubeError as error:
            _log.warning("will look again", kind=self.kind.name, object=str(key), error=str(error), code=error.code)
            self.queue.retry(key, at_least=(error.retry_after or 0.0) if isinstance(error, KubeUnavailable) else 0.0)
        except Exception:  # noqa: BLE001  # a mistake of ours about one object must not stop all others
            _log.exception("cannot handle an object", kind=self.kind.name, object=str(key))
            self.queue.retry(key)
        else:
            self.queue.forget(key)
            if again is not None:
                self.queue.add_after(key, again)
