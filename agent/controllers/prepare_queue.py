"""How many objects are exposed at once in the whole namespace (`prepareQueueLength`), fair between namespaces.

A soft limit, as in the stock agent: each agent counts the labels that it sees, and what it has just decided itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from agent.base.clock import Clock
from agent.controllers.moving import JobId

_ASKS_AGAIN_SECONDS = 20.0
"""Who has not asked again for so long does not wait any more."""


class _Asked(msgspec.Struct, frozen=True):
    namespace: str
    at: float


class PrepareQueue:
    """The queue as one agent sees it. `exposing` gives the objects that are being exposed, with their namespaces."""

    def __init__(self, length: int, clock: Clock, exposing: Callable[[], Iterable[tuple[JobId, str]]]) -> None:
        self._length = length
        self._clock = clock
        self._exposing = exposing
        self._admitted: dict[JobId, str] = {}
        self._asked: dict[JobId, _Asked] = {}

    def set_length(self, length: int) -> None:
        """From now on; 0: any number."""
        self._length = length

    def admit(self, job: JobId, namespace: str) -> bool:
        """Whether a new object may be exposed; it counts from now on although no store shows that yet.

        One that may not asks again: of those that do, the namespace with the fewest goes first.
        """
        if not self._length:
            return True
        now = self._clock.monotonic()
        self._asked = {one: asked for one, asked in self._asked.items() if now - asked.at < _ASKS_AGAIN_SECONDS}
        self._asked[job] = _Asked(namespace, now)
        counted = {**dict(self._exposing()), **self._admitted}
        counted.pop(job, None)
        if len(counted) >= self._length:
            return False
        busy = Counter(counted.values())
        if self._length - len(counted) < len(self._asked):
            fewest = min(busy[asked.namespace] for asked in self._asked.values())
            if busy[namespace] > fewest:
                return False
        self._admitted[job] = namespace
        self._asked.pop(job)
        return True

    def settle(self, job: JobId) -> None:
        """The object is not new any more, was not to be had, or is gone: from here on its label counts."""
        self._admitted.pop(job, None)
        self._asked.pop(job, None)
