"""Outages around the agent, with real processes: API server, object store and Velero are away for a while.

Numbers are those of the contract's acceptance list (§12).
"""

from __future__ import annotations

import os
import signal
import threading

import pytest

from agent.kube.job import Phase
from agent.kube.resource import DATA_UPLOADS
from agent.testing.control_plane_velero import NAMESPACE
from tests.controlplane.backups import of_backup
from tests.controlplane.cluster import Cluster
from tests.controlplane.transfers import assert_completed, in_progress, slow_application


@pytest.mark.check(23)
def test_check_23_velero_starts_again_while_data_moves(cluster: Cluster) -> None:
    namespace = slow_application(cluster)
    backup = cluster.back_up("--snapshot-move-data", namespace=namespace, wait=False)
    waiting = "WaitingForPluginOperations"
    cluster.eventually("the backup waits", lambda: cluster.velero.phase("backup", backup) == waiting)

    def moving() -> bool:
        uploads = cluster.objects(DATA_UPLOADS, NAMESPACE, of_backup(backup))
        return [upload.status.phase for upload in uploads] == [Phase.IN_PROGRESS]

    cluster.eventually("data moves", moving)  # a server that is killed while it makes a repository leaves it unusable
    cluster.velero.server.kill()
    cluster.velero.server.start()
    cluster.wait_ended("backup", backup)
    assert cluster.velero.phase("backup", backup) == "Completed"
    cluster.assert_clean()


@pytest.mark.check(24)
@pytest.mark.parametrize("seconds", [10, 60])
def test_check_24_a_transfer_survives_the_api_server(cluster: Cluster, seconds: int) -> None:
    namespace, upload = in_progress(cluster)
    cluster.plane.outage(seconds)
    ended = assert_completed(cluster, namespace, upload.metadata.name, 24)
    assert ended.status.node == upload.status.node
    assert ended.status.start_timestamp == upload.status.start_timestamp


@pytest.mark.slow
def test_an_api_server_that_hangs_is_survived_too(cluster: Cluster) -> None:
    namespace, upload = in_progress(cluster)
    cluster.plane.api_server.pause()
    threading.Event().wait(15)
    cluster.plane.api_server.resume()
    assert_completed(cluster, namespace, upload.metadata.name, 24)


@pytest.mark.check(26)
def test_check_26_the_object_store_may_be_away_for_a_while(cluster: Cluster) -> None:
    namespace, upload = in_progress(cluster)
    os.kill(cluster.s3.pid, signal.SIGSTOP)
    threading.Event().wait(20)
    os.kill(cluster.s3.pid, signal.SIGCONT)
    assert_completed(cluster, namespace, upload.metadata.name, 24, seconds=180)
