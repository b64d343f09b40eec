"""How soon an agent tries to accept what any agent may: later while it loses, so that many do not all ask in vain.

A lost claim says that what this agent sees is behind, and so will be the next one: fifty agents that find thousands of
new objects would ask fifty times for each. Whoever wins goes on at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from agent.base.clock import Clock
from agent.base.errors import KubeConflict

_FIRST_SECONDS = 1.0
_MAX_DOUBLINGS = 4


class Claims:
    """Those of one agent."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lost = 0
        self.not_before = -math.inf
        """The monotonic time of the next one."""

    @contextmanager
    def trying(self) -> Iterator[None]:
        """Around one; `KubeConflict` out of it means that it was lost."""
        try:
            yield
        except KubeConflict:
            pause = _FIRST_SECONDS * 2.0 ** min(self._lost, _MAX_DOUBLINGS)
            self.not_before = max(self.not_before, self._clock.monotonic() + pause)
            self._lost += 1
            raise
        self._lost = 0
