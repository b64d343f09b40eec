"""Taking a node over from the stock agent while its mover pods run (contract §13.14)."""

from __future__ import annotations

import random

import pytest

from agent.kube.codec import JsonObject
from agent.kube.job import Phase
from agent.kube.meta import Key
from agent.kube.resource import DATA_UPLOADS, PODS
from tests.unit.controllers.controllers_kit import NAMESPACE, NODES, Cluster

RESULT = '{"snapshotID":"stock-snapshot","emptySnapshot":false,"totalBytes":7,"incrementalBytes":3}'


async def stock_upload(cluster: Cluster, phase: str) -> None:
    """An upload that the stock agent brought as far as that, with its pod."""
    upload = await cluster.upload("u")
    value = cluster.kube.raw(DATA_UPLOADS, upload.key)
    status: JsonObject = {"phase": phase, "acceptedByNode": NODES[0], "acceptedTimestamp": "2026-01-01T00:00:00Z"}
    if phase != "Accepted":
        status["node"] = NODES[0]
    if phase == "InProgress":
        status["startTimestamp"] = "2026-01-01T00:00:05Z"
    metadata = value["metadata"]
    assert isinstance(metadata, dict)
    metadata["finalizers"] = ["velero.io/data-upload-download-finalizer"]
    cluster.kube.put_raw(DATA_UPLOADS, {**value, "status": status})
    owner: JsonObject = {
        "apiVersion": "velero.io/v2alpha1",
        "kind": "DataUpload",
        "name": "u",
        "uid": upload.metadata.uid,
        "controller": True,
    }
    pod: JsonObject = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "u",
            "namespace": NAMESPACE,
            "uid": "stock-pod",
            "labels": {"velero.io/data-upload": "u"},
            "ownerReferences": [owner],
        },
        "spec": {
            "nodeName": NODES[0],
            "containers": [{"name": upload.metadata.uid, "command": ["/velero", "data-mover", "backup"]}],
        },
        "status": {"phase": "Running"},
    }
    cluster.kube.put_raw(PODS, pod)


def end_pod(cluster: Cluster, message: str, *, code: int = 0) -> None:
    value = cluster.kube.raw(PODS, Key(NAMESPACE, "u"))
    spec = value["spec"]
    assert isinstance(spec, dict)
    containers = spec["containers"]
    assert isinstance(containers, list)
    assert isinstance(containers[0], dict)
    ended: JsonObject = {"name": containers[0]["name"], "state": {"terminated": {"exitCode": code, "message": message}}}
    phase = "Failed" if code else "Succeeded"
    cluster.kube.put_raw(PODS, {**value, "status": {"phase": phase, "containerStatuses": [ended]}})


async def test_a_running_stock_mover_is_followed_to_its_result() -> None:
    cluster = Cluster(random.Random(1))
    await stock_upload(cluster, "InProgress")
    cluster.start_agent(NODES[0])
    await cluster.run(60)
    assert await cluster.phase_of(DATA_UPLOADS, "u") is Phase.IN_PROGRESS
    end_pod(cluster, RESULT)
    await cluster.run(60)
    upload = await cluster.kube.get(DATA_UPLOADS, Key(NAMESPACE, "u"))
    assert (upload.status.phase, upload.status.snapshot_id) == (Phase.COMPLETED, "stock-snapshot")
    assert upload.status.progress.total_bytes == 7
    assert not cluster.moved.started
    await cluster.stop()


async def test_a_stock_mover_that_fails_is_the_message() -> None:
    cluster = Cluster(random.Random(1))
    await stock_upload(cluster, "InProgress")
    cluster.start_agent(NODES[0])
    await cluster.run(30)
    end_pod(cluster, "data path backup failed: disk on fire", code=1)
    await cluster.run(60)
    upload = await cluster.kube.get(DATA_UPLOADS, Key(NAMESPACE, "u"))
    assert upload.status.phase is Phase.FAILED
    assert "disk on fire" in upload.status.message
    await cluster.stop()


@pytest.mark.parametrize("phase", ["Accepted", "Prepared"])
async def test_a_stock_mover_that_has_not_begun_goes_and_the_upload_is_done_by_us(phase: str) -> None:
    cluster = Cluster(random.Random(1))
    await stock_upload(cluster, phase)
    cluster.start_agent(NODES[0])
    await cluster.run(60)
    upload = await cluster.kube.get(DATA_UPLOADS, Key(NAMESPACE, "u"))
    assert (upload.status.phase, upload.status.snapshot_id) == (Phase.COMPLETED, "snapshot-of-DataUpload/u")
    assert not (await cluster.kube.list(PODS)).items
    await cluster.stop()


async def test_an_upload_that_was_prepared_long_ago_has_its_whole_time_to_be_prepared_anew() -> None:
    cluster = Cluster(random.Random(1), concurrency=1)
    await stock_upload(cluster, "Prepared")
    cluster.clock.advance(7_200)
    cluster.start_agent(NODES[0])
    await cluster.run(1)
    upload = await cluster.kube.get(DATA_UPLOADS, Key(NAMESPACE, "u"))
    assert (upload.status.phase, upload.status.node, upload.status.accepted_by_node) == (Phase.ACCEPTED, "", NODES[0])
    assert upload.status.accepted_timestamp is not None
    assert (cluster.clock.now_ns() / 1e9 - upload.status.accepted_timestamp.timestamp()) < 5
    await cluster.run(60)
    assert await cluster.phase_of(DATA_UPLOADS, "u") is Phase.COMPLETED
    await cluster.stop()


async def test_the_agent_ending_leaves_a_stock_mover_to_the_next_one() -> None:
    cluster = Cluster(random.Random(1))
    await stock_upload(cluster, "InProgress")
    cluster.start_agent(NODES[0])
    await cluster.run(30)
    await cluster.controllers[NODES[0]].drain(5)
    await cluster.kill_agent(NODES[0])
    upload = await cluster.kube.get(DATA_UPLOADS, Key(NAMESPACE, "u"))
    assert (upload.status.phase, upload.spec.cancel) == (Phase.IN_PROGRESS, False)
    cluster.start_agent(NODES[0])
    await cluster.run(30)
    end_pod(cluster, RESULT)
    await cluster.run(60)
    assert await cluster.phase_of(DATA_UPLOADS, "u") is Phase.COMPLETED
    await cluster.stop()


async def test_a_stock_mover_that_vanishes_fails_the_upload_by_name() -> None:
    cluster = Cluster(random.Random(1))
    await stock_upload(cluster, "InProgress")
    cluster.start_agent(NODES[0])
    await cluster.run(30)
    cluster.kube.remove(PODS, Key(NAMESPACE, "u"))
    await cluster.run(60)
    upload = await cluster.kube.get(DATA_UPLOADS, Key(NAMESPACE, "u"))
    assert upload.status.phase is Phase.FAILED
    assert upload.status.message.startswith("mover.crashed: the mover pod velero/u is gone")
    assert not cluster.moved.started, "nothing is moved a second time"
    await cluster.stop()


@pytest.mark.parametrize("ends", [True, False])
async def test_a_cancel_while_a_stock_mover_is_followed_ends_the_upload_canceled(ends: bool) -> None:
    cluster = Cluster(random.Random(1))
    await stock_upload(cluster, "InProgress")
    cluster.start_agent(NODES[0])
    await cluster.run(30)
    await cluster.patch(DATA_UPLOADS, "u", {"spec": {"cancel": True}})
    await cluster.run(10)
    assert await cluster.phase_of(DATA_UPLOADS, "u") is Phase.CANCELING
    if ends:
        end_pod(cluster, "error to run data path: data path is canceled", code=1)
    await cluster.run(20 if ends else 300)
    upload = await cluster.kube.get(DATA_UPLOADS, Key(NAMESPACE, "u"))
    assert upload.status.phase is Phase.CANCELED
    assert "spec.cancel was set" in upload.status.message
    assert not cluster.moved.started
    await cluster.stop()


@pytest.mark.parametrize("while_away", [True, False])
async def test_an_agent_that_is_killed_finds_the_stock_mover_or_its_result_again(while_away: bool) -> None:
    cluster = Cluster(random.Random(1))
    await stock_upload(cluster, "InProgress")
    cluster.start_agent(NODES[0])
    await cluster.run(30)
    await cluster.kill_agent(NODES[0])
    if while_away:
        end_pod(cluster, RESULT)
    cluster.start_agent(NODES[0])
    await cluster.run(30)
    if not while_away:
        assert await cluster.phase_of(DATA_UPLOADS, "u") is Phase.IN_PROGRESS
        end_pod(cluster, RESULT)
        await cluster.run(60)
    upload = await cluster.kube.get(DATA_UPLOADS, Key(NAMESPACE, "u"))
    assert (upload.status.phase, upload.status.snapshot_id) == (Phase.COMPLETED, "stock-snapshot")
    assert not cluster.moved.started
    await cluster.stop()
