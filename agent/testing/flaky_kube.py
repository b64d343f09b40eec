"""One client's way to the API server: slow, lossy, and at times cut, while the server itself is well.

Every agent of a test gets a `FlakyKube` of its own around the one `FakeKube`, so that requests of several agents
interleave, an answer may be lost although the request took effect, and an agent that is killed or cut off reaches
nothing from that moment on.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import TypeVar

import msgspec

from agent.base.clock import Clock
from agent.base.errors import KubeUnavailable
from agent.kube.api import PAGE_SIZE, AccessReview, KubeApi, Page, WatchEvent
from agent.kube.codec import JsonObject, ObjectT
from agent.kube.meta import Key
from agent.kube.resource import Resource
from agent.kube.selector import EVERYTHING, Selector

_T = TypeVar("_T")


class Weather(msgspec.Struct):
    """How bad the way is; may be changed at any time."""

    latency: float = 0.02
    """Seconds that a request takes at most, in each direction."""
    loss: float = 0.0
    """The share of requests that fail, half of them after they took effect."""
    cut: bool = False
    """Whether nothing gets through; watches that are open are silent."""


class FlakyKube:
    """Implements `KubeApi`."""

    def __init__(self, inner: KubeApi, clock: Clock, rng: random.Random, weather: Weather | None = None) -> None:
        self._inner = inner
        self._clock = clock
        self._rng = rng
        self.weather = weather or Weather()
        self.requests: Counter[tuple[str, str]] = Counter()
        """How often each verb was sent for each resource, watches apart."""

    async def get(self, resource: Resource[ObjectT], key: Key) -> ObjectT:
        """One object."""
        return await self._ask("get", resource, self._inner.get(resource, key))

    async def list(
        self,
        resource: Resource[ObjectT],
        namespace: str = "",
        *,
        selector: Selector = EVERYTHING,
        limit: int = PAGE_SIZE,
        continue_token: str = "",
    ) -> Page[ObjectT]:
        """One page."""
        asked = self._inner.list(resource, namespace, selector=selector, limit=limit, continue_token=continue_token)
        return await self._ask("list", resource, asked)

    async def watch(
        self,
        resource: Resource[ObjectT],
        namespace: str = "",
        *,
        resource_version: str,
        selector: Selector = EVERYTHING,
        timeout: float,  # noqa: ASYNC109  # the server's, not ours
    ) -> AsyncGenerator[WatchEvent[ObjectT], None]:
        """Changes, a little late; ends when one would have come through a cut."""
        await self._ask("watch", resource, _nothing())
        events = self._inner.watch(
            resource, namespace, resource_version=resource_version, selector=selector, timeout=timeout
        )
        arrived = -1.0
        async with aclosing(events) as stream:
            async for event in stream:
                if self._clock.monotonic() != arrived:  # what comes at once is late at once
                    await self._delay()
                    arrived = self._clock.monotonic()
                if self.weather.cut:
                    return
                yield event

    async def create(self, resource: Resource[ObjectT], obj: ObjectT) -> ObjectT:
        """A new object."""
        return await self._ask("create", resource, self._inner.create(resource, obj))

    async def patch(
        self,
        resource: Resource[ObjectT],
        key: Key,
        patch: JsonObject,
        *,
        resource_version: str = "",
        status: bool = False,
    ) -> ObjectT:
        """A merge patch."""
        asked = self._inner.patch(resource, key, patch, resource_version=resource_version, status=status)
        return await self._ask("patch", resource, asked)

    async def delete(self, resource: Resource[ObjectT], key: Key, *, uid: str = "", resource_version: str = "") -> None:
        """Delete."""
        await self._ask(
            "delete", resource, self._inner.delete(resource, key, uid=uid, resource_version=resource_version)
        )

    async def allowed(self, review: AccessReview) -> bool:
        """An access review."""
        return await self._inner.allowed(review)

    async def _ask(self, verb: str, resource: Resource[ObjectT], request: Coroutine[None, None, _T]) -> _T:
        self.requests[verb, resource.name] += 1
        try:
            await self._delay()
            self._raise_if(self.weather.cut or self._rng.random() < self.weather.loss / 2)
        except BaseException:
            request.close()  # it never leaves
            raise
        answer = await request
        await self._delay()
        self._raise_if(self.weather.cut or self._rng.random() < self.weather.loss / 2)
        return answer

    async def _delay(self) -> None:
        await self._clock.sleep(self._rng.random() * self.weather.latency)

    def _raise_if(self, lost: bool) -> None:
        if lost:
            raise KubeUnavailable("the connection to the API server was lost")


async def _nothing() -> None:
    """What opening a watch costs on the way."""
