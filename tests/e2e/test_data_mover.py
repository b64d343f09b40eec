"""Volumes behind CSI snapshots: backed up, lost, restored, equal in every entry (needs §2, contract §12.6–10)."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Applications, Comparison
from tests.e2e.velero import MOVE, Velero
from tests.e2e.workload import LATE_STORAGE_CLASS, Volume


@pytest.mark.check(6, 8, 27)
@pytest.mark.parametrize(
    "volume",
    [Volume("files"), Volume("late", storage_class=LATE_STORAGE_CLASS)],
    ids=["immediate", "wait-for-first-consumer"],
)
def test_files_come_back_equal(
    applications: Applications, assert_equal: Comparison, velero: Velero, volume: Volume
) -> None:
    app = applications.deploy(volume)
    app.make(volume.name, "odd", "small")
    before = app.content()

    velero.backup(app.namespace, app.namespace, MOVE)
    uploads = velero.movements(backup=app.namespace)
    assert [(upload.kind, upload.phase) for upload in uploads] == [("DataUpload", "Completed")]
    assert uploads[0].total_bytes > 0
    assert velero.leftovers([app.namespace], uploads) == []

    applications.delete()
    velero.restore(app.namespace, app.namespace)
    downloads = velero.movements(restore=app.namespace)
    app.wait_until_running()
    assert_equal(before, app.content())
    assert [(download.kind, download.phase) for download in downloads] == [("DataDownload", "Completed")]
    assert velero.leftovers([app.namespace], downloads) == []


@pytest.mark.check(7)
def test_device_comes_back_equal(applications: Applications, assert_equal: Comparison, velero: Velero) -> None:
    app = applications.deploy(Volume("device", kind="block", size="64Mi"))
    app.shell("dd if=/dev/urandom of=/dev/device bs=1M count=8")
    app.shell("dd if=/dev/urandom of=/dev/device bs=1M count=4 seek=40 && sync")
    before = app.content()

    velero.backup(app.namespace, app.namespace, MOVE)
    uploads = velero.movements(backup=app.namespace)
    assert [(upload.phase, upload.total_bytes) for upload in uploads] == [("Completed", 64 << 20)]
    assert velero.leftovers([app.namespace], uploads) == []

    applications.delete()
    velero.restore(app.namespace, app.namespace)
    app.wait_until_running()
    assert_equal(before, app.content())
    assert velero.leftovers([app.namespace], velero.movements(restore=app.namespace)) == []


@pytest.mark.check(10)
def test_empty_volume_completes_and_restores(
    applications: Applications, assert_equal: Comparison, velero: Velero
) -> None:
    app = applications.deploy(Volume("empty"))
    before = app.content()
    assert before == {"/data/empty": {".": before["/data/empty"]["."]}}

    velero.backup(app.namespace, app.namespace, MOVE)
    (upload,) = velero.movements(backup=app.namespace)
    assert upload.phase == "Completed"
    assert upload.snapshot_id

    applications.delete()
    velero.restore(app.namespace, app.namespace)
    app.wait_until_running()
    assert_equal(before, app.content())


@pytest.mark.check(9)
def test_next_backup_takes_only_what_changed(
    applications: Applications, assert_equal: Comparison, velero: Velero
) -> None:
    app = applications.deploy(Volume("files"))
    app.make("files", "small", "large")
    first, second = f"{app.namespace}-1", f"{app.namespace}-2"
    velero.backup(first, app.namespace, MOVE)
    app.shell("head -c 1000000 /dev/urandom >/data/files/new && rm -r /data/files/small/0")
    changed = app.content()

    velero.backup(second, app.namespace, MOVE)
    (full,) = velero.movements(backup=first)
    (incremental,) = velero.movements(backup=second)
    assert full.incremental_bytes == full.total_bytes
    assert incremental.incremental_bytes == 1_000_000

    applications.delete()
    velero.restore(app.namespace, second)
    app.wait_until_running()
    assert_equal(changed, app.content())


@pytest.mark.check(27)
def test_restore_into_another_namespace(applications: Applications, assert_equal: Comparison, velero: Velero) -> None:
    app = applications.deploy(Volume("files"))
    app.make("files", "odd")
    velero.backup(app.namespace, app.namespace, MOVE)

    copy = applications.elsewhere(app)
    velero.restore(app.namespace, app.namespace, f"--namespace-mappings={app.namespace}:{copy.namespace}")
    copy.wait_until_running()
    assert_equal(app.content(), copy.content())


@pytest.mark.check(6)
def test_several_volumes_of_one_application(
    applications: Applications, assert_equal: Comparison, velero: Velero
) -> None:
    app = applications.deploy(*(Volume(f"files-{number}") for number in range(4)))
    for number in range(4):
        app.make(f"files-{number}", "small", seed=number)
    before = app.content()

    velero.backup(app.namespace, app.namespace, MOVE)
    applications.delete()
    velero.restore(app.namespace, app.namespace)
    app.wait_until_running()
    assert_equal(before, app.content())
    assert {movement.phase for movement in velero.movements(restore=app.namespace)} == {"Completed"}
