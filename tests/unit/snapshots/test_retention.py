"""Retention: kopia's own cases, its oddities, and properties."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.base.times import format_rfc3339, parse_rfc3339
from agent.snapshots.retention import DEFAULT_RULES, Candidate, RetentionRules, _months_ago, judge

NS = 10**9


def candidate(time: str, *, complete: bool = True, pinned: bool = False) -> Candidate:
    ns = parse_rfc3339(time)
    return Candidate(time, ns, ns, complete, pinned)


def reasons_by_time(rules: RetentionRules, times: list[str]) -> dict[str, list[str]]:
    candidates = [candidate(t.removeprefix("incomplete-"), complete=not t.startswith("incomplete-")) for t in times]
    found = {v.candidate.snapshot_id: list(v.reasons) for v in judge(rules, candidates)}
    return {t: found[t.removeprefix("incomplete-")] for t in times}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        pytest.param(
            RetentionRules(),
            {"2020-01-01T12:00:00Z": ["latest-2"], "2020-01-01T12:01:00Z": ["latest-1"]},
            id="no rule keeps everything",
        ),
        pytest.param(
            RetentionRules(keep_latest=2),
            {
                "2020-01-01T12:00:00Z": [],
                "2020-01-01T12:01:00Z": ["latest-2"],
                "2020-01-01T12:02:00Z": ["latest-1"],
            },
            id="latest",
        ),
        pytest.param(
            RetentionRules(keep_daily=3),
            {
                "2020-01-01T12:00:00Z": [],
                "2020-01-01T15:00:00Z": [],
                "2020-01-02T12:00:00Z": [],
                "2020-01-02T15:00:00Z": ["daily-3"],
                "2020-01-03T15:00:00Z": ["daily-2"],
                "2020-01-04T12:00:00Z": [],
                "2020-01-04T15:00:00Z": ["daily-1"],
            },
            id="the newest of a day, counted back from the newest snapshot",
        ),
        pytest.param(
            RetentionRules(keep_monthly=3),
            {
                "2020-01-01T12:00:00Z": [],
                "2020-03-02T15:00:00Z": ["monthly-2"],
                "2020-04-01T12:00:00Z": [],
                "2020-04-02T15:00:00Z": ["monthly-1"],
            },
            id="a month without a snapshot still counts",
        ),
        pytest.param(
            RetentionRules(keep_latest=3, keep_hourly=7, keep_daily=5, keep_monthly=2),
            {
                "2020-03-01T12:00:00Z": [],
                "2020-03-02T15:00:00Z": ["monthly-2"],
                "2020-04-01T14:00:00Z": [],
                "2020-04-01T15:00:00Z": ["daily-2"],
                "2020-04-02T12:00:00Z": ["latest-3", "hourly-3"],
                "2020-04-02T13:00:00Z": ["latest-2", "hourly-2"],
                "2020-04-02T15:00:00Z": ["latest-1", "hourly-1", "daily-1", "monthly-1"],
                "incomplete-2020-04-02T19:01:00Z": [],
                "incomplete-2020-04-02T20:01:00Z": ["incomplete"],
                "incomplete-2020-04-02T21:01:00Z": ["incomplete"],
                "incomplete-2020-04-02T22:01:00Z": ["incomplete"],
                "incomplete-2020-04-02T23:50:00Z": ["incomplete"],
            },
            id="kinds together, incomplete ones by age",
        ),
        pytest.param(
            RetentionRules(keep_latest=3),
            {
                "2020-04-02T15:00:00Z": ["latest-1"],
                "incomplete-2020-04-02T17:01:00Z": [],
                "incomplete-2020-04-02T18:01:00Z": ["incomplete"],
                "incomplete-2020-04-02T19:01:00Z": ["incomplete"],
                "incomplete-2020-04-02T23:50:00Z": ["incomplete"],
            },
            id="old incomplete ones by count",
        ),
        pytest.param(
            RetentionRules(keep_latest=3),
            {
                "incomplete-2020-04-02T15:00:00Z": [],
                "2020-04-02T15:01:00Z": ["latest-1"],
            },
            id="an incomplete one before a complete one goes",
        ),
        pytest.param(
            RetentionRules(keep_weekly=60, keep_monthly=24),
            {
                "2026-05-30T00:00:00Z": ["weekly-1", "monthly-1"],
                "2026-01-30T00:00:00Z": ["monthly-2"],
            },
            id="week 5 hides behind May",
        ),
        pytest.param(
            RetentionRules(keep_annual=3),
            {
                "2024-02-29T00:00:00Z": ["annual-1"],
                "2023-03-01T00:00:00Z": ["annual-2"],
                "2021-02-28T23:59:59Z": [],
                "2021-03-01T00:00:00Z": ["annual-3"],
            },
            id="three years before a leap day is the first of March",
        ),
    ],
)
def test_reasons_are_those_of_kopia(rules: RetentionRules, expected: dict[str, list[str]]) -> None:
    assert reasons_by_time(rules, list(expected)) == expected


def test_a_pinned_snapshot_is_kept_without_a_reason() -> None:
    old = candidate("2019-01-01T00:00:00Z", pinned=True)
    new = candidate("2020-01-01T00:00:00Z")
    verdicts = judge(RetentionRules(keep_latest=1), [old, new])
    assert [(v.candidate, v.reasons, v.keep) for v in verdicts] == [(new, ("latest-1",), True), (old, (), True)]


def test_without_complete_snapshots_the_newest_incomplete_ones_stay() -> None:
    times = [f"incomplete-2020-01-{day:02d}T00:00:00Z" for day in range(1, 6)]
    kept = [t for t, reasons in reasons_by_time(DEFAULT_RULES, times).items() if reasons]
    assert kept == times[2:]


@given(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 12 * 5000),
)
def test_months_ago_agrees_with_the_calendar_where_the_day_exists(ns: int, months: int) -> None:
    result = _months_ago(ns, months)
    assert result <= ns
    year, month0 = divmod(int(format_rfc3339(ns)[:4]) * 12 + int(format_rfc3339(ns)[5:7]) - 1 - months, 12)
    day = int(format_rfc3339(ns)[8:10])
    if year >= 1 and day <= 28:
        midnight = datetime(year, month0 + 1, day, tzinfo=UTC)
        expected = (midnight - datetime(1970, 1, 1, tzinfo=UTC)).days * 86400 * NS + ns % (86400 * NS)
        assert result == expected


counts = st.none() | st.integers(0, 60)


@given(
    st.builds(RetentionRules, counts, counts, counts, counts, counts, counts),
    st.lists(st.tuples(st.integers(0, 4 * 10**17), st.booleans(), st.booleans()), max_size=30),
)
def test_every_candidate_is_judged_and_the_newest_complete_one_is_kept_whenever_a_rule_keeps_anything(
    rules: RetentionRules, shape: list[tuple[int, bool, bool]]
) -> None:
    candidates = [Candidate(str(i), ns, ns, complete, pinned) for i, (ns, complete, pinned) in enumerate(shape)]
    verdicts = judge(rules, candidates)
    assert sorted(v.candidate.snapshot_id for v in verdicts) == sorted(c.snapshot_id for c in candidates)
    newest = next((v for v in verdicts if v.candidate.complete), None)
    assert newest is None or newest.keep
