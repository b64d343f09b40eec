"""What agents left behind is looked for at the start, and now and then."""

from __future__ import annotations

import random

from agent.base.errors import KubeUnavailable
from agent.exposers.leftovers import SweepReport
from agent.observe.metrics import Metrics
from agent.server.sweeping import keep_swept
from tests.unit.server.server_kit import World


class Broom:
    def __init__(self) -> None:
        self.sweeps = 0

    async def sweep(self) -> SweepReport:
        self.sweeps += 1
        if self.sweeps == 2:
            raise KubeUnavailable("away")
        return SweepReport(("PersistentVolume pv-1",) if self.sweeps == 1 else ())


async def test_sweeps_go_on_after_an_error_and_are_counted() -> None:
    world, broom = World(), Broom()
    metrics = Metrics("node-a", world.clock)
    async with world.running(keep_swept(broom, metrics, world.clock, random.Random(1))):
        await world.clock.sleep(60)
        assert broom.sweeps == 1
        await world.clock.sleep(2_000)
    assert broom.sweeps >= 3
    text = metrics.render()
    assert b'lighterage_orphan_sweeps_total{outcome="failed"} 1.0' in text
    assert b'lighterage_orphans_removed_total{resource="PersistentVolume"} 1.0' in text
