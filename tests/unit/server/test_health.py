"""When an agent says that it is ready, and when that it had better be restarted."""

from __future__ import annotations

from agent.server.health import Health
from agent.testing.clock import VirtualClock


def _health(*, sees: bool, hears: bool) -> Health:
    return Health(VirtualClock(), state="", sees_objects=lambda: sees, hears_the_server=lambda: hears)


def test_an_agent_that_starts_is_healthy_and_not_ready() -> None:
    health = Health(VirtualClock())
    assert health.unready() == "the agent starts"
    assert health.unhealthy() == ""


def test_an_agent_that_sees_its_objects_is_ready() -> None:
    health = _health(sees=True, hears=True)
    assert health.unready() == ""
    assert health.unhealthy() == ""


def test_an_api_server_that_is_away_is_no_reason_to_restart() -> None:
    clock = VirtualClock()
    for sees in (True, False):
        health = Health(clock, state="", sees_objects=lambda sees=sees: sees, hears_the_server=lambda: False)  # type: ignore[misc]
        assert health.unready()
        assert health.unhealthy() == ""
        clock.advance(3_600)
        assert health.unhealthy() == ""


def test_an_agent_that_hears_the_api_server_and_sees_nothing_for_long_is_stuck() -> None:
    clock = VirtualClock()
    health = Health(clock, state="", sees_objects=lambda: False, hears_the_server=lambda: True)
    assert health.unhealthy() == ""
    clock.advance(590)
    assert health.unhealthy() == ""
    clock.advance(20)
    assert "not seen for 610 s" in health.unhealthy()
