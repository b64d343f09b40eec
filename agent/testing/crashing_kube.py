"""A `KubeApi` whose user dies at its nth request, before or after the request took effect: for tests of crashes.

Whoever sees `Died` is dead: the test lets another one go on, on the same API server. `requests` counts all, so a test
first counts those of a run that goes well, and then dies at each of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from agent.kube.api import PAGE_SIZE, AccessReview, KubeApi, Page, WatchEvent
from agent.kube.codec import JsonObject, ObjectT
from agent.kube.meta import Key
from agent.kube.resource import Resource
from agent.kube.selector import EVERYTHING, Selector


class Died(Exception):  # not an error of the house: nothing may handle it
    """The process is gone at this point."""


class CrashingKube:
    """Requests go through to `api` until the one that kills. Use it up once."""

    def __init__(self, api: KubeApi, die_at: int = 0, *, after: bool = False) -> None:
        self._api = api
        self._die_at = die_at
        self._after = after
        self.requests = 0
        """How many were begun."""

    def _begin(self) -> None:
        self.requests += 1
        if self.requests == self._die_at and not self._after:
            raise Died

    def _end(self) -> None:
        if self.requests == self._die_at and self._after:
            raise Died

    async def get(self, resource: Resource[ObjectT], key: Key) -> ObjectT:
        """One object."""
        self._begin()
        found = await self._api.get(resource, key)
        self._end()
        return found

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
        self._begin()
        page = await self._api.list(resource, namespace, selector=selector, limit=limit, continue_token=continue_token)
        self._end()
        return page

    def watch(
        self,
        resource: Resource[ObjectT],
        namespace: str = "",
        *,
        resource_version: str,
        selector: Selector = EVERYTHING,
        timeout: float,
    ) -> AsyncGenerator[WatchEvent[ObjectT], None]:
        """Changes; a watch is one request, and kills before it begins only."""
        self._begin()
        return self._api.watch(
            resource, namespace, resource_version=resource_version, selector=selector, timeout=timeout
        )

    async def create(self, resource: Resource[ObjectT], obj: ObjectT) -> ObjectT:
        """A new object."""
        self._begin()
        made = await self._api.create(resource, obj)
        self._end()
        return made

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
        self._begin()
        patched = await self._api.patch(resource, key, patch, resource_version=resource_version, status=status)
        self._end()
        return patched

    async def delete(self, resource: Resource[ObjectT], key: Key, *, uid: str = "", resource_version: str = "") -> None:
        """Delete."""
        self._begin()
        await self._api.delete(resource, key, uid=uid, resource_version=resource_version)
        self._end()

    async def allowed(self, review: AccessReview) -> bool:
        """Whether this service account may."""
        self._begin()
        allowed = await self._api.allowed(review)
        self._end()
        return allowed
