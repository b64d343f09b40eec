"""Two Veleros in one cluster, each in a namespace of its own. Their servers take turns: both want port 8080.

Numbers are those of the contract's acceptance list (§12).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.kube.job import Phase
from agent.kube.resource import DATA_DOWNLOADS, DATA_UPLOADS, POD_VOLUME_BACKUPS, PODS
from agent.testing.control_plane_velero import VeleroServer
from tests.controlplane.agents import Agents
from tests.controlplane.cluster import Cluster
from tests.controlplane.manifests import chart

NODES = ("n1", "n2")
SECOND = "velero-second"


@contextmanager
def second_velero(cluster: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    """The cluster as the second Velero has it: with agents of its own on the same nodes, with rights of their own."""
    cluster.velero.server.stop()
    with ExitStack() as stack:
        stack.callback(cluster.velero.server.start)
        velero = stack.enter_context(VeleroServer(cluster.plane, cluster.s3, namespace=SECOND))
        cluster.plane.apply(*chart({"rbac": {"name": "lighterage-second"}}, tmp_path, SECOND))
        agents = Agents(cluster.plane, cluster.nodes, velero)
        agents.log_in()
        stack.callback(cluster.plane.kubectl, "delete", "clusterrole,clusterrolebinding", "lighterage-second")
        stack.callback(agents.stop_all)
        second = replace(cluster, velero=velero, agents=agents)
        second.default_config()
        agents.ensure(*NODES)
        yield second


@pytest.mark.slow
@pytest.mark.check(3)
def test_check_03_each_of_two_veleros_has_agents_that_work_for_it_alone(cluster: Cluster, tmp_path: Path) -> None:
    namespace, folder = cluster.application()
    (folder / "file").write_bytes(os.urandom(300_000))
    assert cluster.wait_final(cluster.upload(namespace)).status.phase is Phase.COMPLETED
    with second_velero(cluster, tmp_path) as second:
        pods = [pod for pod in cluster.objects(PODS, SECOND) if pod.metadata.labels.get("role") == "node-agent"]
        assert {pod.spec.node_name for pod in pods} == set(NODES)
        of_the_first = cluster.upload(namespace)
        moved = second.back_up("--snapshot-move-data", namespace=namespace)
        by_path = second.back_up("--default-volumes-to-fs-backup", namespace=namespace)
        restore, target = second.restore(moved, source=namespace)

        ended = [second.velero.phase("backup", moved), second.velero.phase("backup", by_path)]
        assert [*ended, second.velero.phase("restore", restore)] == ["Completed"] * 3
        for kind in (DATA_UPLOADS, DATA_DOWNLOADS, POD_VOLUME_BACKUPS):
            assert [one.status.phase for one in cluster.objects(kind, SECOND)] == [Phase.COMPLETED]
        assert (cluster.storage.volume_of(target, "data") / "file").read_bytes() == (folder / "file").read_bytes()
        assert cluster.wait_final(of_the_first).status.phase is Phase.COMPLETED
        second.assert_clean()
    cluster.assert_clean()
