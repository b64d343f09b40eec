"""The kinds as the coming Velero 1.19 defines them, with the server of every day: their new fields are understood.

No release has these definitions, and no Go module. Those of the main branch of August 2026 differ from 1.18's in the
fields and short names below, and in nothing else of the four kinds (contract §10.3).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from agent.kube.job import Phase
from agent.kube.resource import DATA_DOWNLOADS, POD_VOLUME_BACKUPS, POD_VOLUME_RESTORES, PODS
from agent.testing.control_plane_velero import NAMESPACE
from tests.controlplane.backups import BY_FILES, of_backup, of_restore, pod_volumes
from tests.controlplane.cluster import Cluster
from tests.controlplane.objects import make
from tests.controlplane.transfers import slow_application

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("VELERO" in os.environ, reason="the fields are those that 1.18's definitions lack"),
]

_FIELDS: Final = {
    "datauploads": ("parentSnapshot", "sourceFSType"),
    "datadownloads": ("targetVolume/properties/fsType",),
    "podvolumebackups": ("parentSnapshot",),
}
_SHORT_NAMES: Final = {
    "datauploads": "du",
    "datadownloads": "dd",
    "podvolumebackups": "pvb",
    "podvolumerestores": "pvr",
}


@pytest.fixture
def coming(cluster: Cluster, record_property: Callable[[str, object], None]) -> Iterator[Cluster]:
    """The agents have found the new definitions."""
    record_property("velero", "1.19-definitions")
    _change(cluster, "add")
    cluster.agents.restart()
    yield cluster
    _change(cluster, "remove")
    cluster.agents.restart()


def _change(cluster: Cluster, how: str) -> None:
    for plural, short in _SHORT_NAMES.items():
        place = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties"
        values: dict[str, object] = {f"{place}/{field}": {"type": "string"} for field in _FIELDS.get(plural, ())}
        values["/spec/names/shortNames"] = [short]
        patch = [
            {"op": how, "path": path} | ({"value": value} if how == "add" else {}) for path, value in values.items()
        ]
        cluster.plane.kubectl("patch", "crd", f"{plural}.velero.io", "--type=json", f"--patch={json.dumps(patch)}")


def test_an_upload_has_the_parent_that_it_is_told(coming: Cluster) -> None:
    namespace, folder = coming.application()
    (folder / "file").write_bytes(os.urandom(300_000))
    first = coming.wait_final(coming.upload(namespace, parentSnapshot="none", sourceFSType="ext4"))
    second = coming.wait_final(coming.upload(namespace, parentSnapshot=first.status.snapshot_id))
    full = coming.wait_final(coming.upload(namespace, parentSnapshot="none"))
    assert [one.status.phase for one in (first, second, full)] == [Phase.COMPLETED] * 3
    assert [one.status.incremental_bytes for one in (first, second, full)] == [300_000, 0, 300_000]
    coming.assert_clean()


@pytest.mark.check(32)
def test_volumes_go_out_and_come_back_under_the_new_definitions(coming: Cluster) -> None:
    namespace, _ = pod_volumes(coming)
    by_files = coming.back_up(*BY_FILES, namespace=namespace)
    moved = coming.back_up("--snapshot-move-data", namespace=namespace)
    assert [coming.velero.phase("backup", name) for name in (by_files, moved)] == ["Completed"] * 2
    found = coming.objects(POD_VOLUME_BACKUPS, NAMESPACE, of_backup(by_files))
    assert [one.status.phase for one in found] == [Phase.COMPLETED] * 2
    for backup, kind, count in ((by_files, POD_VOLUME_RESTORES, 2), (moved, DATA_DOWNLOADS, 1)):
        restore, target = coming.restore(backup, source=namespace)
        assert coming.velero.phase("restore", restore) == "Completed"
        restored: list[Any] = coming.objects(kind, NAMESPACE, of_restore(restore))
        assert [one.status.phase for one in restored] == [Phase.COMPLETED] * count
        coming.wait_running(target, "app")
        assert (coming.storage.volume_of(target, "data") / "file").read_bytes() == b"x" * 300_000
    assert moved in coming.plane.kubectl("get", "du", f"--namespace={NAMESPACE}")


@pytest.mark.check(37)
def test_a_pod_volume_backup_that_the_server_cancels_ends_canceled(coming: Cluster) -> None:
    namespace = slow_application(coming)
    pod = coming.get(PODS, "app", namespace)
    spec = {
        "backupStorageLocation": "default",
        "node": pod.spec.node_name,
        "pod": {"kind": "Pod", "name": "app", "namespace": namespace, "uid": pod.metadata.uid},
        "parentSnapshot": "auto",
        "repoIdentifier": "",
        "uploaderType": "kopia",
        "volume": "data",
    }
    make(coming, POD_VOLUME_BACKUPS, "PodVolumeBackup", "timed-out", spec)

    def reached() -> Phase:
        return coming.get(POD_VOLUME_BACKUPS, "timed-out", NAMESPACE).status.phase

    coming.eventually("data moves", lambda: reached() is Phase.IN_PROGRESS)
    coming.patch(POD_VOLUME_BACKUPS, "timed-out", {"spec": {"cancel": True}}, NAMESPACE)
    coming.eventually("it has ended", lambda: reached().is_final)
    assert reached() is Phase.CANCELED
    coming.plane.kubectl("delete", "podvolumebackup", "timed-out", f"--namespace={NAMESPACE}", "--timeout=30s")
    coming.assert_clean()
