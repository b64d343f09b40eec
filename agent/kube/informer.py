"""What the cluster holds of one kind, kept up to date: list, watch, and tell handlers which keys changed.

Handlers get keys only and read the store: what woke them says nothing about the world (level-triggered). Its
owner runs `run` in its task group and gives `WorkQueue.add` as a handler. The store never holds more than the cluster
does; events are taken one at a time, so a slow loop slows the watch down and nothing piles up here.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from typing import Generic

import msgspec

from agent.base.clock import Clock
from agent.base.errors import KubeError, KubeGone, KubeUnavailable
from agent.kube.api import PAGE_SIZE, EventType, KubeApi, Unreadable, WatchEvent
from agent.kube.backoff import Backoff
from agent.kube.codec import ObjectT
from agent.kube.meta import Key
from agent.kube.resource import Resource
from agent.kube.selector import EVERYTHING, Selector

_SHORT_WATCH_SECONDS = 1.0
DEFAULT_BACKOFF = Backoff(first=0.5, cap=30.0)


class Store(Generic[ObjectT]):
    """Objects by key and by index; only its informer writes."""

    def __init__(self, indexes: Mapping[str, Callable[[ObjectT], Iterable[str]]]) -> None:
        self._objects: dict[Key, ObjectT] = {}
        self._index_of = indexes
        self._indexed: dict[str, dict[str, dict[Key, None]]] = {name: defaultdict(dict) for name in indexes}

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[ObjectT]:
        return iter(list(self._objects.values()))

    def get(self, key: Key) -> ObjectT | None:
        """The object as it was last seen; None when there is none."""
        return self._objects.get(key)

    def keys(self) -> list[Key]:
        """The keys of all objects."""
        return list(self._objects)

    def by_index(self, index: str, value: str) -> list[ObjectT]:
        """The objects for which the index function `index` gave `value`; `KeyError` for an unknown index."""
        return [self._objects[key] for key in self._indexed[index].get(value, ())]

    def _put(self, obj: ObjectT) -> None:
        self._remove(obj.key)
        self._objects[obj.key] = obj
        for name, function in self._index_of.items():
            for value in function(obj):
                self._indexed[name][value][obj.key] = None

    def _remove(self, key: Key) -> bool:
        old = self._objects.pop(key, None)
        if old is None:
            return False
        for name, function in self._index_of.items():
            for value in function(old):
                keys = self._indexed[name][value]
                keys.pop(key, None)
                if not keys:
                    del self._indexed[name][value]
        return True


def label_index(label: str) -> Callable[[ObjectT], Iterable[str]]:
    """An index function: objects by the value of a label."""

    def values(obj: ObjectT) -> Iterable[str]:
        value = obj.metadata.labels.get(label)
        return () if value is None else (value,)

    return values


class InformerOptions(msgspec.Struct, frozen=True):
    """Times in seconds."""

    resync: float = 300.0
    """Every key is told again this often, so that no lost wake-up lasts."""
    watch_timeout: float = 300.0
    """A watch is renewed after this, plus up to half of it at random."""
    page_size: int = PAGE_SIZE
    backoff: Backoff = DEFAULT_BACKOFF


class Informer(Generic[ObjectT]):
    """The objects of one kind in one namespace (or all), and who wants to know of them."""

    def __init__(
        self,
        api: KubeApi,
        resource: Resource[ObjectT],
        clock: Clock,
        rng: random.Random,
        *,
        namespace: str = "",
        selector: Selector = EVERYTHING,
        indexes: Mapping[str, Callable[[ObjectT], Iterable[str]]] | None = None,
        options: InformerOptions | None = None,
    ) -> None:
        self._api = api
        self._resource = resource
        self._clock = clock
        self._rng = rng
        self._namespace = namespace
        self._selector = selector
        self._options = options or InformerOptions()
        self._handlers: list[Callable[[Key], None]] = []
        self._synced = asyncio.Event()
        self._resource_version = ""
        self._failures = 0
        self.store: Store[ObjectT] = Store(indexes or {})
        self.unreadable: dict[Key, Unreadable] = {}
        """Objects that are there but cannot be understood; they are not in the store."""
        self.last_error: KubeError | None = None
        """Why the store may be behind; None while list and watch work."""

    def add_handler(self, handler: Callable[[Key], None]) -> None:
        """Call `handler` with each key that appeared, changed or went, and at each resync. It must not block."""
        self._handlers.append(handler)

    @property
    def is_synced(self) -> bool:
        """Whether the store held a complete list once."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        """Wait until the store holds a first complete list."""
        await self._synced.wait()

    async def run(self) -> None:
        """Keep the store up to date until canceled. Errors of the API server are survived and kept in `last_error`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._resync())
            group.create_task(self._follow())

    async def _resync(self) -> None:
        while True:
            await self._clock.sleep(self._options.resync)
            for obj in self.store:
                self._tell(obj.key)

    async def _follow(self) -> None:
        while True:
            try:
                if not self._resource_version:
                    await self._list()
                started = self._clock.monotonic()
                moved = await self._watch()
            except KubeError as error:
                await self._failed(error)
                continue
            if moved or self._clock.monotonic() - started >= _SHORT_WATCH_SECONDS:
                self._worked()
            else:  # whoever ends watches at once must not be asked in a hot loop
                await self._pause(0.0)

    async def _list(self) -> None:
        """Take over a complete list: what is not in it is gone."""
        seen: set[Key] = set()
        token = ""
        while True:
            page = await self._api.list(
                self._resource,
                self._namespace,
                selector=self._selector,
                limit=self._options.page_size,
                continue_token=token,
            )
            items: list[ObjectT | Unreadable] = [*page.items, *page.unreadable]
            for item in items:
                seen.add(item.key)
                self._take(item)
            token = page.continue_token
            if not token:
                break
        for key in [*self.store.keys(), *self.unreadable]:
            if key not in seen:
                self._drop(key)
        self._resource_version = page.resource_version
        self._synced.set()

    async def _watch(self) -> bool:
        """Follow one watch to its end; whether it told anything."""
        moved = False
        events = self._api.watch(
            self._resource,
            self._namespace,
            resource_version=self._resource_version,
            selector=self._selector,
            timeout=self._options.watch_timeout * (1 + 0.5 * self._rng.random()),
        )
        async with aclosing(events) as stream:
            async for event in stream:
                self._apply(event)
                self._resource_version = event.resource_version
                if not moved:
                    moved = True
                    self._worked()
        return moved

    def _apply(self, event: WatchEvent[ObjectT]) -> None:
        if event.item is None:  # a bookmark
            return
        if event.type is EventType.DELETED:
            self._drop(event.item.key)
        else:
            self._take(event.item)

    def _take(self, item: ObjectT | Unreadable) -> None:
        if isinstance(item, Unreadable):
            self.store._remove(item.key)
            self.unreadable[item.key] = item
            self._tell(item.key)
            return
        self.unreadable.pop(item.key, None)
        known = self.store.get(item.key)
        same = (
            known is not None
            and known.metadata.resource_version == item.metadata.resource_version
            and known.metadata.uid == item.metadata.uid
        )
        if not same:
            self.store._put(item)
            self._tell(item.key)

    def _drop(self, key: Key) -> None:
        was_unreadable = self.unreadable.pop(key, None) is not None
        if self.store._remove(key) or was_unreadable:
            self._tell(key)

    def _tell(self, key: Key) -> None:
        for handler in self._handlers:
            handler(key)

    def _worked(self) -> None:
        self._failures = 0
        self.last_error = None

    async def _failed(self, error: KubeError) -> None:
        self.last_error = error
        if isinstance(error, KubeGone):
            self._resource_version = ""
        await self._pause((error.retry_after or 0.0) if isinstance(error, KubeUnavailable) else 0.0)

    async def _pause(self, at_least: float) -> None:
        self._failures += 1
        await self._clock.sleep(max(at_least, self._options.backoff.delay(self._failures, self._rng)))
