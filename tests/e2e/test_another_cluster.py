"""A cluster is lost, and another one that shares only the bucket restores (contract §12.31).

Two runs (see `make e2e`): the first leaves a backup, the second, on a cluster that is new, finds it. What has to come
back lies in the bucket, too, in a folder that Velero leaves alone.
"""

from __future__ import annotations

import pytest

from tests.e2e.cluster import VELERO_NAMESPACE, Cluster
from tests.e2e.conftest import Comparison
from tests.e2e.object_store import ObjectStore
from tests.e2e.velero import MOVE, Velero
from tests.e2e.workload import Volume, Workload

pytestmark = pytest.mark.another

_NAME = "moving-house"
_EXPECTED = "plugins/lighterage-e2e/moving-house.json"


@pytest.mark.check(31)
def test_first_cluster_leaves_a_backup(cluster: Cluster, store: ObjectStore, velero: Velero) -> None:
    app = Workload(cluster, _NAME, [Volume("files")])
    app.deploy()
    app.make("files", "odd", "small")
    store.write(_EXPECTED, app.content())
    velero.backup(_NAME, _NAME, MOVE)


@pytest.mark.check(31)
def test_second_cluster_restores_it(
    assert_equal: Comparison, cluster: Cluster, store: ObjectStore, velero: Velero
) -> None:
    assert cluster.get("Namespace", _NAME) is None, "this cluster is not new"
    cluster.wait("the backup is found in the bucket", 120, lambda: cluster.get("Backup", _NAME, VELERO_NAMESPACE))
    velero.restore(_NAME, _NAME)
    app = Workload(cluster, _NAME, [Volume("files")])
    app.wait_until_running()
    assert_equal(store.read(_EXPECTED), app.content())
