"""What the players of a fake cluster have in common: each looks at objects through a `KubeApi` and changes them."""

from __future__ import annotations

from collections.abc import Coroutine

from agent.base.clock import Clock
from agent.base.errors import KubeConflict, KubeNotFound
from agent.kube.api import KubeApi
from agent.kube.cluster import Event
from agent.kube.codec import JsonObject, ObjectT
from agent.kube.meta import Key, KubeObject, ObjectMeta
from agent.kube.resource import EVENTS, Resource
from agent.kube.times import time_from_ns
from agent.kube.volumes import ObjectReference


class Player:
    """One of those who act on objects."""

    def __init__(self, api: KubeApi, clock: Clock) -> None:
        self._api = api
        self._clock = clock

    async def _quietly(self, look: Coroutine[object, object, None]) -> None:
        """What changed or went meanwhile is looked at in the next step."""
        try:
            await look
        except (KubeConflict, KubeNotFound):
            return

    async def _say(self, about: KubeObject, reason: str, message: str) -> None:
        """A warning about an object, once for each text."""
        events = await self._all(EVENTS)
        for event in events:
            if event.involved_object.uid == about.metadata.uid and event.message == message:
                return
        event = Event(
            api_version="v1",
            kind="Event",
            metadata=ObjectMeta(
                name=f"{about.metadata.name}.{len(events):x}", namespace=about.metadata.namespace or "default"
            ),
            involved_object=reference_to(about),
            type="Warning",
            reason=reason,
            message=message,
            last_timestamp=time_from_ns(self._clock.now_ns()),
        )
        await self._api.create(EVENTS, event)

    async def _all(self, resource: Resource[ObjectT]) -> list[ObjectT]:
        return list((await self._api.list(resource)).items)

    async def _find(self, resource: Resource[ObjectT], key: Key) -> ObjectT | None:
        try:
            return await self._api.get(resource, key)
        except KubeNotFound:
            return None

    async def _status(self, resource: Resource[ObjectT], obj: ObjectT, status: JsonObject) -> ObjectT:
        return await self._api.patch(resource, obj.key, {"status": status}, status=True)

    async def _protect(self, resource: Resource[ObjectT], obj: ObjectT, finalizer: str) -> ObjectT:
        if finalizer in obj.metadata.finalizers:
            return obj
        patch: JsonObject = {"metadata": {"finalizers": [*obj.metadata.finalizers, finalizer]}}
        return await self._api.patch(resource, obj.key, patch, resource_version=obj.metadata.resource_version)

    async def _release(self, resource: Resource[ObjectT], obj: ObjectT) -> None:
        now = await self._api.get(resource, obj.key)
        if now.metadata.finalizers:
            patch: JsonObject = {"metadata": {"finalizers": None}}
            await self._api.patch(resource, obj.key, patch, resource_version=now.metadata.resource_version)

    def _now(self) -> str:
        return time_from_ns(self._clock.now_ns()).strftime("%Y-%m-%dT%H:%M:%SZ")


def reference_to(obj: KubeObject) -> ObjectReference:
    """An object as others name it."""
    meta = obj.metadata
    return ObjectReference(
        api_version=obj.api_version, kind=obj.kind, namespace=meta.namespace, name=meta.name, uid=meta.uid
    )
