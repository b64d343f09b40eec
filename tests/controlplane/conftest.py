"""The control plane on loopback, started once for all tests of this tier, and everything around it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.testing.control_plane import ControlPlane
from agent.testing.control_plane_isolation import isolate
from agent.testing.control_plane_process import tool
from agent.testing.s3_server import SeaweedServer
from hack import checks_docs
from tests.controlplane.cluster import Cluster, cluster_around

NODES = ("n1", "n2")
_HERE = Path(__file__).parent
TOOLS = (
    "kube-apiserver",
    "csi-test-driver",
    "velero",
    "velero-plugin-for-aws",
    "velero-crds",
    "kopia",
    "snapshot-crds",
    "prometheus-crds",
    "helm",
)
"""One of each Go module."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Results say against which Velero they were, where VELERO chooses another than the one of every day."""
    version = checks_docs.pinned(os.environ.get("VELERO", ""))
    if version != checks_docs.pinned():
        for item in items:
            if item.path.is_relative_to(_HERE):
                item.user_properties.append(("velero", version))


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """etcd, API server and controllers, with the kinds of Velero, the CSI snapshotter and Prometheus' operator."""
    for name in TOOLS:
        tool(name)  # built or found while there is still a network
    isolate()
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as running:
        running.install_definitions(tool("velero-crds"), tool("snapshot-crds"), tool("prometheus-crds"))
        yield running


@pytest.fixture(scope="session")
def whole_cluster(plane: ControlPlane) -> Iterator[Cluster]:
    """Two nodes, storage, an S3 server, Velero, and our manifest in the place of its own."""
    with SeaweedServer(plane.folder / "s3") as s3, cluster_around(plane, s3, NODES) as cluster:
        yield cluster


@pytest.fixture
def cluster(whole_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster as a test wants to find it: an agent on each node, nothing broken."""
    whole_cluster.nodes.check()
    whole_cluster.default_config()
    whole_cluster.agents.ensure(*NODES)
    yield whole_cluster
    whole_cluster.storage.faults()
