"""Outages with real processes: agents, workers, nodes, API server and object store end, or are away for a while.

Numbers are those of the contract's acceptance list (§12).
"""

from __future__ import annotations

import os
import signal
import threading

import pytest

from agent.kube.data_upload import DataUpload
from agent.kube.job import Phase
from agent.kube.resource import DATA_UPLOADS
from agent.testing.control_plane_velero import NAMESPACE
from tests.controlplane.cluster import Cluster
from tests.controlplane.test_uploads import slow_application


def in_progress(cluster: Cluster, mebibytes: int = 24) -> tuple[str, DataUpload]:
    """A namespace and its upload, which has begun to move data."""
    namespace = slow_application(cluster, mebibytes)
    return namespace, cluster.wait_phase(cluster.upload(namespace), Phase.IN_PROGRESS)


def assert_completed(cluster: Cluster, namespace: str, name: str, files: int, seconds: float = 90.0) -> DataUpload:
    upload = cluster.wait_final(name, seconds)
    assert (upload.status.phase, upload.status.message) == (Phase.COMPLETED, "")
    assert len(list(cluster.restored_by_kopia(namespace, upload.status.snapshot_id).iterdir())) == files
    cluster.assert_clean()
    return upload


def test_check_20_an_upload_goes_on_with_the_next_agent(cluster: Cluster) -> None:
    namespace, upload = in_progress(cluster)
    node = upload.status.node
    workers = cluster.agents.workers(node)
    cluster.agents.kill(node)
    cluster.eventually("workers end with their agent", lambda: not any(map(_lives, workers)), 10)
    cluster.agents.ensure("n1", "n2")
    name = upload.metadata.name
    assert_completed(cluster, namespace, name, 24)


def test_check_21_a_killed_worker_is_a_failure_with_a_reason(cluster: Cluster) -> None:
    namespace, upload = in_progress(cluster)
    cluster.eventually("there is a worker", lambda: bool(cluster.agents.workers(upload.status.node)), 10)
    for worker in cluster.agents.workers(upload.status.node):
        os.kill(worker, signal.SIGKILL)
    ended = cluster.wait_final(upload.metadata.name, seconds=60)
    assert ended.status.phase is Phase.FAILED
    assert ended.status.message.startswith("mover.crashed")
    cluster.assert_clean()
    again = cluster.upload(namespace)
    cluster.config("lighterage-config", {})
    assert_completed(cluster, namespace, again, 24)


def test_check_23_velero_starts_again_while_data_moves(cluster: Cluster) -> None:
    namespace = slow_application(cluster)
    backup = cluster.back_up("--snapshot-move-data", namespace=namespace, wait=False)
    waiting = "WaitingForPluginOperations"
    cluster.eventually("data moves", lambda: cluster.velero.phase("backup", backup) == waiting)
    cluster.velero.server.kill()
    cluster.velero.server.start()
    cluster.wait_ended("backup", backup)
    assert cluster.velero.phase("backup", backup) == "Completed"
    cluster.assert_clean()


@pytest.mark.parametrize("seconds", [10, 60])
def test_check_24_a_transfer_survives_the_api_server(cluster: Cluster, seconds: int) -> None:
    namespace, upload = in_progress(cluster)
    cluster.plane.outage(seconds)
    ended = assert_completed(cluster, namespace, upload.metadata.name, 24)
    assert ended.status.node == upload.status.node
    assert ended.status.start_timestamp == upload.status.start_timestamp


def test_an_api_server_that_hangs_is_survived_too(cluster: Cluster) -> None:
    namespace, upload = in_progress(cluster)
    cluster.plane.api_server.pause()
    threading.Event().wait(15)
    cluster.plane.api_server.resume()
    assert_completed(cluster, namespace, upload.metadata.name, 24)


def test_check_25_conflicting_writers_cost_nothing(cluster: Cluster) -> None:
    namespace, upload = in_progress(cluster)
    name, number = upload.metadata.name, 0
    while not cluster.upload_of(name).status.phase.is_final:
        number += 1
        cluster.patch(DATA_UPLOADS, name, {"metadata": {"annotations": {"example.com/n": str(number)}}}, NAMESPACE)
    assert number > 5
    ended = assert_completed(cluster, namespace, name, 24)
    assert ended.metadata.annotations["example.com/n"] == str(number)


def test_check_26_the_object_store_may_be_away_for_a_while(cluster: Cluster) -> None:
    namespace, upload = in_progress(cluster)
    os.kill(cluster.s3.pid, signal.SIGSTOP)
    threading.Event().wait(20)
    os.kill(cluster.s3.pid, signal.SIGCONT)
    assert_completed(cluster, namespace, upload.metadata.name, 24, seconds=180)


@pytest.mark.slow
def test_check_22_the_work_of_a_dead_node_is_ended_by_another_agent(cluster: Cluster) -> None:
    _, upload = in_progress(cluster, mebibytes=60)
    node = upload.status.node
    cluster.agents.kill(node)
    cluster.nodes.kill(node)
    try:
        ended = cluster.wait_final(upload.metadata.name, seconds=300)
        assert ended.status.phase in {Phase.FAILED, Phase.CANCELED}
        assert node in ended.status.message
    finally:
        cluster.nodes.revive(node)
    cluster.assert_clean(60)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
