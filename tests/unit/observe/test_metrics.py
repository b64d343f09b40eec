"""What a scraper sees: names that dashboards rely on, in numbers that stay bounded."""

import math
import re
from pathlib import Path

import pytest

from agent.observe.metrics import KINDS, LimitsInForce, Metrics
from agent.observe.top import TopSums
from agent.observe.velero_metrics import KEPT_BACKUPS
from agent.testing.clock import VirtualClock

GOLDEN = Path(__file__).with_name("metrics.tsv")
"""Name, type, labels and help text of each metric."""
SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def metrics(clock):
    return Metrics("node-a", clock, version="1.2.3", top_volumes=10)


def samples(metrics):
    """{(name, (label, value), …): value} of the text as it is: the library's parser renames counters."""
    found = {}
    for line in metrics.render().decode().splitlines():
        if not line.startswith("#"):
            name, labels, number = SAMPLE.fullmatch(line).groups()
            found[name, *sorted(LABEL.findall(labels or ""))] = float(number)
    return found


def value(metrics, name, **labels):
    return samples(metrics)[name, *sorted(labels.items())]


def everything_once(metrics):
    metrics.velero.backup_taken_up()
    metrics.velero.backup_ended("pvb", "pvb-default-shop-kopia-backup", "velero/daily", 61.9)
    recorder = metrics.workers.recorder("backup", "shop", "data")
    recorder.progress(done=100, reused=40, files=7, failed=1)
    for name, labels in (
        ("storage_requests", {"operation": "put", "outcome": "ok"}),
        ("storage_bytes", {"operation": "put", "outcome": "ok"}),
        ("storage_seconds", {"operation": "put", "outcome": "ok"}),
        ("storage_latency", {"operation": "put", "le": "0.5"}),
        ("storage_retries", {"operation": "put", "code": "storage.unavailable"}),
        ("cache_lookups", {"cache": "packs", "outcome": "hit"}),
        ("deduplicated_bytes", {}),
        ("memory_bytes", {}),
    ):
        recorder.metric(name, labels, 3)
    metrics.waited("DataUpload", 3)
    metrics.left_phase("DataUpload", "Accepted", 3)
    metrics.ended("DataUpload", "Completed", 3)
    metrics.failed("DataUpload", "storage.unavailable")
    metrics.swept()
    metrics.orphan_removed("pods")


def test_names_types_labels_and_help_are_those_of_the_list(metrics):
    everything_once(metrics)
    lines = []
    for line in metrics.render().decode().splitlines():
        if line.startswith("# HELP "):
            lines.append([*line.removeprefix("# HELP ").split(" ", 1)])
        elif line.startswith("# TYPE "):
            lines[-1].insert(1, line.split(" ")[-1])
    labels = {}
    histograms = {name for name, kind, _ in lines if kind == "histogram"}
    for name, *pairs in samples(metrics):
        whole = next((h for h in histograms if name in (f"{h}_bucket", f"{h}_sum", f"{h}_count")), name)
        labels.setdefault(whole, set()).update({label for label, _ in pairs} - {"le"})
    found = [
        "\t".join((name, kind, ",".join(sorted(labels[name])), text))
        for name, kind, text in sorted(lines)
        if not name.startswith("process_")
    ]
    assert found == GOLDEN.read_text().splitlines()


def test_the_stock_agent_s_counters_are_there_with_0_from_the_start(metrics):
    seen = samples(metrics)
    for name in (
        "podVolume_pod_volume_backup_enqueue_count",
        "podVolume_pod_volume_backup_dequeue_count",
        *(
            f"podVolume_data_{what}_{how}_total"
            for what in ("upload", "download")
            for how in ("success", "failure", "cancel")
        ),
    ):
        assert seen[name, ("node", "node-a")] == 0
    text = metrics.render().decode()
    assert "# TYPE podVolume_pod_volume_backup_enqueue_count counter\n" in text
    assert "_created" not in text


def test_the_latency_of_a_pod_volume_backup_has_the_stock_labels_and_whole_seconds(metrics):
    metrics.velero.backup_taken_up()
    metrics.velero.backup_ended("pvb", "pvb-default-shop-kopia-backup", "velero/daily", 61.9)
    labels = {
        "node": "node-a",
        "operation": "pvb-default-shop-kopia-backup",
        "backupName": "velero/daily",
        "pod_volume_backup": "pvb",
    }
    assert value(metrics, "podVolume_pod_volume_operation_latency_seconds_gauge", **labels) == 61
    assert value(metrics, "podVolume_pod_volume_operation_latency_seconds_bucket", le="300.0", **labels) == 1
    assert value(metrics, "podVolume_pod_volume_operation_latency_seconds_bucket", le="60.0", **labels) == 0
    assert value(metrics, "podVolume_pod_volume_backup_dequeue_count", node="node-a") == 1


def test_five_thousand_volumes_make_no_more_series_than_a_few_and_lose_no_byte(metrics):
    for number in range(5_000):
        recorder = metrics.workers.recorder("backup", f"ns-{number}", "data")
        recorder.progress(done=1_000 + number, reused=0, files=1, failed=0)
        recorder.ended()
        metrics.velero.backup_taken_up()
        metrics.velero.backup_ended(f"pvb-{number}", f"pvb-{number}-x", f"velero/{number}", 1)
    seen = samples(metrics)
    volumes = {key: amount for key, amount in seen.items() if key[0] == "lighterage_volume_bytes_total"}
    assert len(volumes) <= 2 * 10 + 2
    total = sum(1_000 + number for number in range(5_000))
    assert sum(volumes.values()) == total == value(metrics, "lighterage_read_bytes_total")
    gauges = [key for key in seen if key[0].endswith("latency_seconds_gauge")]
    assert len(gauges) == KEPT_BACKUPS
    assert len(seen) < 6_000
    assert value(metrics, "podVolume_pod_volume_backup_dequeue_count", node="node-a") == 5_000


def test_a_volume_that_moves_most_gets_a_series_of_its_own_and_no_series_ever_falls():
    top = TopSums(2)
    history = {}
    for name, amount in [("a", 5), ("b", 7), *[("small", 1)] * 4, *[("big", 4)] * 5, ("a", 1), ("big", 100)]:
        top.add(name, amount)
        now = {**dict(top), "other": top.others}
        for one, before in history.items():
            assert now.get(one, before) >= before
        history = now
    assert dict(top)["big"] >= 100 and set(dict(top)) == {"b", "big"}
    assert sum(dict(top).values()) + top.others == 5 + 7 + 4 + 20 + 1 + 100


def test_candidates_for_a_series_are_bounded():
    top = TopSums(3)
    for name in range(1_000):
        top.add(name, 1)
    assert len(top._candidates) <= 12


def test_what_a_worker_says_twice_counts_once_and_stays_when_it_is_gone(metrics, clock):
    labels = {"operation": "put", "outcome": "ok"}
    first = metrics.workers.recorder("backup", "shop", "data")
    for count in (1, 5, 5, 3):
        first.metric("storage_requests", labels, count)
        first.metric("storage_bytes", labels, 10 * count)
    first.metric("memory_bytes", {}, 1000)
    first.progress(done=50, reused=20, files=3, failed=1)
    assert value(metrics, "lighterage_worker_memory_bytes") == 1000
    first.ended()
    second = metrics.workers.recorder("backup", "shop", "data")
    second.metric("storage_requests", labels, 2)
    assert value(metrics, "lighterage_storage_requests_total", operation="put", status="ok") == 7
    assert value(metrics, "lighterage_uploaded_bytes_total") == 50
    assert value(metrics, "lighterage_read_bytes_total") == 30
    assert value(metrics, "lighterage_reused_bytes_total") == 20
    assert value(metrics, "lighterage_files_total", operation="backup", outcome="done") == 3
    assert value(metrics, "lighterage_files_total", operation="backup", outcome="failed") == 1
    assert value(metrics, "lighterage_worker_memory_bytes") == 0
    assert value(metrics, "lighterage_workers") == 1
    clock.advance(61)
    assert value(metrics, "lighterage_workers") == 0


def test_latencies_of_all_workers_make_one_histogram(metrics):
    for worker, more in ((0, 2), (1, 3)):
        recorder = metrics.workers.recorder("restore", "shop", str(worker))
        recorder.metric("storage_latency", {"operation": "get", "le": "0.1"}, more)
        recorder.metric("storage_latency", {"operation": "get", "le": "+Inf"}, 1)
        recorder.metric("storage_seconds", {"operation": "get", "outcome": "ok"}, 0.5)
    name = "lighterage_storage_request_duration_seconds"
    assert value(metrics, f"{name}_bucket", operation="get", le="0.1") == 5
    assert value(metrics, f"{name}_bucket", operation="get", le="+Inf") == 7
    assert value(metrics, f"{name}_count", operation="get") == 7
    assert value(metrics, f"{name}_sum", operation="get") == 1.0


def test_throughput_is_what_moved_lately(metrics, clock):
    recorder = metrics.workers.recorder("restore", "shop", "data")
    for second in range(60):
        clock.advance(1)
        recorder.progress(done=100 * second, reused=0, files=0, failed=0)
    assert value(metrics, "lighterage_throughput_bytes_per_second", operation="restore") == 100
    assert value(metrics, "lighterage_throughput_bytes_per_second", operation="backup") == 0


def test_throughput_shows_a_job_that_began_and_ended_between_two_scrapes(metrics, clock):
    recorder = metrics.workers.recorder("backup", "shop", "data")
    recorder.progress(done=3_000, reused=0, files=1, failed=0)
    recorder.ended()
    clock.advance(14)
    assert value(metrics, "lighterage_throughput_bytes_per_second", operation="backup") == 200
    clock.advance(1)
    assert value(metrics, "lighterage_throughput_bytes_per_second", operation="backup") == 0


@pytest.mark.parametrize("amount", [math.nan, math.inf, -1, 1e300])
def test_what_is_no_amount_is_left_out(metrics, amount):
    recorder = metrics.workers.recorder("backup", "shop", "data")
    recorder.metric("storage_requests", {"operation": "put", "outcome": "ok"}, amount)
    recorder.metric("memory_bytes", {}, amount)
    recorder.metric("storage_latency", {"operation": "put", "le": "nonsense"}, 1)
    assert value(metrics, "lighterage_storage_requests_total", operation="put", status="ok") == 0
    assert value(metrics, "lighterage_worker_memory_bytes") == 0


def test_labels_that_a_worker_makes_up_are_few(metrics):
    recorder = metrics.workers.recorder("backup", "shop", "data")
    for number in range(5_000):
        recorder.metric("storage_requests", {"operation": f"o{number}", "outcome": f"x{number}"}, 1)
        recorder.metric("storage_retries", {"operation": f"o{number}", "code": f"c{number}\n"}, 1)
        recorder.metric("cache_lookups", {"cache": f"c{number}", "outcome": "hit"}, 1)
        recorder.metric("storage_latency", {"operation": "put", "le": str(number + 1)}, 1)
    seen = samples(metrics)
    assert len([key for key in seen if key[0].startswith("lighterage_storage")]) < 150


def test_codes_of_errors_are_few_and_named_other_beyond(metrics):
    for number in range(1_000):
        metrics.failed("DataUpload", f"code.{number}")
    errors = {key: amount for key, amount in samples(metrics).items() if key[0] == "lighterage_errors_total"}
    assert len(errors) == 151 and sum(errors.values()) == 1_000
    assert value(metrics, "lighterage_errors_total", kind="DataUpload", code="other") == 850


def test_limits_and_jobs_are_shown_as_they_are(metrics):
    metrics.set_limits(LimitsInForce(upload_bytes_per_second=5 << 20, jobs=3))
    metrics.show_jobs(lambda: {("DataUpload", "running"): 2})
    assert value(metrics, "lighterage_limit_upload_bytes_per_second") == 5 << 20
    assert value(metrics, "lighterage_limit_jobs") == 3
    assert value(metrics, "lighterage_jobs", kind="DataUpload", state="running") == 2
    assert value(metrics, "lighterage_jobs", kind="PodVolumeRestore", state="waiting") == 0


def test_a_question_that_fails_costs_its_answer_only(metrics):
    def broken():
        raise RuntimeError("no")

    metrics.show_jobs(broken)
    assert value(metrics, "lighterage_jobs", kind=KINDS[0], state="running") == 0


def test_two_agents_in_one_process_share_nothing(clock):
    first, second = Metrics("a", clock), Metrics("b", clock)
    first.velero.data_upload_ended("success")
    assert value(second, "podVolume_data_upload_success_total", node="b") == 0
