"""How fast bytes may pass: token buckets that providers ask before each piece they send or read.

Bytes are paced where they meet the wire or the disk, inside the providers, so that a large body is spread over the time
it may take instead of waiting and then bursting. `limit` owns the same object and changes its rates while work runs.
"""

from __future__ import annotations

import asyncio

from agent.base.clock import Clock
from agent.base.hold import Hold

_GRAIN = 0.125
"""Seconds' worth that are worth waiting for: smaller pieces cost more than they smooth."""
_SAVED = 0.5
"""Seconds' worth that may be saved up: little enough that no five seconds pass a tenth more than they may."""
_SHORTEST_WAIT = 0.001
_LONGEST_WAIT = 1.0
_DUST = 1e-6
"""Less than this is a rounding error, not a token."""


class TokenBucket:
    """Lets `rate` tokens a second pass (0: all), at most half a second's worth at once. First come, first served.

    In any span of t seconds no more than `rate` × (t + ½) tokens pass, or one more. None pass while `hold` is closed.
    """

    def __init__(self, rate: float, clock: Clock, hold: Hold | None = None) -> None:
        self._clock = clock
        self._hold = hold or Hold()
        self._rate = rate
        self._tokens = self._capacity()
        self._filled = clock.monotonic()
        self._turn = asyncio.Lock()

    @property
    def rate(self) -> float:
        """Tokens a second, 0 without a limit. May be read by any thread."""
        return self._rate

    def set_rate(self, rate: float) -> None:
        """From now on; who waits notices within a second."""
        self._fill()
        if self._rate <= 0:
            self._tokens = 0.0  # nothing was saved while everything could pass
        self._rate = rate
        self._tokens = min(self._tokens, self._capacity())

    async def allow(self, wanted: int) -> int:
        """Wait until some of `wanted` tokens may pass; how many, at least one unless none were wanted.

        Everything at once without a limit, else about an eighth of a second's worth or more.
        """
        await self._hold.passed()
        if self._rate <= 0 or wanted <= 0:
            return wanted
        async with self._turn:
            while self._rate > 0:
                await self._hold.passed()
                self._fill()
                least = min(wanted, max(self._rate * _GRAIN, 1.0))
                if self._tokens + _DUST >= least:
                    granted = min(wanted, int(self._tokens + _DUST))
                    self._tokens -= granted
                    return granted
                # in steps, so that a new rate counts soon
                wait = (least - self._tokens) / self._rate
                await self._clock.sleep(min(max(wait, _SHORTEST_WAIT), _LONGEST_WAIT))
        return wanted

    def give_back(self, unused: int) -> None:
        """Tokens that were allowed but did not pass."""
        if self._rate > 0 and unused:
            self._tokens = min(self._tokens + unused, self._capacity())

    def _capacity(self) -> float:
        return max(self._rate * _SAVED, 1.0)

    def _fill(self) -> None:
        now = self._clock.monotonic()
        self._tokens = min(self._tokens + (now - self._filled) * self._rate, self._capacity())
        self._filled = now


class Pace:
    """Both directions of one storage. Rates in bytes a second, 0: no limit."""

    def __init__(
        self, clock: Clock, *, upload_bytes: float = 0, download_bytes: float = 0, hold: Hold | None = None
    ) -> None:
        self.hold = hold or Hold()
        """Nothing passes while it is closed."""
        self.upload = TokenBucket(upload_bytes, clock, self.hold)
        self.download = TokenBucket(download_bytes, clock, self.hold)

    def set_rates(self, *, upload_bytes: float, download_bytes: float) -> None:
        """From now on, also for bodies that are on their way."""
        self.upload.set_rate(upload_bytes)
        self.download.set_rate(download_bytes)
