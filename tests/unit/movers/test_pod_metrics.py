"""What the worker of a mover pod counted, in the metrics of the agent that follows it."""

import pytest

from agent.base.clock import SystemClock
from agent.base.errors import OutOfSpace
from agent.jobs.callbacks import JobTelemetry
from agent.kube.resource import DATA_UPLOADS
from agent.movers.pod_messages import write_error, write_result
from agent.movers.protocol import Metric
from agent.movers.spec import BackupResult, JobError
from agent.movers.supervisor import JobCallbacks
from agent.observe.metrics import Metrics
from tests.unit.movers.moving_kit import SECRETS, backup_of, new_repository, new_tree, running
from tests.unit.movers.pod_kit import BACKUP, KEY, NAME, PodCluster, ended_status


async def test_what_a_real_worker_in_the_pod_counted_is_told_once_and_to_the_agent_that_comes_back_as_well(tmp_path):
    location = await new_repository(tmp_path / "repository")
    tree = new_tree(tmp_path / "tree")
    cluster = await PodCluster(clock=SystemClock()).create()
    told, again, spec = [], [], backup_of(tree, location, id=NAME)
    first, second = (JobCallbacks(on_metric=metrics.append) for metrics in (told, again))
    async with (
        running(concurrency=1) as movers,
        cluster.pod(movers),
        cluster.runner().job(spec, SECRETS, first) as work,
    ):
        result = await work.result()
    async with cluster.runner().job(spec, SECRETS, second) as work:
        assert await work.result() == result

    values = {(one.name, *one.labels.values()): one.value for one in told}
    assert len(values) == len(told)
    assert values["storage_bytes", "put", "ok"] >= result.uploaded_bytes > 0
    assert values["storage_requests", "put", "ok"] > 0 and values["storage_requests", "get", "ok"] > 0
    assert values["memory_bytes",] > 10 << 20
    latencies = sum(one.value for one in told if one.name == "storage_latency" and one.labels["operation"] == "put")
    assert latencies == values["storage_requests", "put", "ok"]
    assert {one.name for one in told} >= {"cache_lookups", "storage_seconds"}
    assert again == told


async def test_the_metrics_of_an_agent_have_what_a_pod_counted_once_however_often_its_end_is_read():
    counted = [
        Metric(name="storage_requests", labels={"operation": "put", "outcome": "ok"}, value=3),
        Metric(name="storage_bytes", labels={"operation": "put", "outcome": "ok"}, value=7_000),
        Metric(name="storage_retries", labels={"operation": "put", "code": "storage.throttled"}, value=2),
        Metric(name="cache_lookups", labels={"cache": "packs", "outcome": "hit"}, value=5),
    ]
    result = BackupResult(
        snapshot="ab12", total_bytes=9_000, incremental_bytes=8_000, uploaded_bytes=6_000, files=1, errors=0
    )
    cluster = await PodCluster().create()
    await cluster.status(ended_status(write_result(BACKUP, result, counters=counted)))
    metrics = Metrics("node1", cluster.clock)
    callbacks = JobTelemetry(metrics).callbacks_for(await cluster.api.get(DATA_UPLOADS, KEY))
    for _ in range(2):
        async with cluster.runner().job(BACKUP, SECRETS, callbacks) as work:
            assert await work.result() == result
    text = metrics.render().decode()
    assert "lighterage_uploaded_bytes_total 7000.0\n" in text
    assert 'lighterage_storage_requests_total{operation="put",status="ok"} 3.0\n' in text
    assert 'lighterage_storage_retries_total{code="storage.throttled",operation="put"} 2.0\n' in text
    assert 'lighterage_cache_lookups_total{cache="packs",outcome="hit"} 5.0\n' in text


async def test_what_a_worker_counted_before_it_failed_is_told():
    counted = Metric(name="storage_requests", labels={"operation": "put", "outcome": "storage.out-of-space"}, value=3)
    message = write_error(JobError(code="storage.out-of-space", message="full"), counters=[counted])
    cluster, told = await PodCluster().create(), []
    async with cluster.runner().job(BACKUP, SECRETS, JobCallbacks(on_metric=told.append)) as work:
        await cluster.status(ended_status(message, exit_code=1))
        with pytest.raises(OutOfSpace):
            await work.result()
    assert told == [counted]
