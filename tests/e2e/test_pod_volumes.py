"""Volumes of running pods, through the node's file system (needs §2, contract §12.32, §12.33)."""

from __future__ import annotations

import pytest

from tests.e2e.agent_switch import STOCK, AgentSwitch
from tests.e2e.cluster import Cluster
from tests.e2e.conftest import Applications, Comparison
from tests.e2e.velero import POD_VOLUMES, Velero
from tests.e2e.workload import Volume, Workload

_PROJECTED = Volume("neighbour", kind="projected")
"""Never backed up, and in nobody's way."""


@pytest.mark.check(32, 33)
@pytest.mark.parametrize("kind", ["claim", "empty"])
def test_volume_comes_back_equal(
    agents: AgentSwitch, applications: Applications, assert_equal: Comparison, velero: Velero, kind: str
) -> None:
    app = applications.deploy(Volume("files", kind=kind), _PROJECTED)
    app.make("files", "odd", "small")
    before = app.content()

    velero.backup(app.namespace, app.namespace, *POD_VOLUMES)
    (backed_up,) = velero.movements(backup=app.namespace)
    assert (backed_up.kind, backed_up.phase) == ("PodVolumeBackup", "Completed")

    applications.delete()
    velero.restore(app.namespace, app.namespace)
    app.wait_until_running()
    (restored,) = velero.movements(restore=app.namespace)
    assert (restored.kind, restored.phase) == ("PodVolumeRestore", "Completed")
    assert_equal(before, app.content())
    assert velero.leftovers([app.namespace], [backed_up, restored]) == []
    if agents.image != STOCK:  # nobody removes its mark (contract §13.5)
        app.cluster.wait("the mark is removed", 30, lambda: ".velero" not in app.shell("ls -A /data/files").split())


@pytest.mark.check(33)
def test_generic_ephemeral_volume_comes_back_equal(
    agents: AgentSwitch, applications: Applications, assert_equal: Comparison, cluster: Cluster, velero: Velero
) -> None:
    if agents.image == STOCK:
        pytest.skip("the stock agent does not find generic ephemeral volumes (contract §3.3)")
    app = applications.deploy(Volume("files", kind="ephemeral"))
    app.make("files", "odd", "small")
    before = app.content()
    velero.backup(app.namespace, app.namespace, *POD_VOLUMES)

    applications.delete()
    velero.start_restore(app.namespace, app.namespace)
    # Kubernetes refuses the claim that Velero restores, since the pod does not own it, and makes one when that is gone.
    cluster.wait("the pod is restored", 60, lambda: cluster.get("Pod", "app", app.namespace))
    cluster.delete("PersistentVolumeClaim", "app-files", app.namespace)
    velero.wait_for_restore(app.namespace)
    app.wait_until_running()
    assert_equal(before, app.content())
    _assert_moved_by_files_and_gone(app, velero)


@pytest.mark.check(33)
def test_volume_of_the_node_comes_back_equal(
    applications: Applications, assert_equal: Comparison, cluster: Cluster, velero: Velero
) -> None:
    app = applications.deploy(Volume("files", kind="local"), _PROJECTED)
    app.make("files", "odd", "small")
    before = app.content()
    velero.backup(app.namespace, app.namespace, *POD_VOLUMES)

    applications.delete()
    volume = f"{app.namespace}-files"
    cluster.delete("PersistentVolume", volume)
    cluster.wait("the volume is gone", 30, lambda: cluster.get("PersistentVolume", volume) is None)
    cluster.create(app.local_volume(app.volumes[0]))
    velero.restore(app.namespace, app.namespace)
    app.wait_until_running()
    assert_equal(before, app.content())
    _assert_moved_by_files_and_gone(app, velero)


def _assert_moved_by_files_and_gone(app: Workload, velero: Velero) -> None:
    moved = [*velero.movements(backup=app.namespace), *velero.movements(restore=app.namespace)]
    wanted = [("PodVolumeBackup", "Completed"), ("PodVolumeRestore", "Completed")]
    assert [(one.kind, one.phase) for one in moved] == wanted

    def left() -> list[str]:
        return velero.leftovers([app.namespace], moved)

    app.cluster.wait("nothing is left behind", 60, lambda: not left(), show=left)


def test_incremental_by_files(applications: Applications, assert_equal: Comparison, velero: Velero) -> None:
    app = applications.deploy(Volume("files"))
    app.make("files", "small", "large")
    first, second = f"{app.namespace}-1", f"{app.namespace}-2"
    velero.backup(first, app.namespace, *POD_VOLUMES)
    app.shell("head -c 500000 /dev/urandom >/data/files/new")
    changed = app.content()

    velero.backup(second, app.namespace, *POD_VOLUMES)
    (incremental,) = velero.movements(backup=second)
    assert incremental.incremental_bytes == 500_000

    applications.delete()
    velero.restore(app.namespace, second)
    app.wait_until_running()
    assert_equal(changed, app.content())
