"""Agents, workers and nodes that end while data moves; and writers that get in the way.

Numbers are those of the contract's acceptance list (§12).
"""

from __future__ import annotations

import os
import signal

import pytest

from agent.kube.job import Phase
from agent.kube.resource import DATA_UPLOADS
from agent.testing.control_plane_velero import NAMESPACE
from tests.controlplane.cluster import Cluster
from tests.controlplane.transfers import assert_completed, in_progress


@pytest.mark.check(20)
def test_check_20_an_upload_goes_on_with_the_next_agent(cluster: Cluster) -> None:
    namespace, upload = in_progress(cluster)
    node = upload.status.node
    workers = cluster.agents.workers(node)
    cluster.agents.kill(node)
    cluster.eventually("workers end with their agent", lambda: not any(map(_lives, workers)), 10)
    cluster.agents.ensure("n1", "n2")
    name = upload.metadata.name
    assert_completed(cluster, namespace, name, 24)


@pytest.mark.check(21)
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


@pytest.mark.check(22)
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


@pytest.mark.check(25)
def test_check_25_conflicting_writers_cost_nothing(cluster: Cluster) -> None:
    namespace, upload = in_progress(cluster)
    name, number = upload.metadata.name, 0
    while not cluster.upload_of(name).status.phase.is_final:
        number += 1
        cluster.patch(DATA_UPLOADS, name, {"metadata": {"annotations": {"example.com/n": str(number)}}}, NAMESPACE)
    assert number > 5
    ended = assert_completed(cluster, namespace, name, 24)
    assert ended.metadata.annotations["example.com/n"] == str(number)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
