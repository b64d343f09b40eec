"""Which snapshots of one source a policy keeps, by kopia's rules (§7.5).

Kopia clients and we share sources, so both must come to the same answer: a snapshot that kopia would keep is never
expired here, and the reasons are spelled the same (`latest-1`, `weekly-2`, `incomplete`). That includes its oddities:
the periods of all kinds share one set of names, so that week 5 of a year (`2026-05`) and its month May hide each
other, and counting starts from the newest complete snapshot, not from today.

Everything here is pure; whoever forgets snapshots reads them and the policy, asks here, and deletes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from agent.base.times import NANOSECONDS

_HOUR_NS = 3600 * NANOSECONDS
_DAY_NS = 24 * _HOUR_NS
_WEEK_DAYS = 7
_INCOMPLETE_YOUNGER_NS = 4 * _HOUR_NS
_INCOMPLETE_COUNT = 3
_NO_CUTOFF_NS = -(1 << 80)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RetentionRules(msgspec.Struct, frozen=True):
    """How many snapshots of each kind to keep; `None` leaves a kind out, as 0 does."""

    keep_latest: int | None = None
    keep_hourly: int | None = None
    keep_daily: int | None = None
    keep_weekly: int | None = None
    keep_monthly: int | None = None
    keep_annual: int | None = None

    @property
    def effective_latest(self) -> int | None:
        """`keep_latest`, or without a bound when no rule keeps anything: an empty policy expires nothing."""
        counts = (
            self.keep_latest,
            self.keep_hourly,
            self.keep_daily,
            self.keep_weekly,
            self.keep_monthly,
            self.keep_annual,
        )
        return self.keep_latest if sum(count or 0 for count in counts) else 1 << 63


DEFAULT_RULES = RetentionRules(10, 48, 7, 4, 24, 3)
"""Kopia's built-in policy."""


class Candidate(msgspec.Struct, frozen=True):
    """What retention has to know of a snapshot. All candidates of a call have the same source."""

    snapshot_id: str
    start_ns: int
    end_ns: int
    complete: bool
    pinned: bool


class Verdict(msgspec.Struct, frozen=True):
    """Why a snapshot is kept; expired when neither a reason nor a pin holds it."""

    candidate: Candidate
    reasons: tuple[str, ...]

    @property
    def keep(self) -> bool:
        """Whether anything holds the snapshot."""
        return bool(self.reasons) or self.candidate.pinned


class _Rule(msgspec.Struct, frozen=True):
    kind: str
    count: int | None
    cutoff_ns: int


def judge(rules: RetentionRules, candidates: Sequence[Candidate]) -> list[Verdict]:
    """A verdict for each candidate, newest first.

    Complete snapshots take reasons from the rules. Incomplete ones are kept while no complete one is newer, and they
    are younger than four hours, or among the newest three.
    """
    newest_first = sorted(candidates, key=lambda c: (c.start_ns, c.end_ns), reverse=True)
    complete_starts = [c.start_ns for c in newest_first if c.complete]
    taken: set[str] = set()
    counters: dict[str, int] = {}
    ordered_rules = _rules(rules, max(complete_starts)) if complete_starts else []
    verdicts: list[Verdict] = []
    before_complete = True
    for position, candidate in enumerate(newest_first):
        reasons: list[tuple[int, str]] = []
        if candidate.complete:
            before_complete = False
            periods = _periods(position, candidate.start_ns)
            for (order, rule), period in zip(enumerate(ordered_rules), periods, strict=True):
                if rule.count is None or candidate.start_ns < rule.cutoff_ns or period in taken:
                    continue
                used = counters.get(rule.kind, 0)
                if used < rule.count:
                    taken.add(period)
                    counters[rule.kind] = used + 1
                    # Shown from the finest kind to the coarsest, "latest" first.
                    reasons.append((-order if order else -len(ordered_rules), f"{rule.kind}-{used + 1}"))
        elif before_complete:
            age = newest_first[0].start_ns - candidate.start_ns
            if age < _INCOMPLETE_YOUNGER_NS or position < _INCOMPLETE_COUNT:
                reasons.append((0, "incomplete"))
            else:
                before_complete = False
        verdicts.append(Verdict(candidate, tuple(text for _, text in sorted(reasons))))
    return verdicts


def _rules(rules: RetentionRules, newest_ns: int) -> list[_Rule]:
    """The rules in the order in which they claim periods. Counts are subtracted from the newest complete start.

    A number of hours that no 64-bit duration holds has no cutoff (kopia's would wrap around).
    """
    return [
        _Rule("latest", rules.effective_latest, _NO_CUTOFF_NS),
        _Rule("annual", rules.keep_annual, _months_ago(newest_ns, 12 * (rules.keep_annual or 0))),
        _Rule("monthly", rules.keep_monthly, _months_ago(newest_ns, rules.keep_monthly or 0)),
        _Rule("weekly", rules.keep_weekly, newest_ns - (rules.keep_weekly or 0) * _WEEK_DAYS * _DAY_NS),
        _Rule("daily", rules.keep_daily, newest_ns - (rules.keep_daily or 0) * _DAY_NS),
        _Rule("hourly", rules.keep_hourly, newest_ns - (rules.keep_hourly or 0) * _HOUR_NS),
    ]


def _periods(position: int, start_ns: int) -> tuple[str, ...]:
    """Names of the periods (UTC) that a snapshot stands for, in the order of `_rules`."""
    start = _EPOCH + timedelta(seconds=start_ns // NANOSECONDS)
    week = start.isocalendar()
    month = f"{start.year:04d}-{start.month:02d}"
    day = f"{month}-{start.day:02d}"
    return (
        str(position),
        f"{start.year:04d}",
        month,
        f"{week.year:04d}-{week.week:02d}",
        day,
        f"{day} {start.hour:02d}",
    )


def _months_ago(ns: int, months: int) -> int:
    """The same day and time `months` earlier; a day that the month lacks runs over into the next month, as in Go."""
    days, time_of_day = divmod(ns, _DAY_NS)
    date = _EPOCH + timedelta(days=days)
    year, month0 = divmod(date.year * 12 + date.month - 1 - months, 12)
    return (_days_since_epoch(year, month0 + 1) + date.day - 1) * _DAY_NS + time_of_day


def _days_since_epoch(year: int, month: int) -> int:
    """Days from 1970-01-01 to the first of a month of any year of the proleptic Gregorian calendar."""
    if month <= 2:
        year -= 1
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5
    return era * 146097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719468
