"""What a collector is told, over the wire: of an object on its way through agents, of the work of a real process."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.base.clock import SystemClock
from agent.base.errors import SnapshotNotFound
from agent.controllers.job import SINCE_ANNOTATION, TRACE_ANNOTATION
from agent.kube.job import Phase
from agent.kube.meta import Key
from agent.kube.resource import DATA_UPLOADS
from agent.observe.collector import tracing_from
from agent.observe.tracing import Span, Tracing, parse_traceparent, trace_of
from agent.testing.fake_movers import Script
from agent.testing.otlp_receiver import OtlpReceiver, ReceivedSpan
from tests.unit.controllers.controllers_kit import NODES, Cluster
from tests.unit.movers.moving_kit import SECRETS, backup_of, done, new_repository, new_tree, restore_of, running
from tests.unit.movers.pod_kit import PodCluster

_UPLOAD = Key("velero", "u")


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        yield receiver


def _by_name(receiver: OtlpReceiver) -> dict[str, ReceivedSpan]:
    spans = {span.name: span for span in receiver.spans}
    assert len(spans) == len(receiver.spans)
    return spans


async def test_each_phase_of_an_object_is_a_span_below_the_one_of_the_object(receiver: OtlpReceiver) -> None:
    tracing = tracing_from(os.environ, {"k8s.node.name": "n"})
    cluster = Cluster(random.Random(1), tracing=tracing)
    created = await cluster.upload("u", node=NODES[0])
    cluster.start_agent(NODES[0])
    await cluster.run(60)
    await cluster.stop()
    await tracing.close(30)
    upload = await cluster.kube.get(DATA_UPLOADS, _UPLOAD)
    assert upload.status.phase is Phase.COMPLETED
    spans = _by_name(receiver)
    assert list(spans) == ["New", "Accepted", "Prepared", "InProgress", "DataUpload"]
    root = spans.pop("DataUpload")
    assert upload.metadata.annotations == {TRACE_ANNOTATION: f"00-{root.trace_id}-{root.span_id}-01"}
    assert root.parent_id == ""
    assert root.attributes == {
        "lighterage.kind": "DataUpload",
        "lighterage.name": "u",
        "lighterage.volume": "app/data",
        "lighterage.job": created.metadata.uid,
        "lighterage.node": NODES[0],
        "lighterage.bytes": 1 << 20,
        "lighterage.outcome": "Completed",
    }
    assert root.resource["k8s.node.name"] == "n"
    assert root.resource["service.name"] == "lighterage"
    phases = list(spans.values())
    assert {span.parent_id for span in phases} == {root.span_id}
    assert [span.start_ns for span in phases[1:]] == [span.end_ns for span in phases[:-1]]
    assert (phases[0].start_ns, phases[-1].end_ns) == (root.start_ns, root.end_ns)


async def test_agents_that_follow_each_other_make_one_trace(receiver: OtlpReceiver) -> None:
    cluster = Cluster(random.Random(1))
    cluster.moved.script = lambda _: Script(seconds=40.0)
    await cluster.upload("u", node=NODES[0])
    first = cluster.tracing = tracing_from(os.environ, {})
    cluster.start_agent(NODES[0])
    await cluster.run(20)
    assert await cluster.phase_of(DATA_UPLOADS, "u") is Phase.IN_PROGRESS
    upload = await cluster.kube.get(DATA_UPLOADS, _UPLOAD)
    begun = int(upload.metadata.annotations[SINCE_ANNOTATION])
    await cluster.kill_agent(NODES[0])
    await first.close(30)
    second = cluster.tracing = tracing_from(os.environ, {})
    cluster.start_agent(NODES[0])
    await cluster.run(120)
    await cluster.stop()
    await second.close(30)
    spans = _by_name(receiver)
    assert len({span.trace_id for span in spans.values()}) == 1
    assert spans["InProgress"].start_ns == begun
    assert {span.parent_id for name, span in spans.items() if name != "DataUpload"} == {spans["DataUpload"].span_id}


@pytest.mark.parametrize("hostile", ["", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 100_000, "00-é-1-01\n"])
async def test_annotations_that_somebody_spoiled_are_made_anew(receiver: OtlpReceiver, hostile: str) -> None:
    tracing = tracing_from(os.environ, {})
    cluster = Cluster(random.Random(1), tracing=tracing)
    cluster.moved.script = lambda _: Script(seconds=40.0)
    created = await cluster.upload("u", node=NODES[0])
    cluster.start_agent(NODES[0])
    await cluster.run(20)
    spoiled = {TRACE_ANNOTATION: hostile, SINCE_ANNOTATION: hostile}
    await cluster.patch(DATA_UPLOADS, "u", {"metadata": {"annotations": spoiled}})
    await cluster.run(120)
    await cluster.stop()
    await tracing.close(30)
    upload = await cluster.kube.get(DATA_UPLOADS, _UPLOAD)
    assert upload.status.phase is Phase.COMPLETED
    assert upload.metadata.annotations == {TRACE_ANNOTATION: str(trace_of(created.metadata.uid))}
    assert {span.trace_id for span in receiver.spans} == {f"{trace_of(created.metadata.uid).trace_id:032x}"}


async def test_the_work_of_a_worker_is_in_the_trace_with_its_stages(receiver: OtlpReceiver, tmp_path) -> None:  # type: ignore[no-untyped-def]
    location = await new_repository(tmp_path / "repo")
    tree = new_tree(tmp_path / "tree", files=5, size=1000)
    parent = trace_of("uid").child("InProgress")
    async with running() as movers:
        result = await done(movers, backup_of(tree, location, traceparent=str(parent)))
    spans = _by_name(receiver)
    assert set(spans) == {"open", "upload", "BackupTree"}
    work = spans["BackupTree"]
    assert (work.trace_id, work.parent_id) == (f"{parent.trace_id:032x}", f"{parent.span_id:016x}")
    assert work.attributes["lighterage.files"] == 5
    assert work.attributes["lighterage.bytes"] == 5000
    assert work.attributes["lighterage.bytes_uploaded"] == result.uploaded_bytes
    assert {spans[name].parent_id for name in ("open", "upload")} == {work.span_id}
    assert work.start_ns <= spans["open"].end_ns <= spans["upload"].start_ns <= work.end_ns


async def test_the_work_in_a_mover_pod_is_in_the_trace_of_its_object(receiver: OtlpReceiver, tmp_path) -> None:  # type: ignore[no-untyped-def]
    location = await new_repository(tmp_path / "repo")
    tree = new_tree(tmp_path / "tree", files=5, size=1000)
    cluster = await PodCluster(SystemClock()).create()
    parent = trace_of("uid").child("InProgress")
    spec = backup_of(tree, location, traceparent=str(parent))
    async with running() as movers, cluster.pod(movers), cluster.runner().job(spec, SECRETS) as job:
        result = await job.result()
    spans = _by_name(receiver)
    assert set(spans) == {"open", "upload", "BackupTree"}
    work = spans["BackupTree"]
    assert (work.trace_id, work.parent_id) == (f"{parent.trace_id:032x}", f"{parent.span_id:016x}")
    assert work.attributes["lighterage.bytes_uploaded"] == result.uploaded_bytes
    assert {spans[name].parent_id for name in ("open", "upload")} == {work.span_id}


async def test_workers_show_a_collector_what_it_wants_without_having_it_in_their_environment(
    receiver: OtlpReceiver,
    tmp_path,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=backups,authorization=Bearer%20very-secret-token")
    location = await new_repository(tmp_path / "repo")
    spec = backup_of(new_tree(tmp_path / "tree"), location, traceparent=str(trace_of("uid")))
    async with running() as movers, movers.job(spec, SECRETS) as job:
        environment = Path(f"/proc/{job.pid}/environ").read_bytes()
        await job.result()
    assert b"OTEL_EXPORTER_OTLP_ENDPOINT" in environment
    assert b"very-secret-token" not in environment
    assert set(_by_name(receiver)) == {"open", "upload", "BackupTree"}
    assert receiver.authorizations == {"Bearer very-secret-token"}


async def test_work_that_fails_says_by_which_error(receiver: OtlpReceiver, tmp_path) -> None:  # type: ignore[no-untyped-def]
    location = await new_repository(tmp_path / "repo")
    spec = restore_of("0" * 32, tmp_path / "target", location, traceparent=str(trace_of("uid")))
    async with running() as movers:
        with pytest.raises(SnapshotNotFound):
            await done(movers, spec)
    spans = _by_name(receiver)
    assert {name: span.error for name, span in spans.items()} == {
        "open": "",
        "restore": SnapshotNotFound.code,
        "RestoreTree": SnapshotNotFound.code,
    }


async def test_a_job_without_a_trace_is_done_without_spans(receiver: OtlpReceiver, tmp_path) -> None:  # type: ignore[no-untyped-def]
    location = await new_repository(tmp_path / "repo")
    async with running() as movers:
        result = await done(movers, backup_of(new_tree(tmp_path / "tree"), location, traceparent="00-zz"))
    assert result.files == 20
    assert receiver.spans == []


async def test_a_trace_that_is_not_sampled_is_not_sent(receiver: OtlpReceiver) -> None:
    tracing = tracing_from(os.environ, {})
    context = parse_traceparent(f"00-{1:032x}-{1:016x}-00")
    assert context is not None
    tracing.record(Span(name="x", context=context, start_ns=1, end_ns=2))
    tracing.record(Span(name="y", context=trace_of("y"), start_ns=1, end_ns=2))
    await tracing.close(30)
    assert [span.name for span in receiver.spans] == ["y"]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4317"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"},
    ],
)
def test_without_a_collector_nothing_is_imported(environ: dict[str, str]) -> None:
    program = """
        import os, sys
        import agent.server.app, agent.movers.worker
        from agent.observe.collector import tracing_from
        assert not tracing_from(os.environ, {}).on
        print([name for name in sys.modules if name.startswith("opentelemetry")])
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    printed = subprocess.run(command, env={**clean, **environ}, capture_output=True, text=True, check=True, timeout=120)
    assert printed.stdout.splitlines()[-1] == "[]"


async def test_an_object_is_not_marked_where_nothing_is_sent() -> None:
    cluster = Cluster(random.Random(1), tracing=Tracing())
    await cluster.upload("u", node=NODES[0])
    cluster.start_agent(NODES[0])
    await cluster.run(60)
    await cluster.stop()
    assert not (await cluster.kube.get(DATA_UPLOADS, _UPLOAD)).metadata.annotations
