"""Agents that all may accept an object: who loses one claim does not make the next at once."""

from __future__ import annotations

import random

import pytest

from agent.base.errors import KubeConflict
from agent.controllers.claims import Claims
from agent.kube.codec import JsonObject
from agent.kube.resource import DATA_UPLOADS
from agent.testing.clock import VirtualClock
from tests.unit.controllers.controllers_kit import NODES, Cluster


def lose(claims: Claims) -> None:
    with pytest.raises(KubeConflict), claims.trying():
        raise KubeConflict("somebody was faster")


async def test_each_claim_that_is_lost_in_a_row_is_waited_after_for_longer_until_one_is_won() -> None:
    clock = VirtualClock()
    claims = Claims(clock)
    assert claims.not_before < clock.monotonic()
    waits = []
    for _ in range(6):
        lose(claims)
        waits.append(claims.not_before - clock.monotonic())
        await clock.sleep(waits[-1])
    assert waits == [1, 2, 4, 8, 16, 16]
    with claims.trying():
        pass
    assert claims.not_before == clock.monotonic(), "whoever wins goes on at once"
    lose(claims)
    assert claims.not_before == clock.monotonic() + 1


async def test_an_agent_that_lost_one_object_lets_others_have_the_next() -> None:
    cluster, accepted = Cluster(random.Random(1)), list[float]()

    def observe(_: str, before: JsonObject | None, after: JsonObject | None) -> None:
        status = (after or {}).get("status")
        if isinstance(status, dict) and status.get("phase") == "Accepted":
            accepted.append(cluster.clock.monotonic())

    cluster.kube.observers.append(observe)
    for number in range(20):
        await cluster.upload(f"u{number}")
    cluster.kube.fail("patch", DATA_UPLOADS.name, KubeConflict("somebody was faster"), times=1)
    cluster.start_agent(NODES[0])
    await cluster.run(10)
    began = min(accepted)
    assert began >= 1.0
    assert len(set(accepted)) == 20, "they are spread again, not asked for all at once"
    await cluster.stop()
