"""How long to wait after the nth failure in a row: exponential, capped, jittered. Randomness is passed in."""

from __future__ import annotations

import random

import msgspec

_MAX_DOUBLINGS = 32


class Backoff(msgspec.Struct, frozen=True):
    """`first * 2**(n-1)` seconds up to `cap`, of which up to the share `jitter` is taken off at random."""

    first: float
    cap: float
    jitter: float = 0.5

    def delay(self, failures: int, rng: random.Random) -> float:
        """Seconds to wait after `failures` (1 or more) failures in a row."""
        whole = min(self.cap, self.first * 2.0 ** min(failures - 1, _MAX_DOUBLINGS))
        return whole * (1 - self.jitter * rng.random())
