"""Sweeps of what agents left behind are counted, the failed ones too."""

from __future__ import annotations

import pytest

from agent.base.errors import KubeUnavailable
from agent.exposers.leftovers import SweepReport
from agent.observe.metrics import Metrics
from agent.server.sweeping import CountedSweeps
from agent.testing.clock import VirtualClock


class Broom:
    def __init__(self) -> None:
        self.sweeps = 0

    async def sweep(self) -> SweepReport:
        self.sweeps += 1
        if self.sweeps == 2:
            raise KubeUnavailable("away")
        return SweepReport(("PersistentVolume pv-1", "Pod velero/du-1"))


async def test_what_was_found_and_what_failed_is_in_the_metrics() -> None:
    metrics = Metrics("node-a", VirtualClock())
    counted = CountedSweeps(Broom(), metrics)
    assert len((await counted.sweep()).going) == 2
    with pytest.raises(KubeUnavailable):
        await counted.sweep()
    text = metrics.render()
    assert b'lighterage_orphan_sweeps_total{outcome="done"} 1.0' in text
    assert b'lighterage_orphan_sweeps_total{outcome="failed"} 1.0' in text
    assert b'lighterage_orphans_removed_total{resource="PersistentVolume"} 1.0' in text
