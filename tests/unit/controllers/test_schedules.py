"""Hundreds of histories: agents die, the API server is away, objects are canceled, and everything still ends.

First each event in each phase of each kind, then many of them at random.

One seed is one history, exactly: `CONTROLLER_SEED=123 pytest tests/unit/controllers/test_schedules.py` repeats one.
"""

from __future__ import annotations

import os

import pytest

from agent.testing.virtual_loop import VirtualLoop
from tests.unit.controllers.controllers_kit import Server
from tests.unit.controllers.schedules_kit import EVENTS, KINDS, PHASES, Schedule

COUNT = 300
PARTS = 10


def play(seed: int) -> Schedule:
    with VirtualLoop() as loop:
        schedule = Schedule(seed, loop)
        loop.run_until_complete(schedule.run())
    return schedule


def _seeds(part: int) -> list[int]:
    given = os.environ.get("CONTROLLER_SEED")
    if given:
        return [int(given)] if part == 0 else []
    return list(range(part, COUNT, PARTS))


@pytest.mark.check(17, 18, 20, 24, 25)
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase or "New")
def test_whatever_happens_in_a_phase_every_object_ends_once_and_nothing_is_left(phase: str, event: str) -> None:
    for kind in KINDS:
        with VirtualLoop() as loop:
            schedule = Schedule(1, loop, Server(18))
            happened = loop.run_until_complete(schedule.run_case(kind, phase, event))
        assert happened, f"the {kind} was never {phase or 'New'}"
        if schedule.wrong:
            pytest.fail("\n  ".join(["; ".join(schedule.wrong), *schedule.log]), pytrace=False)


@pytest.mark.check(24, 25, 37)
@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_happens_every_object_ends_once_and_nothing_is_left(part: int) -> None:
    for seed in _seeds(part):
        schedule = play(seed)
        if schedule.wrong:
            story = "\n  ".join(["", *schedule.log])
            pytest.fail(f"{'; '.join(schedule.wrong)}\nCONTROLLER_SEED={seed}{story}", pytrace=False)


def test_a_seed_repeats_its_history() -> None:
    assert play(7).log == play(7).log
