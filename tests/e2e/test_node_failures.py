"""Failures of what is on the node itself: workers, images, the kubelet (contract §12.16, §12.21)."""

from __future__ import annotations

import pytest

from tests.e2e.agent_switch import AgentSwitch
from tests.e2e.cluster import VELERO_NAMESPACE, Cluster
from tests.e2e.conftest import Applications
from tests.e2e.direct import data_upload
from tests.e2e.guide import agent_pod
from tests.e2e.location import Location
from tests.e2e.node_faults import NodeFaults
from tests.e2e.store_faults import Gate
from tests.e2e.workload import Volume, Workload

pytestmark = [pytest.mark.disturbing, pytest.mark.usefixtures("clean")]

_KILL_WORKERS = """
import os, pathlib, signal
found = {}
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        parent = folder.joinpath("stat").read_text().rpartition(")")[2].split()[1]
        found[folder.name] = parent, b"agent.movers.forkserver" in folder.joinpath("cmdline").read_bytes()
    except OSError:
        pass
for pid, (parent, one_of_them) in found.items():
    if one_of_them and found.get(parent, ("", False))[1]:
        os.kill(int(pid), signal.SIGKILL)
        print(pid)
"""
"""What the fork server has forked: the workers."""


@pytest.fixture
def app(applications: Applications) -> Workload:
    app = applications.deploy(Volume("files"))
    app.make("files", "large")
    return app


@pytest.fixture
def missing_image(agents: AgentSwitch, cluster: Cluster) -> str:
    """New pods of the agent's template get an image that is nowhere; the agent itself stays."""
    place = {"updateStrategy": {"type": "OnDelete", "rollingUpdate": None}}
    cluster.patch("DaemonSet", "node-agent", VELERO_NAMESPACE, {"spec": place})
    missing = "lighterage.test/nowhere:1"
    cluster.kubectl("set", "image", "daemonset/node-agent", f"node-agent={missing}", f"--namespace={VELERO_NAMESPACE}")
    return missing


@pytest.mark.check(21)
def test_killed_worker_fails_the_job_with_the_reason(
    app: Workload, cluster: Cluster, gate: Gate, location: Location
) -> None:
    gate.shut()
    job = data_upload(app, "files", location=location.name)
    job.wait_for("InProgress")

    def killed() -> str:
        return cluster.execute(VELERO_NAMESPACE, agent_pod(cluster), "python3", "-c", _KILL_WORKERS)

    cluster.wait("there is a worker", 10, killed)
    ended = job.wait_for("Failed", seconds=60)
    assert ended["status"]["message"].startswith("mover.crashed")


@pytest.mark.check(16)
def test_missing_image_fails_within_a_minute_and_is_named(app: Workload, missing_image: str) -> None:
    job = data_upload(app, "files")
    ended = job.wait_for("Failed", seconds=60)
    assert missing_image in ended["status"]["message"]


def test_kubelet_away_while_data_moves(
    app: Workload, cluster: Cluster, faults: NodeFaults, gate: Gate, location: Location
) -> None:
    gate.shut()
    job = data_upload(app, "files", location=location.name)
    job.wait_for("InProgress")
    with faults.without("kubelet"):
        gate.open()
        job.wait_for("Completed", "InProgress", seconds=30)
    job.wait_for("Completed", seconds=90)
