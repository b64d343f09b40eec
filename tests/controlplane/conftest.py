"""The control plane on loopback, started once for all tests of this tier, and everything around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from agent.testing.control_plane import ControlPlane
from agent.testing.control_plane_csi import CsiStorage
from agent.testing.control_plane_isolation import isolate
from agent.testing.control_plane_process import tool
from agent.testing.control_plane_velero import VeleroServer
from agent.testing.s3_server import SeaweedServer
from agent.testing.simulated_node import SimulatedNodes
from tests.controlplane.agents import Agents
from tests.controlplane.cluster import Cluster

NODES = ("n1", "n2")
TOOLS = ("kube-apiserver", "csi-test-driver", "velero", "velero-crds-1.18", "kopia", "snapshot-crds")
"""One of each Go module."""


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """etcd, API server and controllers, with the kinds of Velero and of the CSI snapshotter."""
    for name in TOOLS:
        tool(name)  # built or found while there is still a network
    isolate()
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as running:
        running.install_definitions(tool("velero-crds-1.18"), tool("snapshot-crds"))
        yield running


@pytest.fixture(scope="session")
def whole_cluster(plane: ControlPlane) -> Iterator[Cluster]:
    """Two nodes, storage, an S3 server, Velero, and our manifest in the place of its own."""
    with ExitStack() as stack:
        s3 = stack.enter_context(SeaweedServer(plane.folder / "s3"))
        storage = stack.enter_context(CsiStorage(plane))
        nodes = stack.enter_context(SimulatedNodes(plane, storage))
        for name in NODES:
            nodes.add(name)
        velero = stack.enter_context(VeleroServer(plane, s3))
        agents = Agents(plane, nodes, velero)
        stack.callback(agents.stop_all)
        agents.install()
        yield Cluster(plane, storage, nodes, s3, velero, agents)


@pytest.fixture
def cluster(whole_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster as a test wants to find it: an agent on each node, nothing broken."""
    whole_cluster.nodes.check()
    whole_cluster.default_config()
    whole_cluster.agents.ensure(*NODES)
    yield whole_cluster
    whole_cluster.storage.faults()
