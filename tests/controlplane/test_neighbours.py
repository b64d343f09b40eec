"""Another Velero in another namespace of the cluster: neither works on what is the other's.

Numbers are those of the contract's acceptance list (§12).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from agent.kube.job import Phase
from agent.kube.resource import DATA_UPLOADS
from agent.testing.control_plane_process import ChildProgram
from agent.testing.control_plane_velero import NAMESPACE
from tests.controlplane.agents import LIGHTER
from tests.controlplane.cluster import Cluster

OTHER = "other-velero"


@pytest.fixture
def other_agent(cluster: Cluster) -> Iterator[None]:
    """A namespace with copies of what Velero has in its own, and an agent that works for it."""
    cluster.plane.kubectl("create", "namespace", OTHER)
    folder = cluster.plane.folder / OTHER
    command = [
        LIGHTER,
        "agent",
        "run",
        f"--kubeconfig={cluster.plane.kubeconfig}",
        f"--host-pods={cluster.nodes.pods_folder('n1')}",
        "--metrics-address=127.0.0.1:0",
    ]
    environment = {
        **cluster.velero.environment,
        "NODE_NAME": "n1",
        "VELERO_NAMESPACE": OTHER,
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "VELERO_SCRATCH_DIR": str(folder / "scratch"),
    }
    program = ChildProgram(OTHER, command, folder, environment=environment)
    program.start()
    yield
    program.stop()
    cluster.plane.kubectl("delete", "namespace", OTHER, "--wait=false")


def copy(cluster: Cluster, kind: str, *names: str, **selector: str) -> None:
    """Objects of Velero's namespace in the other one, with their status."""
    chosen = [f"--selector={','.join(f'{key}={value}' for key, value in selector.items())}"] if selector else names
    printed = cluster.plane.kubectl("get", kind, *chosen, f"--namespace={NAMESPACE}", "-o=json")
    found = json.loads(printed)
    for one in found["items"] if found["kind"] == "List" else [found]:
        metadata = {"name": one["metadata"]["name"], "namespace": OTHER, "labels": one["metadata"].get("labels", {})}
        cluster.plane.apply({**one, "metadata": metadata})


@pytest.mark.slow
@pytest.mark.check(3)
def test_check_03_each_agent_works_for_its_own_namespace(cluster: Cluster, other_agent: None) -> None:
    namespace, volume = cluster.application()
    (volume / "file").write_bytes(os.urandom(100_000))
    ours = cluster.upload(namespace)
    assert cluster.wait_final(ours).status.phase is Phase.COMPLETED
    copy(cluster, "secret", "cloud-credentials", "velero-repo-credentials")
    copy(cluster, "backupstoragelocation", "default")
    copy(cluster, "backuprepository", **{"velero.io/volume-namespace": namespace})

    before = cluster.objects(DATA_UPLOADS, NAMESPACE)
    theirs = cluster.upload(namespace, agents_of=OTHER)
    cluster.eventually(
        "it is final", lambda: cluster.get(DATA_UPLOADS, theirs, OTHER).status.phase.is_final, seconds=90
    )
    status = cluster.get(DATA_UPLOADS, theirs, OTHER).status
    assert (status.phase, status.message, status.node) == (Phase.COMPLETED, "", "n1")
    assert cluster.objects(DATA_UPLOADS, NAMESPACE) == before
    assert theirs not in cluster.agents.log("n1") + cluster.agents.log("n2")
    cluster.assert_clean()
