"""Which objects to look at next: each key at most once in the queue and at most once in work.

Informers and timers add keys; workers take one, look at the world, and say `done`. A key added while in work comes back
afterwards. Failures come back with exponential delay, per key. Memory is bounded by the number of different keys.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from itertools import count

from agent.base.clock import Clock
from agent.kube.backoff import Backoff
from agent.kube.meta import Key
from agent.kube.wait import wait_for_event

DEFAULT_BACKOFF = Backoff(first=0.5, cap=30.0)


class WorkQueue:
    """A queue of keys for any number of workers on one event loop.

    `run` has to run (in the owner's task group) for delayed keys to arrive; it ends after `close`.
    """

    def __init__(self, clock: Clock, rng: random.Random, backoff: Backoff = DEFAULT_BACKOFF) -> None:
        self._clock = clock
        self._rng = rng
        self._backoff = backoff
        self._ready: deque[Key] = deque()
        self._waiting: set[Key] = set()
        self._in_work: set[Key] = set()
        self._again: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._delayed: list[tuple[float, int, Key]] = []
        self._due: dict[Key, float] = {}
        self._order = count()
        self._closed = False
        self._timer = asyncio.Event()
        self._wakers: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        """Keys ready to be taken."""
        return len(self._ready)

    def add(self, key: Key) -> None:
        """Have `key` looked at soon. Without effect once closed."""
        if self._closed or key in self._waiting:
            return
        if key in self._in_work:
            self._again.add(key)
            return
        self._put(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Have `key` looked at in `seconds`; of several delays of one key the earliest counts."""
        if self._closed:
            return
        if seconds <= 0:
            self.add(key)
            return
        due = self._clock.monotonic() + seconds
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._delayed, (due, next(self._order), key))
            self._timer.set()

    def retry(self, key: Key, *, at_least: float = 0.0) -> None:
        """Have `key` looked at again after its back-off, which grows with each call until `forget`."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        self.add_after(key, max(at_least, self._backoff.delay(failures, self._rng)))

    def forget(self, key: Key) -> None:
        """The last look at `key` went well: its next failure waits shortly again."""
        self._failures.pop(key, None)

    async def get(self) -> Key | None:
        """The next key, which is then in work until `done`; None when the queue is closed and drained."""
        while not self._ready:
            if self._closed and not self._again:
                return None
            waker = asyncio.get_running_loop().create_future()
            self._wakers.append(waker)
            try:
                await waker
            except asyncio.CancelledError:
                if waker.done() and not waker.cancelled():
                    self._wake()
                raise
        key = self._ready.popleft()
        self._waiting.discard(key)
        self._in_work.add(key)
        return key

    def done(self, key: Key) -> None:
        """The look at `key` is over; it comes back at once if it was added meanwhile."""
        self._in_work.discard(key)
        if key in self._again:
            self._again.discard(key)
            self._put(key)
        if self._closed:
            self._wake_all()

    def close(self) -> None:
        """Take no more keys; workers drain what is ready, delayed keys are dropped."""
        self._closed = True
        self._delayed.clear()
        self._due.clear()
        self._timer.set()
        self._wake_all()

    async def run(self) -> None:
        """Move delayed keys into the queue when their time has come, until closed."""
        while not self._closed:
            self._timer.clear()
            now = self._clock.monotonic()
            while self._delayed and self._delayed[0][0] <= now:
                due, _, key = heapq.heappop(self._delayed)
                if self._due.get(key) == due:
                    del self._due[key]
                    self.add(key)
            if self._delayed:
                await wait_for_event(self._clock, self._timer, self._delayed[0][0] - now)
            else:
                await self._timer.wait()

    def _put(self, key: Key) -> None:
        self._ready.append(key)
        self._waiting.add(key)
        self._wake()

    def _wake(self) -> None:
        while self._wakers:
            waker = self._wakers.popleft()
            if not waker.done():
                waker.set_result(None)
                return

    def _wake_all(self) -> None:
        while self._wakers:
            self._wake()
