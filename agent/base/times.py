"""RFC 3339 times as Go writes them (`time.RFC3339Nano`, UTC), from and to integer nanoseconds.

`datetime` has no nanoseconds, so times are integers everywhere and become text only here. The range is that of a
signed 64-bit count of nanoseconds: 1677-09-21 to 2262-04-11.
"""

from __future__ import annotations

import calendar
import re
import time
from functools import lru_cache

NANOSECONDS = 1_000_000_000
MIN_NS = -(1 << 63)
MAX_NS = (1 << 63) - 1

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,18}))?(?:[Zz]|([+-])(\d\d):(\d\d))\Z",
    re.ASCII,
)
_SECONDS_PER_MINUTE = 60


@lru_cache(maxsize=4096)
def _seconds_text(seconds: int) -> str:
    t = time.gmtime(seconds)
    return f"{t.tm_year:04d}-{t.tm_mon:02d}-{t.tm_mday:02d}T{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}"


def format_rfc3339(ns: int) -> str:
    """`1767225600009678740` -> `2026-01-01T00:00:00.00967874Z`; trailing zeros of the fraction are dropped."""
    seconds, fraction = divmod(ns, NANOSECONDS)
    text = _seconds_text(seconds)
    if not fraction:
        return text + "Z"
    return f"{text}.{fraction:09d}".rstrip("0") + "Z"


def parse_rfc3339(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time, any offset; digits beyond nanoseconds are dropped.

    Raises `ValueError` for anything else, and for times that nanoseconds in 64 bits cannot hold, except the years 0001
    to 9999 outside that range, which are clamped to its ends.
    """
    match = _RFC3339.match(text)
    if match is None:
        raise ValueError(f"not an RFC 3339 time: {text[:64]!r}")
    year, month, day, hour, minute, second = (int(g) for g in match.groups()[:6])
    if not (1 <= month <= 12 and 1 <= day <= calendar.monthrange(max(year, 1), month)[1]):
        raise ValueError(f"no such day: {text!r}")
    if hour > 23 or minute > 59 or second > 60:
        raise ValueError(f"no such time of day: {text!r}")
    seconds = calendar.timegm((year, month, day, hour, minute, second))
    if match[8]:
        offset = int(match[9]) * 3600 + int(match[10]) * _SECONDS_PER_MINUTE
        seconds += offset if match[8] == "-" else -offset
    fraction = int((match[7] or "0")[:9].ljust(9, "0"))
    return min(max(seconds * NANOSECONDS + fraction, MIN_NS), MAX_NS)
