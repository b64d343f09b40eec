"""What every family of metrics needs: labels from outside kept few, sums shown as samples, text for a scraper."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class FewValues:
    """The first so many values of a label that comes from outside; all others are `other`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def of(self, value: str) -> str:
        """`value`, or `other`."""
        if value in self._known:
            return value
        if len(self._known) < self._most and _LABEL.fullmatch(value):
            self._known.add(value)
            return value
        return "other"


class _Plain(Collector):
    """A registry without the times at which its counters were made: nobody asked for those."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        return self._collect()

    def _collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


def render(registry: CollectorRegistry, counters_without_suffix: Iterable[str] = ()) -> bytes:
    """The registry in Prometheus' text format.

    `counters_without_suffix` are counters whose name does not end in `_total`, which the library writes into their
    help and type lines all the same.
    """
    text = generate_latest(_Plain(registry))
    for name in counters_without_suffix:
        for line in ("HELP", "TYPE"):
            text = text.replace(f"# {line} {name}_total ".encode(), f"# {line} {name} ".encode())
    return text
