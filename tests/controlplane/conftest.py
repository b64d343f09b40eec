"""The control plane on loopback, started once for all tests of this tier."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.testing.control_plane import ControlPlane
from agent.testing.control_plane_process import tool


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """etcd, API server and controllers, with the kinds of Velero and of the CSI snapshotter."""
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as running:
        running.install_definitions(tool("velero-crds-1.18"), tool("snapshot-crds"))
        yield running
