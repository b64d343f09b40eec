"""What the worker of a mover pod counted, as the termination message takes it to the agent: otherwise the metrics of a
pod would go with it.

There is little room: rows of a known name, its labels in a fixed order and the value, nothing that is zero, and of what
does not fit the least important is left out, a name as a whole. Whoever reads it does not trust it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Final, TypeAlias

import msgspec

from agent.movers.protocol import Metric

MAX_COUNTERS: Final = 200
"""Of one worker: written, and read."""

_LABELS: Final[dict[str, tuple[str, ...]]] = {
    "memory_bytes": (),
    "storage_bytes": ("operation", "outcome"),
    "deduplicated_bytes": (),
    "cache_lookups": ("cache", "outcome"),
    "storage_requests": ("operation", "outcome"),
    "storage_retries": ("operation", "code"),
    "storage_seconds": ("operation", "outcome"),
    "storage_latency": ("operation", "le"),
}
"""The labels of what an `Execution` counts, the most important first."""
_TOGETHER: Final = (*((name,) for name in list(_LABELS)[:-2]), ("storage_seconds", "storage_latency"))
"""Sum and buckets are one histogram: both or none."""
_LABEL = re.compile(r"[-+.0-9A-Za-z_]{1,64}", re.ASCII)
_LARGEST = 1e18
_DECIMALS = 3
_Row: TypeAlias = list[str | int | float]

_decoder = msgspec.json.Decoder(dict[str, list[_Row]])


class LastCounters:
    """The counters of one worker as it told them last; of its memory the most."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, ...], Metric] = {}

    def take(self, metric: Metric) -> None:
        """A counter as it stands; what the table does not have, or has no room for, is passed over."""
        labels = _LABELS.get(metric.name)
        if labels is None:
            return
        key = (metric.name, *(metric.labels.get(label, "") for label in labels))
        before = self._values.get(key)
        if before is None and len(self._values) >= MAX_COUNTERS:
            return
        if before is None or metric.value > before.value:
            self._values[key] = metric

    def metrics(self) -> tuple[Metric, ...]:
        """All of them."""
        return tuple(self._values.values())


def fitting(counters: Iterable[Metric], room: int) -> bytes:
    """JSON of at most `room` bytes with as many as fit; empty when that is none."""
    rows: dict[str, list[_Row]] = {}
    for metric in counters:
        if _is_amount(metric.value) and (value := round(metric.value, _DECIMALS)):
            labels = (metric.labels.get(label, "") for label in _LABELS[metric.name])
            rows.setdefault(metric.name, []).append([*labels, int(value) if value == int(value) else value])
    kept: dict[str, list[_Row]] = {}
    for names in _TOGETHER:
        more = kept | {name: rows[name] for name in names if name in rows}
        if len(msgspec.json.encode(more)) <= room:
            kept = more
    return msgspec.json.encode(kept) if kept else b""


def read_counters(text: bytes) -> tuple[Metric, ...]:
    """What is understood of it: amounts of known names, at most `MAX_COUNTERS`. Raises nothing."""
    try:
        told = _decoder.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ()
    rows = ((name, row) for name in _LABELS for row in told.get(name, ())[:MAX_COUNTERS])
    found = (_metric(name, row) for name, row in rows)
    return tuple(metric for metric in found if metric is not None)[:MAX_COUNTERS]


def _metric(name: str, row: _Row) -> Metric | None:
    names = _LABELS[name]
    values = [one for one in row if isinstance(one, str) and _LABEL.fullmatch(one)]
    if len(row) != len(names) + 1 or len(values) != len(names) or isinstance(row[-1], str):
        return None
    if not _is_amount(row[-1]):
        return None
    return Metric(name=name, labels=dict(zip(names, values, strict=True)), value=row[-1])


def _is_amount(value: float) -> bool:
    return math.isfinite(value) and 0 <= value < _LARGEST
