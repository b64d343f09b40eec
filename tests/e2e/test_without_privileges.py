"""The agent of a cluster that forbids host paths, on a real node: it is not root, and pods move the data."""

from __future__ import annotations

import pytest

from tests.e2e.cluster import VELERO_NAMESPACE, Cluster
from tests.e2e.conftest import Comparison
from tests.e2e.guide import Guide, Seat
from tests.e2e.velero import MOVE, Velero
from tests.e2e.workload import Workload


@pytest.mark.disturbing
@pytest.mark.usefixtures("clean")
def test_an_agent_that_is_not_root_backs_up_and_restores_everything(
    app: Workload, assert_equal: Comparison, cluster: Cluster, guide: Guide, seat: Seat, velero: Velero
) -> None:
    seat.clear()
    cluster.kubectl("apply", "-k", str(guide.overlay("without-privileges", base="without-host-paths")))
    pod = seat.ready()
    assert cluster.execute(VELERO_NAMESPACE, pod, "python3", "-c", "import os; print(os.getuid())").strip() == "65532"
    app.make("files", "odd", seed=2)
    content = app.content()
    velero.backup(app.namespace, app.namespace, MOVE)
    cluster.delete_namespaces([app.namespace])
    velero.restore(app.namespace, app.namespace)
    app.wait_until_running()
    assert_equal(content, app.content())
