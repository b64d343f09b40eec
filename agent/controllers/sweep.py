"""Looking after what objects left that are gone: at the start, and now and then (contract §2.5, last row)."""

from __future__ import annotations

import random
from typing import Protocol

import structlog

from agent.base.clock import Clock
from agent.base.errors import KubeError
from agent.exposers.leftovers import SweepReport

_FIRST_SECONDS = 30.0
_PERIOD_SECONDS = 1800.0
_log = structlog.stdlib.get_logger(__name__)


class Leftovers(Protocol):
    """What exposers made and nobody removed."""

    async def sweep(self) -> SweepReport:
        """Have what belongs to objects that are over removed. May raise `KubeError`."""
        ...


async def keep_swept(leftovers: Leftovers, clock: Clock, rng: random.Random) -> None:
    """Sweep until canceled. All agents do, at different times; what another one removed first is no error."""
    wait = _FIRST_SECONDS
    while True:
        await clock.sleep(wait * (0.5 + rng.random()))
        wait = _PERIOD_SECONDS
        try:
            report = await leftovers.sweep()
        except KubeError as error:
            _log.warning("cannot look for leftovers", error=str(error), code=error.code)
            continue
        if report.going:
            _log.info("removing what objects left that are over", left=report.going)
