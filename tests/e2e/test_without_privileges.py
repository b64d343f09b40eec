"""The agent of a cluster that forbids host paths, on a real node: it is not root, and pods move the data."""

from __future__ import annotations

import pytest

from tests.e2e.cluster import VELERO_NAMESPACE, Cluster
from tests.e2e.conftest import Comparison
from tests.e2e.direct import data_upload
from tests.e2e.guide import Guide, Seat
from tests.e2e.location import Location
from tests.e2e.store_faults import Gate
from tests.e2e.velero import MOVE, Velero
from tests.e2e.workload import Workload

pytestmark = [pytest.mark.disturbing, pytest.mark.usefixtures("clean")]


@pytest.fixture
def agent(cluster: Cluster, guide: Guide, seat: Seat) -> str:
    """The name of its pod."""
    seat.clear()
    cluster.kubectl("apply", "-k", str(guide.overlay("without-privileges", base="without-host-paths")))
    return seat.ready()


def test_an_agent_that_is_not_root_backs_up_and_restores_everything(
    agent: str, app: Workload, assert_equal: Comparison, cluster: Cluster, velero: Velero
) -> None:
    user = cluster.execute(VELERO_NAMESPACE, agent, "python3", "-c", "import os; print(os.getuid())")
    assert user.strip() == "65532"
    app.make("files", "odd", seed=2)
    content = app.content()
    velero.backup(app.namespace, app.namespace, MOVE)
    cluster.delete_namespaces([app.namespace])
    velero.restore(app.namespace, app.namespace)
    app.wait_until_running()
    assert_equal(content, app.content())


@pytest.mark.check(21)
def test_mover_pod_that_is_deleted_fails_the_job_and_is_named(
    agent: str, app: Workload, cluster: Cluster, gate: Gate, location: Location
) -> None:
    del agent  # it runs
    gate.shut()
    job = data_upload(app, "files", location=location.name)
    job.wait_for("InProgress")
    cluster.delete("Pod", job.name, VELERO_NAMESPACE, grace=0)
    ended = job.wait_for("Failed", seconds=60)
    assert ended["status"]["message"].startswith("mover.crashed")
    assert job.name in ended["status"]["message"]
