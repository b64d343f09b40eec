"""Go's durations (`10m0s`), as `metav1.Duration` writes them into objects, from and to integer nanoseconds."""

from __future__ import annotations

import re

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_MAX_NS = (1 << 63) - 1
_MAX_LENGTH = 64
_TERM = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)


def parse_duration(text: str) -> int:
    """Nanoseconds of a Go duration (`-1h2m3.5s`, `0`); `ValueError` for anything Go's `time.ParseDuration` refuses."""
    body = text[1:] if text[:1] in {"+", "-"} else text
    if body == "0":
        return 0
    if not body or len(text) > _MAX_LENGTH:
        raise ValueError(f"not a duration: {text[:_MAX_LENGTH]!r}")
    total = position = 0
    while position < len(body):
        term = _TERM.match(body, position)
        if term is None:
            raise ValueError(f"not a duration: {text!r}")
        whole, _, fraction = term[1].partition(".")
        unit = _UNITS_NS[term[2]]
        total += int(whole or "0") * unit + int(fraction or "0") * unit // 10 ** len(fraction)
        position = term.end()
    if total > _MAX_NS:
        raise ValueError(f"a duration beyond 292 years: {text!r}")
    return -total if text[0] == "-" else total


def format_duration(ns: int) -> str:
    """`600_000_000_000` -> `10m0s`, exactly as Go's `Duration.String`."""
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    if ns == 0:
        return "0s"
    if ns < _UNITS_NS["s"]:
        unit = "ns" if ns < 1_000 else "µs" if ns < 1_000_000 else "ms"
        return f"{sign}{_decimal(ns, _UNITS_NS[unit])}{unit}"
    minutes, rest = divmod(ns, _UNITS_NS["m"])
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest, _UNITS_NS['s'])}s"
    if hours:
        text = f"{hours}h{minutes}m{text}"
    elif minutes:
        text = f"{minutes}m{text}"
    return sign + text


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    if not rest:
        return str(whole)
    digits = len(str(unit)) - 1
    return f"{whole}.{rest:0{digits}d}".rstrip("0")
