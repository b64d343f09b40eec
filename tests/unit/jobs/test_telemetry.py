"""What workers say and what the agent writes, as logs and metrics."""

import re
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import structlog

from agent.jobs.callbacks import JobTelemetry
from agent.jobs.phases import CountedEvents
from agent.kube.job import Phase
from agent.kube.job_names import volume_of
from agent.kube.meta import OwnerReference
from agent.kube.times import time_from_ns
from agent.movers.protocol import Log, Metric
from agent.movers.spec import Progress
from agent.observe.metrics import Metrics
from agent.testing.clock import VirtualClock
from tests.unit.jobs.jobs_kit import download, pod_backup, pod_restore, upload


class Inner:
    def __init__(self):
        self.told = []

    def emit(self, job, reason, message, *, warning=False):
        self.told.append((job.metadata.name, reason, message, warning))


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def metrics(clock):
    return Metrics("node-a", clock)


def value(metrics, line):
    found = re.search(rf"^{re.escape(line)} (\S+)$", metrics.render().decode(), re.MULTILINE)
    return float(found[1]) if found else None


def test_each_kind_names_its_volume():
    assert volume_of(upload()) == ("shop", "data")
    assert volume_of(download()) == ("copy", "data")
    assert volume_of(pod_backup()) == ("shop", "web-0/html")
    assert volume_of(pod_backup({"velero.io/pvc-name": "claim"})) == ("shop", "claim")
    assert volume_of(pod_restore()) == ("copy", "web-0/html")


def test_what_a_worker_says_is_counted_and_logged_with_its_job(metrics):
    with structlog.testing.capture_logs() as logs:
        callbacks = JobTelemetry(metrics).callbacks_for(upload())
        callbacks.on_progress(Progress(bytes_done=100, bytes_cached=30, files_done=2, errors=1))
        callbacks.on_metric(Metric(name="storage_bytes", labels={"operation": "put", "outcome": "ok"}, value=12))
        for level in ("info", "error", "output", "made-up"):
            callbacks.on_log(Log(level=level, text="100% of %s"))
    assert value(metrics, "lighterage_read_bytes_total") == 70
    assert value(metrics, "lighterage_uploaded_bytes_total") == 12
    assert value(metrics, 'lighterage_volume_bytes_total{namespace="shop",operation="backup",volume="data"}') == 100
    assert [line["log_level"] for line in logs] == ["info", "error", "info", "info"]
    assert {(line["event"], line["kind"], line["name"], line["volume"]) for line in logs} == {
        ("100% of %s", "DataUpload", "daily-x", "shop/data")
    }


def test_a_restore_counts_what_it_writes(metrics):
    callbacks = JobTelemetry(metrics).callbacks_for(pod_restore())
    callbacks.on_progress(Progress(bytes_done=100, files_done=2))
    assert value(metrics, "lighterage_written_bytes_total") == 100
    assert value(metrics, 'lighterage_files_total{operation="restore",outcome="done"}') == 2


# ---- phases ----


def at(clock, job, phase, *, message="", **status):
    now = time_from_ns(clock.now_ns()).replace(microsecond=0)
    if phase.is_final:
        status["completion_timestamp"] = now
    metadata = msgspec.structs.replace(
        job.metadata,
        uid=f"uid-{job.metadata.name}",
        creation_timestamp=job.metadata.creation_timestamp or now,
        owner_references=(OwnerReference(api_version="velero.io/v1", kind="Backup", name="daily", uid="u"),),
    )
    changed = msgspec.structs.replace(job.status, phase=phase, message=message, **status)
    return msgspec.structs.replace(job, metadata=metadata, status=changed)


def walk(clock, events, job, end, *, message=""):
    created = at(clock, job, Phase.NEW)
    clock.advance(2)
    accepted = at(clock, created, Phase.ACCEPTED, accepted_timestamp=_now(clock))
    events.emit(accepted, "Accepted", "x")
    clock.advance(10)
    prepared = at(clock, accepted, Phase.PREPARED)
    events.emit(prepared, "Prepared", "x")
    clock.advance(5)
    running = at(clock, prepared, Phase.IN_PROGRESS, start_timestamp=_now(clock))
    events.emit(running, "InProgress", "x")
    clock.advance(100)
    ended = at(clock, running, end, message=message)
    events.emit(ended, str(end), "x", warning=end is Phase.FAILED)
    return ended


def _now(clock):
    return time_from_ns(clock.now_ns()).replace(microsecond=0)


def test_a_pod_volume_backup_counts_as_with_the_stock_agent(metrics, clock):
    inner = Inner()
    walk(clock, CountedEvents(inner, metrics, clock), pod_backup(), Phase.COMPLETED)
    assert value(metrics, 'podVolume_pod_volume_backup_enqueue_count{node="node-a"}') == 1
    assert value(metrics, 'podVolume_pod_volume_backup_dequeue_count{node="node-a"}') == 1
    labels = (
        'backupName="velero/daily",node="node-a",operation="pvb-x-default-shop-kopia-backup",pod_volume_backup="pvb-x"'
    )
    assert value(metrics, f"podVolume_pod_volume_operation_latency_seconds_gauge{{{labels}}}") == 100
    assert [reason for _, reason, _, _ in inner.told] == ["Accepted", "Prepared", "InProgress", "Completed"]


def test_a_server_without_accepted_counts_a_backup_once_too(metrics, clock):
    events = CountedEvents(Inner(), metrics, clock)
    running = at(clock, pod_backup(), Phase.IN_PROGRESS, start_timestamp=_now(clock))
    events.emit(running, "InProgress", "x")
    events.emit(at(clock, running, Phase.COMPLETED), "Completed", "x")
    assert value(metrics, 'podVolume_pod_volume_backup_enqueue_count{node="node-a"}') == 1


def test_an_agent_that_was_restarted_counts_no_backup_twice(metrics, clock):
    accepted = at(clock, pod_backup(), Phase.ACCEPTED, accepted_timestamp=_now(clock))
    CountedEvents(Inner(), metrics, clock).emit(accepted, "Accepted", "x")
    events = CountedEvents(Inner(), metrics, clock)
    running = at(clock, accepted, Phase.IN_PROGRESS, start_timestamp=_now(clock))
    events.emit(running, "InProgress", "x")
    events.emit(at(clock, running, Phase.CANCELING), "Canceling", "x")
    assert value(metrics, 'podVolume_pod_volume_backup_enqueue_count{node="node-a"}') == 1


@pytest.mark.parametrize(("make", "what"), [(upload, "upload"), (download, "download")])
@pytest.mark.parametrize(
    ("end", "how"), [(Phase.COMPLETED, "success"), (Phase.FAILED, "failure"), (Phase.CANCELED, "cancel")]
)
def test_data_movements_count_by_their_end(metrics, clock, make, what, end, how):
    walk(clock, CountedEvents(Inner(), metrics, clock), make(), end)
    for other in ("success", "failure", "cancel"):
        assert value(metrics, f'podVolume_data_{what}_{other}_total{{node="node-a"}}') == (other == how)


def test_the_time_in_each_phase_is_kept(metrics, clock):
    walk(clock, CountedEvents(Inner(), metrics, clock), upload(), Phase.COMPLETED)
    spent = {"New": 2, "Accepted": 10, "Prepared": 5, "InProgress": 100}
    for phase, seconds in spent.items():
        line = f'lighterage_job_phase_duration_seconds_sum{{kind="DataUpload",phase="{phase}"}}'
        assert value(metrics, line) == pytest.approx(seconds)
    assert value(metrics, 'lighterage_job_queue_duration_seconds_sum{kind="DataUpload"}') == pytest.approx(17)
    line = 'lighterage_job_duration_seconds_sum{kind="DataUpload",outcome="Completed"}'
    assert value(metrics, line) == 100


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("storage.access-denied: cannot put x: 403; look at the policy", "storage.access-denied"),
        ("canceled: by somebody", "canceled"),
        ("something else happened: really", "unknown"),
        ("", "unknown"),
    ],
)
def test_failures_count_by_the_code_that_their_message_begins_with(metrics, clock, message, code):
    walk(clock, CountedEvents(Inner(), metrics, clock), upload(), Phase.FAILED, message=message)
    assert value(metrics, f'lighterage_errors_total{{code="{code}",kind="DataUpload"}}') == 1


def test_an_event_that_is_no_phase_is_handed_on_and_not_counted(metrics, clock):
    inner = Inner()
    job = at(clock, upload(), Phase.COMPLETED)
    CountedEvents(inner, metrics, clock).emit(job, "CleanUpFailed", "x", warning=True)
    assert inner.told == [("daily-x", "CleanUpFailed", "x", True)]
    assert value(metrics, 'podVolume_data_upload_success_total{node="node-a"}') == 0


def test_a_clock_that_was_set_back_makes_no_negative_time(metrics, clock):
    events = CountedEvents(Inner(), metrics, clock)
    later = datetime.now(UTC) + timedelta(days=36_500)
    job = at(clock, upload(), Phase.ACCEPTED)
    job = msgspec.structs.replace(job, metadata=msgspec.structs.replace(job.metadata, creation_timestamp=later))
    events.emit(job, "Accepted", "x")
    assert value(metrics, 'lighterage_job_phase_duration_seconds_sum{kind="DataUpload",phase="New"}') == 0
