"""The metrics of Velero's own node agent, by its names (contract §8): dashboards that exist go on working.

Counters of the own node are there with 0 from the start. The latency of pod volume backups carries the name of each
object as a label; only the last few of them are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

KEPT_BACKUPS: Final = 200
"""Pod volume backups whose latency is shown."""
ENQUEUED: Final = "podVolume_pod_volume_backup_enqueue_count"
DEQUEUED: Final = "podVolume_pod_volume_backup_dequeue_count"
_LATENCY = "podVolume_pod_volume_operation_latency_seconds"
_BUCKETS = (60, 300, 600, 900, 1800, 3600, 7200, 10800, 14400)
_LABELS = ("node", "operation", "backupName", "pod_volume_backup")

Outcome = str
"""`success`, `failure` or `cancel`."""
OUTCOMES: Final[tuple[Outcome, ...]] = ("success", "failure", "cancel")


class VeleroMetrics(Collector):
    """Of one node. Registers itself."""

    def __init__(self, registry: CollectorRegistry, node: str) -> None:
        self._node = node
        self._enqueued = 0
        self._dequeued = 0
        self._latency = Histogram(
            _LATENCY,
            "Duration of a pod volume operation, whole seconds",
            _LABELS,
            buckets=_BUCKETS,
            registry=registry,
        )
        self._last = Gauge(
            f"{_LATENCY}_gauge", "Duration of the last pod volume operation, whole seconds", _LABELS, registry=registry
        )
        self._finals = {
            (what, outcome): Counter(
                f"podVolume_data_{what}_{outcome}",
                f"Data {what}s of this node that ended with {outcome}",
                ("node",),
                registry=registry,
            )
            for what in ("upload", "download")
            for outcome in OUTCOMES
        }
        for counter in self._finals.values():
            counter.labels(node)
        self._kept: OrderedDict[tuple[str, ...], None] = OrderedDict()
        registry.register(self)

    def backup_taken_up(self) -> None:
        """A pod volume backup was accepted."""
        self._enqueued += 1

    def backup_ended(self, name: str, operation: str, backup: str, seconds: float) -> None:
        """It is final. `backup` is `<namespace>/<name>` of what it belongs to."""
        self._dequeued += 1
        labels = (self._node, operation, backup, name)
        self._kept[labels] = None
        self._kept.move_to_end(labels)
        while len(self._kept) > KEPT_BACKUPS:
            oldest, _ = self._kept.popitem(last=False)
            self._latency.remove(*oldest)
            self._last.remove(*oldest)
        whole = max(int(seconds), 0)
        self._latency.labels(*labels).observe(whole)
        self._last.labels(*labels).set(whole)

    def data_upload_ended(self, outcome: Outcome) -> None:
        """A data upload is final."""
        self._finals["upload", outcome].labels(self._node).inc()

    def data_download_ended(self, outcome: Outcome) -> None:
        """A data download is final."""
        self._finals["download", outcome].labels(self._node).inc()

    def collect(self) -> Iterable[Metric]:
        """The two counters whose names do not end as the library wants them to."""
        for name, text, value in (
            (ENQUEUED, "Pod volume backups that this node took up", self._enqueued),
            (DEQUEUED, "Pod volume backups of this node that ended", self._dequeued),
        ):
            family = CounterMetricFamily(name, text)
            family.samples = [Sample(name, {"node": self._node}, value)]
            yield family
