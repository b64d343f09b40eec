"""Storage that fails at one call each, pods that go nowhere, volumes that are too small (contract §12.16–20).

The faults belong to a storage class of the test's own, which the test driver reads: nothing else is disturbed.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.direct import data_download, data_upload, waiting_claim
from tests.e2e.workload import DRIVER, STORAGE_CLASS, Workload

pytestmark = pytest.mark.usefixtures("clean")

_BROKEN = "the backend is on fire"


class Classes:
    """Storage classes and classes for snapshots that ask the test driver for faults; all under one name."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self.name = name
        usual = cluster.get("StorageClass", STORAGE_CLASS)
        if usual is None or usual["provisioner"] != DRIVER:
            pytest.skip(f"only the driver {DRIVER} can be asked for faults")

    def storage(self, parameters: dict[str, str], **other: object) -> str:
        """Make a class, and return its name."""
        self._cluster.create(
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {"name": self.name},
                "provisioner": DRIVER,
                "parameters": parameters,
                **other,
            }
        )
        return self.name

    def snapshots(self, parameters: dict[str, str]) -> str:
        """Make a class, and return its name."""
        self._cluster.create(
            {
                "apiVersion": "snapshot.storage.k8s.io/v1",
                "kind": "VolumeSnapshotClass",
                "metadata": {"name": self.name},
                "driver": DRIVER,
                "deletionPolicy": "Delete",
                "parameters": parameters,
            }
        )
        return self.name

    def delete(self) -> None:
        self._cluster.delete("StorageClass", self.name)
        self._cluster.delete("VolumeSnapshotClass", self.name)


@pytest.fixture
def classes(app: Workload, cluster: Cluster) -> Iterator[Classes]:
    made = Classes(cluster, app.namespace)
    yield made
    made.delete()


_CALLS = ["CreateVolume", "NodeStageVolume", "NodePublishVolume"]


@pytest.mark.parametrize("call", _CALLS)
def test_backup_of_a_volume_whose_copy_fails_at_a_call(app: Workload, classes: Classes, call: str) -> None:
    broken = classes.storage({f"fail-{call}": _BROKEN})
    ended = data_upload(app, "files", storage_class=broken).wait_for("Failed", seconds=75)
    assert _BROKEN in ended["status"]["message"]


@pytest.mark.slow
@pytest.mark.parametrize("call", _CALLS)
def test_restore_of_a_volume_that_fails_at_a_call(app: Workload, classes: Classes, call: str) -> None:
    uploaded = data_upload(app, "files").wait_for("Completed")
    waiting_claim(app, "target", storage_class=classes.storage({f"fail-{call}": _BROKEN}))
    ended = data_download(app, "target", snapshot_id=uploaded["status"]["snapshotID"]).wait_for("Failed", seconds=75)
    assert _BROKEN in ended["status"]["message"]


@pytest.mark.slow
def test_snapshot_that_never_becomes_ready_fails_and_is_named(app: Workload, classes: Classes) -> None:
    never = classes.snapshots({"snapshotReadySeconds": "3600"})
    ended = data_upload(app, "files", snapshot_class=never).wait_for("Failed", seconds=100)
    assert "snapshot" in ended["status"]["message"].lower()


def test_snapshot_that_cannot_be_taken_fails_and_is_quoted(app: Workload, classes: Classes) -> None:
    broken = classes.snapshots({"fail-CreateSnapshot": _BROKEN})
    ended = data_upload(app, "files", snapshot_class=broken).wait_for("Failed", seconds=100)
    assert _BROKEN in ended["status"]["message"]


@pytest.mark.slow
def test_snapshot_that_becomes_ready_late_is_waited_for(app: Workload, classes: Classes) -> None:
    late = classes.snapshots({"snapshotReadySeconds": "10"})
    data_upload(app, "files", snapshot_class=late).wait_for("Completed")


def test_pod_that_no_node_can_take_fails_with_the_schedulers_words(app: Workload, classes: Classes) -> None:
    nowhere = {"matchLabelExpressions": [{"key": "kubernetes.io/hostname", "values": ["nowhere"]}]}
    elsewhere = classes.storage({}, volumeBindingMode="WaitForFirstConsumer", allowedTopologies=[nowhere])
    ended = data_upload(app, "files", storage_class=elsewhere).wait_for("Failed", seconds=75)
    assert "nodes are available" in ended["status"]["message"]


def test_restore_into_a_volume_that_is_too_small_says_so(app: Workload, classes: Classes) -> None:
    app.make("files", "large")
    uploaded = data_upload(app, "files").wait_for("Completed")
    waiting_claim(app, "target", storage_class=classes.storage({"limited": "true"}), size="32Mi")
    ended = data_download(app, "target", snapshot_id=uploaded["status"]["snapshotID"]).wait_for("Failed", seconds=75)
    assert "no space" in ended["status"]["message"].lower() or "full" in ended["status"]["message"].lower()
