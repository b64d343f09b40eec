"""Kubernetes events about objects and about this agent. Telling never fails, and nobody waits for it.

What is told goes into a bounded queue that one task empties; what does not fit is counted and named in the log. The
same thing told again raises the count of its event, as Kubernetes' own components do, instead of making another one.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from typing import Final

import msgspec
import structlog

from agent.base.clock import Clock
from agent.base.errors import KubeError, KubeNotFound
from agent.controllers.job import Job
from agent.kube.api import KubeApi
from agent.kube.cluster import Event, EventSource
from agent.kube.codec import merge_patch
from agent.kube.meta import ObjectMeta
from agent.kube.resource import EVENTS
from agent.kube.times import Time, time_from_ns
from agent.kube.volumes import ObjectReference

COMPONENT: Final = "lighterage"
_QUEUE = 1_000
_REMEMBERED = 1_000
_MAX_MESSAGE = 1_024
"""What the API server takes, in bytes."""
_MAX_REASON = 128
_MAX_OBJECT_NAME = 200
_CUT = "…"
_log = structlog.stdlib.get_logger(__name__)


class _Told(msgspec.Struct, frozen=True):
    """One event, without its times and number: equal ones are the same event again."""

    about: ObjectReference
    reason: str
    message: str
    type: str


class Events:
    """Implements `agent.controllers.status.EventSink`. Its owner runs `run`."""

    def __init__(self, api: KubeApi, clock: Clock, rng: random.Random, *, namespace: str, node: str) -> None:
        """`namespace` is Velero's."""
        self._api = api
        self._clock = clock
        self._rng = rng
        self._namespace = namespace
        self._node = node
        self._queue: asyncio.Queue[tuple[_Told, Time]] = asyncio.Queue(_QUEUE)
        self._known: OrderedDict[_Told, Event] = OrderedDict()
        self._agent = ObjectReference(api_version="apps/v1", kind="DaemonSet", namespace=namespace, name="node-agent")
        self.dropped = 0
        """Events for which there was no room, or that the API server refused."""

    def emit(self, job: Job, reason: str, message: str, *, warning: bool = False) -> None:
        """Say that something happened to `job`."""
        about = ObjectReference(
            api_version=job.api_version,
            kind=job.kind,
            namespace=job.metadata.namespace,
            name=job.metadata.name,
            uid=job.metadata.uid,
        )
        self._put(about, reason, message, warning)

    def tell(self, reason: str, message: str, warning: bool = False) -> None:
        """Say that something happened to this agent: an event of its DaemonSet, with the node as its source."""
        self._put(self._agent, reason, message, warning)

    def is_about(self, daemon_set_uid: str) -> None:
        """Which DaemonSet this agent is of; `kubectl describe` finds its events by the uid."""
        self._agent = msgspec.structs.replace(self._agent, uid=daemon_set_uid)

    def _put(self, about: ObjectReference, reason: str, message: str, warning: bool) -> None:
        told = _Told(about, reason[:_MAX_REASON], _cut(message), "Warning" if warning else "Normal")
        try:
            self._queue.put_nowait((told, time_from_ns(self._clock.now_ns())))
        except asyncio.QueueFull:
            self._drop(told, "too many events are waiting")

    async def run(self) -> None:
        """Write events until canceled."""
        while True:
            told, when = await self._queue.get()
            try:
                await self._write(told, when)
            except KubeError as error:
                self._drop(told, str(error))
            finally:
                self._queue.task_done()

    async def flush(self) -> None:
        """Wait until what was told so far is written; needs `run`."""
        await self._queue.join()

    async def _write(self, told: _Told, when: Time) -> None:
        known = self._known.pop(told, None)
        event = await self._again(known, when) if known else None
        if event is None:
            event = await self._api.create(EVENTS, self._new(told, when))
        self._known[told] = event
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    async def _again(self, known: Event, when: Time) -> Event | None:
        """The same event once more; None when it is gone, which events are after an hour."""
        after = msgspec.structs.replace(known, count=known.count + 1, last_timestamp=when)
        try:
            await self._api.patch(EVENTS, known.key, merge_patch(known, after))
        except KubeNotFound:
            return None
        return after

    def _new(self, told: _Told, when: Time) -> Event:
        name = f"{told.about.name[:_MAX_OBJECT_NAME].rstrip('.-')}.{self._rng.getrandbits(64):016x}"
        return Event(
            api_version=EVENTS.api_version,
            kind="Event",
            metadata=ObjectMeta(name=name, namespace=told.about.namespace or self._namespace),
            involved_object=told.about,
            type=told.type,
            reason=told.reason,
            message=told.message,
            source=EventSource(component=COMPONENT, host=self._node),
            count=1,
            first_timestamp=when,
            last_timestamp=when,
            reporting_component=COMPONENT,
            reporting_instance=self._node,
        )

    def _drop(self, told: _Told, why: str) -> None:
        self.dropped += 1
        _log.debug("an event was dropped", object=told.about.name, reason=told.reason, message=told.message, error=why)


def _cut(message: str) -> str:
    encoded = message.encode("utf-8", "replace")
    if len(encoded) <= _MAX_MESSAGE:
        return encoded.decode()
    return encoded[: _MAX_MESSAGE - len(_CUT.encode())].decode(errors="ignore") + _CUT
