"""Looking now and then for what agents left behind, and counting what was found."""

from __future__ import annotations

import random
from typing import Protocol

import structlog

from agent.base.clock import Clock
from agent.base.errors import KubeError
from agent.exposers.leftovers import SweepReport
from agent.observe.metrics import Metrics

_FIRST_SECONDS = 30.0
_SECONDS = 600.0
_log = structlog.stdlib.get_logger(__name__)


class Sweeper(Protocol):
    """`agent.exposers.leftovers.Leftovers`."""

    async def sweep(self) -> SweepReport:
        """Find and remove; may raise `KubeError`."""
        ...


async def keep_swept(sweeper: Sweeper, metrics: Metrics, clock: Clock, rng: random.Random) -> None:
    """Sweep until canceled. All agents do, at different times."""
    wait = _FIRST_SECONDS
    while True:
        await clock.sleep(wait * (0.5 + rng.random()))
        wait = _SECONDS
        try:
            report = await sweeper.sweep()
        except KubeError as error:
            metrics.swept(failed=True)
            _log.warning("cannot look for what was left behind", error=str(error), code=error.code)
            continue
        metrics.swept()
        for one in report.going:
            metrics.orphan_removed(one.split(" ", 1)[0])
