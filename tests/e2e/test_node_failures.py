"""Failures of what is on the node itself: workers, images, the kubelet (contract §12.16, §12.21)."""

from __future__ import annotations

import pytest

from tests.e2e.agent_switch import AgentSwitch
from tests.e2e.cluster import VELERO_NAMESPACE, Cluster, phase
from tests.e2e.conftest import Applications
from tests.e2e.direct import data_upload
from tests.e2e.node_faults import node_faults
from tests.e2e.workload import Volume, Workload

pytestmark = pytest.mark.disturbing

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
def test_killed_worker_fails_the_job_with_the_reason(app: Workload, cluster: Cluster) -> None:
    (agent,) = cluster.list("Pod", VELERO_NAMESPACE, "role=node-agent")
    job = data_upload(app, "files")
    cluster.wait("InProgress", 60, lambda: phase(job.read()) not in {"", "New", "Accepted", "Prepared"})
    killed = cluster.execute(VELERO_NAMESPACE, agent["metadata"]["name"], "python3", "-c", _KILL_WORKERS)
    ended = job.wait_for("Failed", "Completed", seconds=60)
    if phase(ended) == "Failed":
        assert killed
        assert "worker" in ended["status"]["message"]


@pytest.mark.check(16)
def test_missing_image_fails_within_a_minute_and_is_named(app: Workload, missing_image: str) -> None:
    job = data_upload(app, "files")
    ended = job.wait_for("Failed", seconds=60)
    assert missing_image in ended["status"]["message"]


def test_kubelet_away_while_data_moves(app: Workload, cluster: Cluster) -> None:
    faults = node_faults()
    job = data_upload(app, "files")
    cluster.wait("Prepared", 60, lambda: phase(job.read()) not in {"", "New", "Accepted"})
    with faults.without("kubelet"):
        job.wait_for("Completed", "InProgress", seconds=30)
    job.wait_for("Completed", seconds=90)
