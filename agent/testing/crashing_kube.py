"""A `KubeApi` that comes between one user and the API server: for tests of crashes and lost answers.

`CrashingKube` kills its user at the nth request, before or after that took effect. Whoever sees `Died` is dead, and
the test lets another one go on with the same API server. `requests` counts all, so a test first counts those of a run
that goes well, and then dies at each of them. `FlakyKube` loses requests and answers at random.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

from agent.base.errors import KubeUnavailable
from agent.kube.api import PAGE_SIZE, AccessReview, KubeApi, Page, WatchEvent
from agent.kube.codec import JsonObject, ObjectT
from agent.kube.meta import Key
from agent.kube.resource import Resource
from agent.kube.selector import EVERYTHING, Selector


class Died(Exception):  # not an error of the house: nothing may handle it
    """The process is gone at this point."""


class InterceptedKube:
    """Requests go through to `api`, and subclasses raise before or after them."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self.requests = 0
        """How many were begun."""

    def before(self) -> None:
        """The request was not sent yet."""

    def after(self) -> None:
        """The request took effect, or was refused; the answer was not read yet."""

    @contextmanager
    def _request(self) -> Iterator[None]:
        self.requests += 1
        self.before()
        try:
            yield
        finally:
            self.after()

    async def get(self, resource: Resource[ObjectT], key: Key) -> ObjectT:
        """One object."""
        with self._request():
            return await self._api.get(resource, key)

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
        with self._request():
            return await self._api.list(
                resource, namespace, selector=selector, limit=limit, continue_token=continue_token
            )

    def watch(
        self,
        resource: Resource[ObjectT],
        namespace: str = "",
        *,
        resource_version: str,
        selector: Selector = EVERYTHING,
        timeout: float,
    ) -> AsyncGenerator[WatchEvent[ObjectT], None]:
        """Changes; to begin a watch is a request, to go on with it is none."""
        self.requests += 1
        self.before()
        return self._api.watch(
            resource, namespace, resource_version=resource_version, selector=selector, timeout=timeout
        )

    async def create(self, resource: Resource[ObjectT], obj: ObjectT) -> ObjectT:
        """A new object."""
        with self._request():
            return await self._api.create(resource, obj)

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
        with self._request():
            return await self._api.patch(resource, key, patch, resource_version=resource_version, status=status)

    async def delete(self, resource: Resource[ObjectT], key: Key, *, uid: str = "", resource_version: str = "") -> None:
        """Delete."""
        with self._request():
            await self._api.delete(resource, key, uid=uid, resource_version=resource_version)

    async def allowed(self, review: AccessReview) -> bool:
        """Whether this service account may."""
        with self._request():
            return await self._api.allowed(review)


class CrashingKube(InterceptedKube):
    """Dies once, at request `die_at` (the first is 1; 0: never)."""

    def __init__(self, api: KubeApi, die_at: int = 0, *, after: bool = False) -> None:
        super().__init__(api)
        self._die_at = die_at
        self._after = after

    def before(self) -> None:
        """Die, if it is time and the request shall not take effect."""
        if self.requests == self._die_at and not self._after:
            raise Died

    def after(self) -> None:
        """Die, if it is time and the request shall have taken effect."""
        if self.requests == self._die_at and self._after:
            raise Died


class FlakyKube(InterceptedKube):
    """Loses the share `loss` of all requests, and of all answers."""

    def __init__(self, api: KubeApi, rng: random.Random, loss: float) -> None:
        super().__init__(api)
        self._rng = rng
        self._loss = loss

    def before(self) -> None:
        """Lose the request."""
        if self._rng.random() < self._loss:
            raise KubeUnavailable("the request got lost")

    def after(self) -> None:
        """Lose the answer."""
        if self._rng.random() < self._loss:
            raise KubeUnavailable("the answer got lost")
