"""Sweeps of what agents left behind, counted."""

from __future__ import annotations

import msgspec

from agent.base.errors import KubeError
from agent.controllers.sweep import Leftovers
from agent.exposers.leftovers import SweepReport
from agent.observe.metrics import Metrics


class CountedSweeps(msgspec.Struct, frozen=True):
    """`Leftovers` whose sweeps are in the metrics."""

    inner: Leftovers
    metrics: Metrics

    async def sweep(self) -> SweepReport:
        """Sweep. May raise `KubeError`."""
        try:
            report = await self.inner.sweep()
        except KubeError:
            self.metrics.swept(failed=True)
            raise
        self.metrics.swept()
        for one in report.going:
            self.metrics.orphan_removed(one.split(" ", 1)[0])
        return report
