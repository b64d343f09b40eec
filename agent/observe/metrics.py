"""All metrics of an agent, behind one object that is handed to whoever has something to tell.

Nothing here waits or fails, and every label has a bound: names of volumes by `TopSums`, codes and statuses by
`FewValues`, the rest are enumerations. Times are seconds, sizes bytes. A registry of its own: nothing is shared with
whatever else lives in the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.base.clock import Clock
from agent.observe.families import FewValues, render
from agent.observe.velero_metrics import DEQUEUED, ENQUEUED, VeleroMetrics
from agent.observe.worker_metrics import WorkerMetrics

KINDS: Final = ("DataUpload", "DataDownload", "PodVolumeBackup", "PodVolumeRestore")
STATES: Final = ("running", "paused", "waiting")
PHASES: Final = ("New", "Accepted", "Prepared", "InProgress", "Canceling")
ENDS: Final = ("Completed", "Failed", "Canceled")
_SECONDS = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400)
_MOST_CODES = 150

_log = structlog.stdlib.get_logger(__name__)


class LimitsInForce(msgspec.Struct, frozen=True, kw_only=True):
    """What all jobs of the node may take together; 0: no limit."""

    upload_bytes_per_second: float = 0
    download_bytes_per_second: float = 0
    requests_per_second: float = 0
    jobs: int = 0
    memory_bytes: int = 0
    worker_memory_bytes: int = 0


class Metrics:
    """One agent's. `velero` has the stock names, `workers` what workers tell; the rest is here."""

    def __init__(self, node: str, clock: Clock, *, version: str = "", top_volumes: int = 100) -> None:
        """At most `top_volumes` volumes have series of their own, for backups and for restores each."""
        self.registry = registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=registry)
        self.velero = VeleroMetrics(registry, node)
        self.workers = WorkerMetrics(registry, clock, top_volumes)
        self._codes = FewValues(_MOST_CODES)
        self._resources = FewValues(30)
        self._jobs = _Jobs(registry)
        self._ends = Counter(
            "lighterage_jobs_ended", "Objects that this agent brought to an end", ("kind", "outcome"), registry=registry
        )
        self._errors = Counter(
            "lighterage_errors", "Objects that failed, by the code of the error", ("kind", "code"), registry=registry
        )
        self._queue = self._histogram(
            "lighterage_job_queue_duration_seconds", "From the making of an object to the start of its job", "kind"
        )
        self._phases = self._histogram(
            "lighterage_job_phase_duration_seconds", "How long objects were in a phase", "kind", "phase"
        )
        self._durations = self._histogram(
            "lighterage_job_duration_seconds", "From the start of a job to the end of its object", "kind", "outcome"
        )
        self._sweeps = Counter(
            "lighterage_orphan_sweeps", "Searches for objects that jobs left behind", ("outcome",), registry=registry
        )
        self._orphans = Counter(
            "lighterage_orphans_removed", "Objects left behind that were removed", ("resource",), registry=registry
        )
        self._limits = _limits(registry)
        self._ready = Gauge("lighterage_ready", "Whether the agent takes new objects, 1 or 0", registry=registry)
        self._configured = Gauge(
            "lighterage_configuration_valid",
            "1; 0 while a mistake in a ConfigMap keeps the configuration before in force",
            registry=registry,
        )
        build = Gauge("lighterage_build_info", "Always 1; the release is its label", ("version",), registry=registry)
        build.labels(version).set(1)
        for kind in KINDS:
            self._queue.labels(kind)
            for outcome in ENDS:
                self._ends.labels(kind, outcome)
        for outcome in ("done", "failed"):
            self._sweeps.labels(outcome)

    def show_jobs(self, count: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        """Ask `count` at each scrape how many jobs there are by kind (`KINDS`) and state (`STATES`)."""
        self._jobs.count = count

    def show_health(self, *, ready: Callable[[], bool], configured: Callable[[], bool]) -> None:
        """Ask at each scrape whether new objects are taken, and whether the ConfigMaps as they stand are in force."""
        self._ready.set_function(lambda: float(ready()))
        self._configured.set_function(lambda: float(configured()))

    def set_limits(self, limits: LimitsInForce) -> None:
        """From now on."""
        for name, gauge in self._limits.items():
            gauge.set(getattr(limits, name))

    def waited(self, kind: str, seconds: float) -> None:
        """A job began so long after its object was made."""
        self._queue.labels(_one_of(kind, KINDS)).observe(max(seconds, 0.0))

    def left_phase(self, kind: str, phase: str, seconds: float) -> None:
        """An object was in `phase` for so long."""
        self._phases.labels(_one_of(kind, KINDS), _one_of(phase, PHASES)).observe(max(seconds, 0.0))

    def ended(self, kind: str, outcome: str, seconds: float | None) -> None:
        """An object is final; its job ran for so long, None when it never began."""
        kind, outcome = _one_of(kind, KINDS), _one_of(outcome, ENDS)
        self._ends.labels(kind, outcome).inc()
        if seconds is not None:
            self._durations.labels(kind, outcome).observe(max(seconds, 0.0))

    def failed(self, kind: str, code: str) -> None:
        """An object failed for the error with this code."""
        self._errors.labels(_one_of(kind, KINDS), self._codes.of(code)).inc()

    def swept(self, *, failed: bool = False) -> None:
        """A search for what jobs left behind came to its end."""
        self._sweeps.labels("failed" if failed else "done").inc()

    def orphan_removed(self, resource: str) -> None:
        """Something was left behind, and is gone; `resource` as in `pods`, `persistentvolumeclaims`."""
        self._orphans.labels(self._resources.of(resource)).inc()

    def render(self) -> bytes:
        """For a scraper, in the text format (`families.CONTENT_TYPE`)."""
        return render(self.registry, (ENQUEUED, DEQUEUED))

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=_SECONDS, registry=self.registry)


class _Jobs(Collector):
    """Counted when somebody asks."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.count: Callable[[], Mapping[tuple[str, str], int]] = dict
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "lighterage_jobs",
            "Jobs of this node that move data, and objects that wait for it",
            labels=("kind", "state"),
        )
        try:
            counted = self.count()
        except Exception:  # noqa: BLE001  # a scrape shows what it can
            _log.exception("jobs cannot be counted for a scrape")
            counted = {}
        for kind in KINDS:
            for state in STATES:
                family.add_metric((kind, state), counted.get((kind, state), 0))
        yield family


def _limits(registry: CollectorRegistry) -> dict[str, Gauge]:
    texts = {
        "upload_bytes_per_second": "What all jobs of the node may upload together; 0: no limit",
        "download_bytes_per_second": "What all jobs of the node may download together; 0: no limit",
        "requests_per_second": "Requests to object stores that all jobs of the node may make together; 0: no limit",
        "jobs": "Jobs that may run on the node at once",
        "memory_bytes": "Memory that all workers may have together; 0: no limit",
        "worker_memory_bytes": "Memory that each worker may have; 0: no limit",
    }
    return {name: Gauge(f"lighterage_limit_{name}", text, registry=registry) for name, text in texts.items()}


def _one_of(value: str, known: tuple[str, ...]) -> str:
    return value if value in known else "other"
