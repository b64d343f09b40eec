"""Which jobs of a node run at once: at most so many, in so much memory, fair between namespaces.

A job that may run asks with `acquire`; one that may not yet is remembered and its `wake` is called when it is its turn.
Nothing is granted while it sleeps: a level-triggered caller asks again. Slots are kept by key, so asking twice is
harmless, and a restarted agent that finds its jobs running takes slots beyond the limit rather than stop them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from itertools import count

import msgspec


class _Waiter(msgspec.Struct, frozen=True):
    namespace: str
    priority: int
    order: int
    wake: Callable[[], None]


class Slots:
    """The slots of one node, on one event loop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running: dict[Hashable, str] = {}
        self._waiting: dict[Hashable, _Waiter] = {}
        self._order = count()

    @property
    def running(self) -> int:
        """Slots taken."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Jobs that could start."""
        return len(self._waiting)

    def is_waiting(self, key: Hashable) -> bool:
        """Whether `key` could start and has no slot."""
        return key in self._waiting

    def is_next(self, key: Hashable) -> bool:
        """Whether `key` would be given a slot if it asked now."""
        return key in self._waiting and len(self._running) < self._limit and self._next() == key

    def set_limit(self, limit: int) -> None:
        """From now on; no running job is stopped."""
        self._limit = limit
        self._wake_next()

    def acquire(self, key: Hashable, namespace: str, wake: Callable[[], None], *, priority: int = 0) -> bool:
        """Whether `key` has a slot. If not, `wake` is called when it should ask again. Higher priorities go first."""
        if key in self._running:
            return True
        if key not in self._waiting:
            self._waiting[key] = _Waiter(namespace, priority, next(self._order), wake)
        if len(self._running) >= self._limit or self._next() != key:
            return False
        del self._waiting[key]
        self._running[key] = namespace
        self._wake_next()
        return True

    def take(self, key: Hashable, namespace: str) -> None:
        """A slot for a job that runs already, whatever the limit."""
        self._waiting.pop(key, None)
        self._running[key] = namespace

    def withdraw(self, key: Hashable) -> None:
        """`key` cannot start at the moment: others go first until it asks again. Harmless when it runs."""
        if self._waiting.pop(key, None) is not None:
            self._wake_next()

    def release(self, key: Hashable) -> None:
        """`key` neither runs nor waits any more. Harmless when it did not."""
        self._waiting.pop(key, None)
        self._running.pop(key, None)
        self._wake_next()

    def _next(self) -> Hashable:
        """Who goes first: the highest priority, then the namespace with the fewest running jobs, then the oldest."""
        busy = Counter(self._running.values())
        return min(
            self._waiting,
            key=lambda key: (
                -self._waiting[key].priority,
                busy[self._waiting[key].namespace],
                self._waiting[key].order,
            ),
        )

    def _wake_next(self) -> None:
        if self._waiting and len(self._running) < self._limit:
            self._waiting[self._next()].wake()
