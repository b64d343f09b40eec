"""From Velero's own agent to ours and back: nothing is lost, nothing is uploaded again (contract §12.43, §12.44)."""

from __future__ import annotations

import pytest

from tests.e2e.agent_switch import OURS, STOCK, AgentSwitch
from tests.e2e.cluster import VELERO_NAMESPACE, Cluster
from tests.e2e.conftest import Applications, Comparison
from tests.e2e.guide import agent_pod
from tests.e2e.object_store import ObjectStore
from tests.e2e.velero import MOVE, MOVEMENTS, POD_VOLUMES, Velero
from tests.e2e.workload import Volume, Workload

pytestmark = pytest.mark.disturbing

_CHANGE = 700_000
_SLACK = 1_000_000
"""What a backup writes beside the data: index, manifests, logs and objects of Velero's."""


@pytest.mark.check(9, 43)
@pytest.mark.parametrize("options", [[MOVE], POD_VOLUMES], ids=["data-mover", "pod-volume"])
def test_there_and_back_again(
    agents: AgentSwitch,
    applications: Applications,
    assert_equal: Comparison,
    store: ObjectStore,
    velero: Velero,
    options: list[str],
) -> None:
    app = applications.deploy(Volume("files"))
    app.make("files", "odd", "small", "large")
    sizes, contents = [], []
    for turn, image in enumerate([STOCK, OURS, STOCK]):
        agents.use(image)
        app.shell(f"head -c {_CHANGE} /dev/urandom >/data/files/{turn}")
        contents.append(app.content())
        before = store.size()
        velero.backup(f"{app.namespace}-{turn}", app.namespace, *options)
        sizes.append(store.size() - before)
    assert max(sizes[1:]) < _CHANGE + _SLACK
    # Only of ours: the stock agent's figure depends on whether its estimate of the whole was ready.
    (ours,) = velero.movements(backup=f"{app.namespace}-1")
    assert ours.incremental_bytes == _CHANGE

    # Each agent restores what the other has written.
    for image, turn in ((STOCK, 1), (OURS, 0), (OURS, 2)):
        agents.use(image)
        applications.delete()
        velero.restore(f"{app.namespace}-{turn}", f"{app.namespace}-{turn}")
        app.wait_until_running()
        assert_equal(contents[turn], app.content())


@pytest.mark.check(44)
def test_the_agent_that_goes_leaves_no_finalizer_behind_and_the_stock_one_goes_on(
    agents: AgentSwitch,
    app: Workload,
    applications: Applications,
    assert_equal: Comparison,
    cluster: Cluster,
    velero: Velero,
) -> None:
    content = app.content()
    for kind, options in (("moved", [MOVE]), ("files", POD_VOLUMES)):
        velero.backup(f"{app.namespace}-{kind}", app.namespace, *options)
    agents.use(STOCK)
    held = [
        found["metadata"]["name"]
        for kind in MOVEMENTS
        for found in cluster.list(kind, VELERO_NAMESPACE)
        if found["metadata"]["name"].startswith(app.namespace) and found["metadata"].get("finalizers")
    ]
    assert held == []
    applications.delete()
    velero.restore(app.namespace, f"{app.namespace}-moved")
    app.wait_until_running()
    assert_equal(content, app.content())


@pytest.mark.check(2)
@pytest.mark.parametrize("options", [[MOVE], POD_VOLUMES], ids=["data-mover", "pod-volume"])
def test_manifest_of_velero_works_with_only_its_image_changed(
    agents: AgentSwitch,
    app: Workload,
    assert_equal: Comparison,
    cluster: Cluster,
    velero: Velero,
    options: list[str],
) -> None:
    agents.drop_in()
    found = cluster.execute(VELERO_NAMESPACE, agent_pod(cluster), "lighter", "agent", "run", "--check")
    assert "fatal" not in found
    content = app.content()
    velero.backup(app.namespace, app.namespace, *options)
    cluster.delete_namespaces([app.namespace])
    velero.restore(app.namespace, app.namespace)
    app.wait_until_running()
    assert_equal(content, app.content())
