"""Fifty pods with three volumes each: no hook waits in vain, no volume is forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.agent_switch import AgentSwitch
from tests.e2e.cluster import VELERO_NAMESPACE, Cluster, Object, phase
from tests.e2e.conftest import Applications
from tests.e2e.velero import POD_VOLUMES, Velero
from tests.e2e.workload import Volume, Workload, container

pytestmark = [pytest.mark.slow, pytest.mark.disturbing]

_PODS = 50
_VOLUMES = ("a", "b", "c")


def _pod(namespace: str, name: str) -> Object:
    """Writes into its volumes when it starts; its hooks leave files in one of them."""
    hooks = {"pre": "touch /data/a/frozen", "post": "rm /data/a/frozen && touch /data/a/thawed"}
    commands = {f"{when}.hook.backup.velero.io/command": json.dumps(["sh", "-c", line]) for when, line in hooks.items()}
    fill = "for v in a b c; do [ -e /data/$v/name ] || echo $HOSTNAME/$v >/data/$v/name; done; exec tail -f /dev/null"
    mounts: list[Object] = [{"name": volume, "mountPath": f"/data/{volume}"} for volume in _VOLUMES]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "annotations": commands},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [container("app", ["sh", "-c", fill], mounts=mounts)],
            "volumes": [{"name": volume, "emptyDir": {}} for volume in _VOLUMES],
        },
    }


@pytest.fixture
def small_waiters(cluster: Cluster) -> Iterator[None]:
    """What Velero adds to restored pods to wait for their volumes asks for a tenth of a processor, for ever."""
    name = "small-waiters"
    labels = {"velero.io/plugin-config": "", "velero.io/pod-volume-restore": "RestoreItemAction"}
    metadata = {"name": name, "namespace": VELERO_NAMESPACE, "labels": labels}
    data = {"cpuRequest": "1m", "memRequest": "16Mi"}
    cluster.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    yield
    cluster.delete("ConfigMap", name, VELERO_NAMESPACE)


def _wait_for(cluster: Cluster, namespace: str, count: int) -> None:
    def running() -> int:
        return sum(phase(pod) == "Running" for pod in cluster.list("Pod", namespace))

    cluster.wait(f"{count} pods run", 300, lambda: running() == count, show=running)


@pytest.fixture
def crowd(applications: Applications, cluster: Cluster, agents: AgentSwitch) -> Iterator[Workload]:
    """The namespace of one application with fifty more pods."""
    agents.be_patient()
    app = applications.deploy(Volume("files", kind="empty"))
    cluster.create(*(_pod(app.namespace, f"pod-{number:02d}") for number in range(_PODS)))
    _wait_for(cluster, app.namespace, _PODS + 1)
    yield app


@pytest.mark.check(35)
@pytest.mark.usefixtures("small_waiters")
def test_hooks_of_fifty_pods_run_around_their_volumes(
    applications: Applications, cluster: Cluster, crowd: Workload, velero: Velero
) -> None:
    name = crowd.namespace
    velero.backup(name, name, *POD_VOLUMES, seconds=900)
    moved = velero.movements(backup=name)
    assert [one.phase for one in moved] == ["Completed"] * (len(_VOLUMES) * _PODS + 1)
    backup: Object = cluster.get("Backup", name, VELERO_NAMESPACE) or {}
    assert backup["status"]["hookStatus"] == {"hooksAttempted": 2 * _PODS}
    assert cluster.execute(name, "pod-07", "ls", "/data/a").split() == ["name", "thawed"]

    applications.delete()
    velero.restore(name, name, seconds=900)
    _wait_for(cluster, name, _PODS + 1)
    moved = velero.movements(restore=name)
    assert [one.phase for one in moved] == ["Completed"] * (len(_VOLUMES) * _PODS + 1)
    for number in range(_PODS):
        pod = f"pod-{number:02d}"
        found = cluster.execute(name, pod, "sh", "-c", "ls /data/a; cat /data/*/name")
        assert found.split() == ["frozen", "name", f"{pod}/a", f"{pod}/b", f"{pod}/c"], "as between the two hooks"
