"""RFC 3339 times with nanoseconds, as Go writes and reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.base.times import MAX_NS, MIN_NS, format_rfc3339, parse_rfc3339


@given(st.integers(MIN_NS, MAX_NS))
def test_every_time_survives_the_round_trip(ns: int) -> None:
    assert parse_rfc3339(format_rfc3339(ns)) == ns


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-01-18T02:09:24.00967874Z", 1768702164009678740),
        ("1754-08-30T22:43:41.128654848Z", -6795364578871345152),
        ("2026-01-01T01:00:00+01:00", 1767225600000000000),
        ("2026-01-01T00:00:00.1234567899Z", 1767225600123456789),
        ("0001-01-01T00:00:00Z", MIN_NS),
    ],
)
def test_known_times(text: str, ns: int) -> None:
    assert parse_rfc3339(text) == ns


@pytest.mark.parametrize("text", ["", "2026-02-30T00:00:00Z", "2026-01-01", "2026-01-01T25:00:00Z", "x" * 10_000])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_rfc3339(text)
