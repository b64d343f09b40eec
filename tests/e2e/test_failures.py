"""What goes wrong on a real node: each ends within its bound, says why, leaves nothing behind (contract §12.16–30)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from tests.e2e.cluster import VELERO_NAMESPACE, Cluster, phase
from tests.e2e.conftest import Applications, Comparison
from tests.e2e.direct import data_download, data_upload, jobs_of, waiting_claim
from tests.e2e.location import Location
from tests.e2e.node_faults import NodeFaults
from tests.e2e.store_faults import Gate
from tests.e2e.velero import MOVE, Velero
from tests.e2e.workload import DRIVER, Workload, container


@pytest.fixture
def slow_uploads(cluster: Cluster) -> Iterator[Callable[[], None]]:
    """What is uploaded takes minutes, until what this is gets called."""

    def limit(*options: str) -> None:
        for pod in cluster.list("Pod", VELERO_NAMESPACE, "role=node-agent"):
            cluster.execute(VELERO_NAMESPACE, pod["metadata"]["name"], "lighter", "agent", "limits", *options)

    limit("--upload", "1MiB")
    yield partial(limit, "--reset")
    limit("--reset")


def _hold_up(app: Workload) -> None:
    """A pod that comes after that of the application, and whose hook keeps the backup in progress for two minutes."""
    hook = {"pre.hook.backup.velero.io/command": '["sleep", "120"]', "pre.hook.backup.velero.io/timeout": "3m"}
    metadata = {"name": "held-up", "namespace": app.namespace, "annotations": hook}
    containers = [container("app", ["tail", "-f", "/dev/null"])]
    spec = {"terminationGracePeriodSeconds": 0, "containers": containers}
    app.cluster.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    app.cluster.wait("it runs", 60, lambda: phase(app.cluster.get("Pod", "held-up", app.namespace)) == "Running")


@pytest.mark.check(17)
@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("reached", ["New", "Accepted", "Prepared", "InProgress"])
def test_cancel_ends_within_a_minute(app: Workload, gate: Gate, location: Location, reached: str) -> None:
    app.make("files", "large")
    gate.shut()
    job = data_upload(app, "files", location=location.name)
    if reached != "New":
        app.cluster.wait(f"{reached} is reached", 90, lambda: phase(job.read()) not in _before(reached))
    job.cancel()
    job.wait_for("Canceling", "Canceled", seconds=30)
    gate.open()  # what was uploaded is kept, which takes a store
    ended = job.wait_for("Canceled", seconds=60)
    assert "cancel" in ended["status"]["message"]
    assert ended["status"]["completionTimestamp"]


def _before(reached: str) -> list[str]:
    order = ["", "New", "Accepted", "Prepared", "InProgress"]
    return order[: order.index(reached)]


@pytest.mark.check(18)
def test_deleted_while_in_progress_goes_away_and_leaves_nothing(
    app: Workload, gate: Gate, location: Location, velero: Velero
) -> None:
    app.make("files", "large")
    gate.shut()
    job = data_upload(app, "files", location=location.name)
    job.wait_for("InProgress")
    job.delete()
    gate.open()
    app.cluster.wait("the DataUpload is gone", 60, lambda: job.read() is None)

    def left() -> list[str]:
        return velero.leftovers([app.namespace], [job.name])

    app.cluster.wait("nothing is left behind", 60, lambda: not left(), show=left)


@pytest.mark.check(30)
@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("snapshot_id", ["", "0123456789abcdef0123456789abcdef"], ids=["empty", "unknown"])
def test_download_of_a_snapshot_that_is_not_there_fails_fast(app: Workload, snapshot_id: str) -> None:
    data_upload(app, "files").wait_for("Completed")
    waiting_claim(app, "target")
    job = data_download(app, "target", snapshot_id=snapshot_id)
    ended = job.wait_for("Failed", seconds=60)
    assert "snapshot" in ended["status"]["message"]


@pytest.mark.check(16)
@pytest.mark.disturbing
@pytest.mark.usefixtures("clean")
def test_volume_that_nobody_provisions_fails_with_the_reason(app: Workload, faults: NodeFaults) -> None:
    with faults.without("csi-provisioner"):
        job = data_upload(app, "files")
        ended = job.wait_for("Failed", seconds=75)
    message = ended["status"]["message"]
    assert job.name in message
    assert "ExternalProvisioning" in message, "the claim waits for a driver that is named"
    assert ended["status"]["completionTimestamp"]


@pytest.mark.check(16)
@pytest.mark.disturbing
@pytest.mark.usefixtures("clean")
def test_volume_whose_driver_is_down_fails_with_the_reason(app: Workload, cluster: Cluster, faults: NodeFaults) -> None:
    def has_a_node() -> bool:
        pod = cluster.get("Pod", f"{app.namespace}-files", VELERO_NAMESPACE)
        return bool(pod and pod["spec"].get("nodeName"))

    with ExitStack() as down:
        with faults.without("kubelet"):
            job = data_upload(app, "files")
            cluster.wait("its pod waits for the kubelet", 30, has_a_node)
            down.enter_context(faults.without("csi-driver"))
        ended = job.wait_for("Failed", seconds=75)
    assert DRIVER in ended["status"]["message"]


@pytest.mark.check(26)
@pytest.mark.disturbing
@pytest.mark.usefixtures("clean")
def test_object_store_away_for_a_minute_is_waited_for(
    app: Workload,
    applications: Applications,
    assert_equal: Comparison,
    faults: NodeFaults,
    slow_uploads: Callable[[], None],
    velero: Velero,
) -> None:
    app.make("files", "large")
    before = app.content()
    velero.start_backup(app.namespace, app.namespace, MOVE)
    _wait_for_phase(app, "InProgress")
    with faults.without("s3"):
        time.sleep(60)
        assert [phase(job.read()) for job in jobs_of(app)] == ["InProgress"]
    slow_uploads()
    velero.wait_for_backup(app.namespace)
    velero.wait_until_available()
    applications.delete()
    velero.restore(app.namespace, app.namespace)
    app.wait_until_running()
    assert_equal(before, app.content())


@pytest.mark.check(24)
@pytest.mark.disturbing
@pytest.mark.usefixtures("clean")
def test_api_server_away_for_a_minute_while_data_moves(
    app: Workload, faults: NodeFaults, gate: Gate, location: Location, velero: Velero
) -> None:
    app.make("files", "large")
    gate.shut()
    job = data_upload(app, "files", location=location.name)
    started = job.wait_for("InProgress")["status"]["startTimestamp"]
    with faults.without("apiserver"):
        time.sleep(15)
        gate.open()
        time.sleep(45)
    app.cluster.wait("the API server answers", 60, lambda: _answers(app.cluster))
    ended = job.wait_for("Completed", seconds=150)
    assert ended["status"]["startTimestamp"] == started
    # The server's idea of what the cluster serves may be from the moment when not all of it was served again.
    velero.restart()


def _answers(cluster: Cluster) -> bool:
    try:
        cluster.kubectl("get", "--raw", "/readyz", seconds=10)
    except AssertionError:
        return False
    return True


@pytest.mark.check(20)
@pytest.mark.disturbing
@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("reached", ["Accepted", "InProgress"])
def test_agent_killed_goes_on_when_it_is_back(
    app: Workload, cluster: Cluster, gate: Gate, location: Location, reached: str
) -> None:
    app.make("files", "large")
    gate.shut()
    job = data_upload(app, "files", location=location.name)
    cluster.wait(f"{reached} is reached", 60, lambda: phase(job.read()) not in _before(reached))
    for pod in cluster.list("Pod", VELERO_NAMESPACE, "role=node-agent"):
        cluster.delete("Pod", pod["metadata"]["name"], VELERO_NAMESPACE, grace=0)
    gate.open()
    ended = job.wait_for("Completed", "Failed", seconds=180)
    if phase(ended) == "Failed":
        # An agent that could not say that it ends is waited for; the time to prepare a volume goes on, and is short.
        assert reached == "Accepted"
        assert "expose.timeout" in ended["status"]["message"]


@pytest.mark.check(21)
@pytest.mark.usefixtures("clean")
def test_pod_that_holds_the_volume_is_deleted(app: Workload, cluster: Cluster, gate: Gate, location: Location) -> None:
    app.make("files", "large")
    gate.shut()
    job = data_upload(app, "files", location=location.name)
    job.wait_for("InProgress")
    cluster.delete("Pod", job.name, VELERO_NAMESPACE, grace=0)
    cluster.wait("the pod is gone", 30, lambda: cluster.get("Pod", job.name, VELERO_NAMESPACE) is None)
    gate.open()
    # A kubelet takes no volume away that somebody reads: who had opened everything by then comes to the end.
    ended = job.wait_for("Failed", "Completed", seconds=90)
    if phase(ended) == "Failed":
        assert job.name in ended["status"]["message"]
        assert "is gone" in ended["status"]["message"]


@pytest.mark.check(23)
@pytest.mark.disturbing
@pytest.mark.usefixtures("clean")
def test_server_restarted_while_its_backup_waits_for_data_completes_it(
    app: Workload, cluster: Cluster, slow_uploads: Callable[[], None], velero: Velero
) -> None:
    app.make("files", "large")
    velero.start_backup(app.namespace, app.namespace, MOVE)
    _wait_for_phase(app, "InProgress")

    def waits() -> bool:
        return phase(cluster.get("Backup", app.namespace, VELERO_NAMESPACE)) == "WaitingForPluginOperations"

    cluster.wait("the backup waits for its data", 60, waits)
    velero.kill()  # asked, it would first wait for what it does
    assert waits()
    slow_uploads()
    velero.wait_for_backup(app.namespace)
    assert [moved.phase for moved in velero.movements(backup=app.namespace)] == ["Completed"]


@pytest.mark.check(23)
@pytest.mark.disturbing
@pytest.mark.usefixtures("clean")
def test_server_restarted_while_its_backup_is_in_progress_has_its_uploads_canceled(
    app: Workload, cluster: Cluster, slow_uploads: Callable[[], None], velero: Velero
) -> None:
    del slow_uploads  # they stay so
    app.make("files", "large")
    _hold_up(app)
    velero.start_backup(app.namespace, app.namespace, MOVE)
    _wait_for_phase(app, "InProgress")
    assert phase(cluster.get("Backup", app.namespace, VELERO_NAMESPACE)) == "InProgress"
    velero.kill()
    velero.wait_for_backup(app.namespace, expect="Failed", seconds=120)

    def phases() -> list[str]:
        return [moved.phase for moved in velero.movements(backup=app.namespace)]

    cluster.wait("its DataUpload is canceled", 60, lambda: phases() == ["Canceled"], show=phases)


def _wait_for_phase(app: Workload, *phases: str) -> None:
    def reached() -> bool:
        return any(phase(job.read()) in phases for job in jobs_of(app))

    app.cluster.wait(f"a DataUpload is {' or '.join(phases)}", 60, reached)
