"""Virtual time: a `Clock` that stands still until something waits for it.

Nothing sleeps for real: when every task of the loop waits and at least one of them for time, time jumps to the earliest
of these. Tests then assert on how much virtual time has gone by.
"""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

START_NS = 1_767_225_600_000_000_000
"""2026-01-01T00:00:00Z."""

_SETTLING_ROUNDS = 20
_MOST_ROUNDS = 1_000


class VirtualClock:
    """A `Clock` for one event loop. With `jump=False` only `advance` moves it."""

    def __init__(self, start_ns: int = START_NS, *, jump: bool = True) -> None:
        self._start_ns = start_ns
        self._now = 0
        self._jump = jump
        self._order = count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._settling = False

    def now_ns(self) -> int:
        """Virtual unix time in nanoseconds."""
        return self._start_ns + self._now

    def monotonic(self) -> float:
        """Virtual seconds since the clock was made."""
        return self._now / 1e9

    def advance(self, seconds: float) -> None:
        """Move time forward and wake who waited for it."""
        self._move_to(self._now + round(seconds * 1e9))

    async def sleep(self, seconds: float) -> None:
        """Wait until virtual time has gone on by `seconds`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (self._now + round(seconds * 1e9), next(self._order), future))
        if self._jump and not self._settling:
            self._settle(0)
        await future

    def _settle(self, rounds: int) -> None:
        """Let what can run without time run first, then jump; what never stops running does not stop time."""
        loop = asyncio.get_running_loop()
        busy = rounds < _MOST_ROUNDS and bool(getattr(loop, "_ready", ()))  # only asyncio's own loops tell
        self._settling = rounds < _SETTLING_ROUNDS or busy
        if self._settling:
            loop.call_soon(self._settle, rounds + 1)
            return
        while self._waiting and self._waiting[0][2].done():  # canceled
            heapq.heappop(self._waiting)
        if self._waiting:
            self._move_to(self._waiting[0][0])
        if self._waiting:
            self._settle(0)

    def _move_to(self, moment: int) -> None:
        self._now = max(self._now, moment)
        while self._waiting and self._waiting[0][0] <= self._now:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)
