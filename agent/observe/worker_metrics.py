"""What workers tell of themselves, summed: their counters come as they stand, so a lost message loses nothing, and what
a worker had done stays when it is gone.

A worker is not believed: values that are no amounts are left out, labels are few.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from agent.base.clock import Clock
from agent.observe.families import FewValues
from agent.observe.top import OTHER, TopSums

OPERATIONS: Final = ("backup", "restore")
REQUESTS: Final = ("get", "put", "stat", "list", "delete")
LOOKUPS: Final = tuple((cache, outcome) for cache in ("indexes", "packs") for outcome in ("hit", "miss"))
_STALE_SECONDS = 60.0
"""A worker that was silent for so long is gone: it counts in no gauge any more."""
_RATE_SECONDS = 15.0
"""No shorter than most scrapes are apart: a job between two of them is to be seen, too."""
_MOST_COUNTERS = 2_000
"""Of one worker."""
_MOST_BOUNDS = 32
_LARGEST = 1e18

_Labels: TypeAlias = tuple[str, ...]


class Recorder:
    """Takes what one worker says."""

    def __init__(self, owner: WorkerMetrics, operation: str, volume: tuple[str, str]) -> None:
        self.operation = operation
        self.volume = volume
        self.heard = owner.now()
        self.memory = 0.0
        self._owner = owner
        self._seen: dict[_Labels, float] = {}

    def progress(self, *, done: int, reused: int, files: int, failed: int) -> None:
        """Totals so far: bytes of the volume, the part of them that was taken over unread, files, failures."""
        self.heard = self._owner.now()
        self._owner.count_progress(
            self,
            done=self._more(("done",), done),
            reused=self._more(("reused",), reused),
            files=self._more(("files",), files),
            failed=self._more(("failed",), failed),
        )

    def metric(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """A counter of the worker as it stands, or the memory that it has."""
        self.heard = self._owner.now()
        if not (math.isfinite(value) and 0 <= value < _LARGEST):
            return
        if name == "memory_bytes":
            self.memory = value
            return
        key = (name, *(f"{key}={labels[key]}" for key in sorted(labels)))
        if key in self._seen or len(self._seen) < _MOST_COUNTERS:
            self._owner.count(name, labels, self._more(key, value))

    def ended(self) -> None:
        """Nothing more comes."""
        self._owner.forget(self)

    def _more(self, key: _Labels, value: float) -> float:
        more = max(value - self._seen.get(key, 0.0), 0.0)
        self._seen[key] = max(value, self._seen.get(key, 0.0))
        return more


class _Lately:
    """Amounts of the last seconds, one for each whole second."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[float, float]] = deque(maxlen=math.ceil(_RATE_SECONDS) + 1)

    def add(self, now: float, more: float) -> None:
        if self._seconds and now - self._seconds[-1][0] < 1:
            then, amount = self._seconds[-1]
            self._seconds[-1] = (then, amount + more)
        else:
            self._seconds.append((now, more))

    def since(self, moment: float) -> float:
        """The sum of what came after it."""
        return sum(amount for at, amount in self._seconds if at > moment)


class WorkerMetrics(Collector):
    """All workers of an agent since it began. Registers itself."""

    def __init__(self, registry: CollectorRegistry, clock: Clock, top_volumes: int) -> None:
        self._clock = clock
        self._statuses = FewValues(50)
        self._codes = FewValues(50)
        self._volumes = {operation: TopSums[tuple[str, str]](top_volumes) for operation in OPERATIONS}
        self._bytes = dict.fromkeys(("read", "reused", "deduplicated", "written", "uploaded", "downloaded"), 0.0)
        self._lately = {operation: _Lately() for operation in OPERATIONS}
        self._files = {(operation, outcome): 0.0 for operation in OPERATIONS for outcome in ("done", "failed")}
        self._requests: defaultdict[_Labels, float] = defaultdict(float)
        self._retries: defaultdict[_Labels, float] = defaultdict(float)
        self._lookups: dict[_Labels, float] = dict.fromkeys(LOOKUPS, 0.0)
        self._latency: dict[str, defaultdict[float, float]] = {name: defaultdict(float) for name in REQUESTS}
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._running: dict[int, Recorder] = {}
        registry.register(self)

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock.monotonic()

    def recorder(self, operation: str, namespace: str, volume: str) -> Recorder:
        """For a worker that begins."""
        one = Recorder(self, operation, (namespace, volume))
        self._running[id(one)] = one
        return one

    def forget(self, recorder: Recorder) -> None:
        """It has ended; what it did stays."""
        self._running.pop(id(recorder), None)

    def count_progress(self, of: Recorder, *, done: float, reused: float, files: float, failed: float) -> None:
        """So much more than before."""
        if of.operation == "backup":
            self._bytes["read"] += max(done - reused, 0.0)
            self._bytes["reused"] += reused
        else:
            self._bytes["written"] += done
        self._files[of.operation, "done"] += files
        self._files[of.operation, "failed"] += failed
        if done:
            self._volumes[of.operation].add(of.volume, done)
            self._lately[of.operation].add(self.now(), done)

    def count(self, name: str, labels: Mapping[str, str], more: float) -> None:
        """So much more of a counter of the store, of a cache or of the writer; others are of no interest."""
        operation = labels.get("operation", "")
        operation = operation if operation in REQUESTS else OTHER
        if name == "storage_requests":
            self._requests[operation, self._statuses.of(labels.get("outcome", ""))] += more
        elif name == "storage_bytes" and labels.get("outcome") == "ok":
            kind = {"put": "uploaded", "get": "downloaded"}.get(operation)
            if kind is not None:
                self._bytes[kind] += more
        elif name == "storage_seconds" and operation in self._latency:
            self._seconds[operation] += more
        elif name == "storage_latency" and operation in self._latency:
            self._count_latency(self._latency[operation], labels.get("le", ""), more)
        elif name == "storage_retries":
            self._retries[operation, self._codes.of(labels.get("code", ""))] += more
        elif name == "cache_lookups" and (lookup := (labels.get("cache", ""), labels.get("outcome", ""))) in LOOKUPS:
            self._lookups[lookup] += more
        elif name == "deduplicated_bytes":
            self._bytes["deduplicated"] += more

    def _count_latency(self, buckets: defaultdict[float, float], bound: str, more: float) -> None:
        try:
            le = math.inf if bound == "+Inf" else float(bound)
        except ValueError:
            return
        if le > 0 and (le in buckets or len(buckets) < _MOST_BOUNDS):
            buckets[le] += more

    # ---- showing ----

    def collect(self) -> Iterable[Metric]:
        """Everything as it stands."""
        yield from self._counters()
        yield from self._store()
        yield from self._now()

    def _counters(self) -> Iterable[Metric]:
        for kind, text in (
            ("read", "Bytes of volumes that backups read"),
            ("reused", "Bytes of volumes that backups took over from the parent snapshot unread"),
            ("deduplicated", "Bytes that backups read or made of directories, and that the repository had already"),
            ("written", "Bytes that restores wrote to volumes"),
            ("uploaded", "Bytes that were put into object stores"),
            ("downloaded", "Bytes that were got from object stores"),
        ):
            yield CounterMetricFamily(f"lighterage_{kind}_bytes", text, value=self._bytes[kind])
        files = CounterMetricFamily(
            "lighterage_files", "Files and links that were moved or could not be", labels=("operation", "outcome")
        )
        for labels, value in self._files.items():
            files.add_metric(labels, value)
        yield files
        volumes = CounterMetricFamily(
            "lighterage_volume_bytes",
            "Bytes of a volume that were backed up or restored; the smaller ones together as other",
            labels=("operation", "namespace", "volume"),
        )
        for operation, sums in self._volumes.items():
            for (namespace, volume), value in sums:
                volumes.add_metric((operation, namespace, volume), value)
            volumes.add_metric((operation, OTHER, OTHER), sums.others)
        yield volumes

    def _store(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "lighterage_storage_requests",
            "Requests to object stores by what became of them: ok, canceled, or the code of an error",
            labels=("operation", "status"),
        )
        for operation in REQUESTS:
            self._requests.setdefault((operation, "ok"), 0.0)
        for labels, value in self._requests.items():
            requests.add_metric(labels, value)
        yield requests
        retries = CounterMetricFamily(
            "lighterage_storage_retries",
            "Requests that were tried again, by the code of their error",
            labels=("operation", "code"),
        )
        for labels, value in self._retries.items():
            retries.add_metric(labels, value)
        yield retries
        lookups = CounterMetricFamily(
            "lighterage_cache_lookups",
            "Indexes and packs of metadata that were looked for in the local cache, and whether they were there",
            labels=("cache", "outcome"),
        )
        for labels, value in self._lookups.items():
            lookups.add_metric(labels, value)
        yield lookups
        latency = HistogramMetricFamily(
            "lighterage_storage_request_duration_seconds",
            "Duration of requests to object stores, retries included",
            labels=("operation",),
        )
        for operation, counts in self._latency.items():
            latency.add_metric((operation,), _cumulative(counts), self._seconds[operation])
        yield latency

    def _now(self) -> Iterable[Metric]:
        oldest = self.now() - _STALE_SECONDS
        self._running = {key: one for key, one in self._running.items() if one.heard >= oldest}
        running = self._running.values()
        rates = GaugeMetricFamily(
            "lighterage_throughput_bytes_per_second",
            f"Bytes of volumes that jobs moved together, over the last {_RATE_SECONDS:.0f} seconds",
            labels=("operation",),
        )
        for operation, lately in self._lately.items():
            rates.add_metric((operation,), lately.since(self.now() - _RATE_SECONDS) / _RATE_SECONDS)
        yield rates
        yield GaugeMetricFamily("lighterage_workers", "Worker processes that were heard of lately", value=len(running))
        yield GaugeMetricFamily(
            "lighterage_worker_memory_bytes",
            "Resident memory of all workers together",
            value=sum(one.memory for one in running),
        )
        yield GaugeMetricFamily(
            "lighterage_worker_memory_largest_bytes",
            "Resident memory of the largest worker",
            value=max((one.memory for one in running), default=0),
        )


def _cumulative(counts: Mapping[float, float]) -> list[tuple[str, float]]:
    total, rows = 0.0, []
    for bound in sorted({*counts, math.inf}):
        total += counts.get(bound, 0.0)
        rows.append(("+Inf" if math.isinf(bound) else str(bound), total))
    return rows
