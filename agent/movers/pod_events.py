"""Events of a mover pod on its object: one for each reason, which grows instead of multiplying (contract §2.6, §13.15).

Events are for people and for the agent that follows. Nothing is lost with one that could not be written: the outcome is
in the termination message.
"""

from __future__ import annotations

from typing import Final

from agent.base.clock import Clock
from agent.base.errors import KubeAlreadyExists, KubeError
from agent.kube.api import KubeApi
from agent.kube.cluster import Event, EventSource
from agent.kube.codec import encode
from agent.kube.meta import Key, ObjectMeta
from agent.kube.names import valid_name
from agent.kube.resource import EVENTS
from agent.kube.times import time_from_ns
from agent.kube.volumes import ObjectReference
from agent.kube.wait import within
from agent.movers.pod_messages import MAX_EVENT_MESSAGE

SECONDS: Final = 10.0
"""That writing one may take."""


class DataPathEvents:
    """Those of one pod on one object."""

    def __init__(self, api: KubeApi, clock: Clock, about: ObjectReference, *, node: str, pod_uid: str) -> None:
        self._api = api
        self._clock = clock
        self._about = about
        self._source = EventSource(component=about.name, host=node)
        self._pod_uid = pod_uid
        self._counts: dict[str, int] = {}

    async def tell(self, reason: str, message: str, *, warning: bool = False) -> KubeError | None:
        """Write it, or add to what was written for the same reason; what was in the way if it could not be."""
        try:
            await within(self._clock, SECONDS, self._write(reason, message, "Warning" if warning else "Normal"))
        except KubeError as error:
            return error
        return None

    async def _write(self, reason: str, message: str, kind: str) -> None:
        now = time_from_ns(self._clock.now_ns())
        count = self._counts.get(reason, 0) + 1
        # A name has 253 characters at most, and an object's may have as many.
        name = f"{valid_name(self._about.name)}.{self._pod_uid}.{reason.lower()}"
        event = Event(
            api_version=EVENTS.api_version,
            kind="Event",
            metadata=ObjectMeta(name=name, namespace=self._about.namespace),
            involved_object=self._about,
            type=kind,
            reason=reason,
            message=message.encode()[:MAX_EVENT_MESSAGE].decode(errors="ignore"),
            source=self._source,
            count=count,
            first_timestamp=now,
            last_timestamp=now,
        )
        if count == 1:
            try:
                await self._api.create(EVENTS, event)
                self._counts[reason] = count
                return
            except KubeAlreadyExists:  # an answer was lost
                count += 1
        changes = encode(event)
        patch = {name: changes[name] for name in ("message", "lastTimestamp", "type")} | {"count": count}
        await self._api.patch(EVENTS, Key(self._about.namespace, name), patch)
        self._counts[reason] = count
