"""Backups and restores as a person makes them: the unmodified command and server of Velero, our agents, real data.

Numbers are those of the contract's acceptance list (§12).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import botocore.session
import pytest
from botocore.config import Config

from agent.kube.data_upload import DataUpload
from agent.kube.job import Phase
from agent.kube.resource import (
    DATA_DOWNLOADS,
    DATA_UPLOADS,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    POD_VOLUME_BACKUPS,
    POD_VOLUME_RESTORES,
    PODS,
)
from agent.kube.volumes import ReclaimPolicy
from agent.testing.control_plane_csi import LATE_STORAGE_CLASS
from agent.testing.control_plane_velero import BUCKET, NAMESPACE
from tests.controlplane.agents import STOCK_CONFIG
from tests.controlplane.backups import BY_FILES, of_backup, of_restore, pod_volumes
from tests.controlplane.cluster import Cluster

_BLOB: Final = re.compile(r"kopia\.[a-z]+|[pqx_][\w-]+|udmrepo\.Repository")
"""How kopia names what lies in its folder; the last one is Velero's own mark."""


@dataclass(frozen=True)
class Shop:
    """A namespace with three volumes, backed up twice."""

    namespace: str
    folders: dict[str, Path]
    backup: str
    uploads: dict[str, DataUpload]
    second: str
    second_uploads: dict[str, DataUpload]


def _uploads(cluster: Cluster, backup: str) -> dict[str, DataUpload]:
    return {upload.spec.source_pvc: upload for upload in cluster.objects(DATA_UPLOADS, NAMESPACE, of_backup(backup))}


@pytest.fixture(scope="module")
def shop(whole_cluster: Cluster) -> Shop:
    cluster = whole_cluster
    cluster.default_config()
    cluster.agents.ensure("n1", "n2")
    namespace = cluster.namespace()
    cluster.claim(namespace, "data")
    cluster.claim(namespace, "empty")
    cluster.claim(namespace, "late", storage_class=LATE_STORAGE_CLASS)
    cluster.pod(namespace, "app", ["data", "empty", "late"])
    folders = {claim: cluster.storage.volume_of(namespace, claim) for claim in ("data", "empty", "late")}
    (folders["data"] / "big").write_bytes(os.urandom(1 << 20) * 20)
    (folders["data"] / "folder").mkdir()
    (folders["data"] / "folder" / "small").write_text("small")
    (folders["late"] / "file").write_text("late")
    os.chown(folders["late"] / "file", 1234, 4321)
    (folders["late"] / "file").chmod(0o640)
    os.chown(folders["late"], 1000, 2000)
    folders["late"].chmod(0o2750)
    backup = cluster.back_up("--snapshot-move-data", namespace=namespace)
    uploads = _uploads(cluster, backup)
    (folders["data"] / "folder" / "new").write_text("new")
    second = cluster.back_up("--snapshot-move-data", namespace=namespace)
    return Shop(namespace, folders, backup, uploads, second, _uploads(cluster, second))


@pytest.mark.check(6)
def test_check_06_a_file_system_is_backed_up_and_described(cluster: Cluster, shop: Shop) -> None:
    assert cluster.velero.phase("backup", shop.backup) == "Completed"
    upload = shop.uploads["data"]
    assert upload.status.phase is Phase.COMPLETED
    assert upload.status.progress.bytes_done == upload.status.progress.total_bytes == (20 << 20) + 5
    said = cluster.velero.cli("backup", "describe", shop.backup, "--details")
    assert re.search(rf"Moved data Size \(bytes\): {(20 << 20) + 5}\b", said)
    assert said.count("Result: succeeded") == 3
    assert "Operation for persistentvolumeclaims" in said and "Phase:" in said


@pytest.mark.check(8)
def test_check_08_no_snapshot_claim_volume_or_pod_is_left(cluster: Cluster, shop: Shop) -> None:
    cluster.assert_clean()


@pytest.mark.check(9)
def test_check_09_the_second_backup_moves_what_changed(cluster: Cluster, shop: Shop) -> None:
    upload = shop.second_uploads["data"]
    assert upload.status.phase is Phase.COMPLETED
    assert upload.status.progress.total_bytes == (20 << 20) + 8
    told = upload.status.incremental_bytes
    assert 0 < told < 1 << 20 if cluster.knows("datauploads", "status", "incrementalBytes") else not told


@pytest.mark.check(10)
def test_check_10_an_empty_volume_has_a_snapshot_all_the_same(cluster: Cluster, shop: Shop) -> None:
    upload = shop.uploads["empty"]
    assert upload.status.phase is Phase.COMPLETED and upload.status.snapshot_id
    assert list(cluster.restored_by_kopia(shop.namespace, upload.status.snapshot_id).iterdir()) == []


def test_kopia_reads_what_the_agents_wrote(cluster: Cluster, shop: Shop) -> None:
    snapshot = shop.second_uploads["data"].status.snapshot_id
    found = cluster.restored_by_kopia(shop.namespace, snapshot)
    assert _digests(found) == _digests(shop.folders["data"])


@pytest.mark.check(27, 29)
def test_check_27_29_volumes_come_back_into_another_namespace(cluster: Cluster, shop: Shop) -> None:
    restore, target = cluster.restore(shop.second, source=shop.namespace)
    assert cluster.velero.phase("restore", restore) == "Completed"
    cluster.wait_running(target, "app")
    downloads = cluster.objects(DATA_DOWNLOADS, NAMESPACE, of_restore(restore))
    assert [download.status.phase for download in downloads] == [Phase.COMPLETED] * 3
    for name, folder in shop.folders.items():
        restored = cluster.storage.volume_of(target, name)
        assert _digests(restored) == _digests(folder)
        assert _attributes(restored) == _attributes(folder)
        claim = cluster.get(PERSISTENT_VOLUME_CLAIMS, name, target)
        volume = cluster.get(PERSISTENT_VOLUMES, claim.spec.volume_name)
        assert claim.status.phase == "Bound"
        assert volume.spec.persistent_volume_reclaim_policy is ReclaimPolicy.DELETE
        assert claim.spec.selector is not None
        assert volume.metadata.labels.items() >= claim.spec.selector.match_labels.items()
    assert cluster.velero.cli("restore", "describe", restore, "--details").count("Completed") >= 4
    for download in downloads:
        status = download.status
        assert_columns(cluster, "datadownloads", download.metadata.name, status.progress.total_bytes, status.node)
    cluster.assert_clean()


@pytest.mark.slow
@pytest.mark.check(28)
def test_check_28_a_late_volume_is_restored_without_a_consumer_where_that_is_configured(cluster: Cluster) -> None:
    cluster.config(STOCK_CONFIG, {"restorePVC": {"ignoreDelayBinding": True}})
    cluster.agents.restart()
    namespace = cluster.namespace()
    cluster.claim(namespace, "late", storage_class=LATE_STORAGE_CLASS)
    cluster.pod(namespace, "app", ["late"])
    folder = cluster.storage.volume_of(namespace, "late")
    (folder / "file").write_bytes(os.urandom(100_000))
    backup = cluster.back_up("--snapshot-move-data", namespace=namespace)
    restore, target = cluster.restore(backup, "--exclude-resources=pods", source=namespace)
    assert cluster.velero.phase("restore", restore) == "Completed"
    assert cluster.objects(PODS, target) == []
    assert cluster.get(PERSISTENT_VOLUME_CLAIMS, "late", target).status.phase == "Bound"
    assert _digests(cluster.storage.volume_of(target, "late")) == _digests(folder)
    cluster.assert_clean()


@pytest.mark.slow
@pytest.mark.check(38)
def test_check_38_wishes_of_the_uploader_reach_the_worker(cluster: Cluster) -> None:
    namespace, folder = cluster.application()
    with (folder / "holes").open("wb") as file:
        file.seek(40 << 20)
        file.write(b"end")
    flags = ["--snapshot-move-data", "--parallel-files-upload=3"]
    backup = cluster.back_up(*flags, namespace=namespace)
    assert cluster.velero.phase("backup", backup) == "Completed"
    (upload,) = cluster.objects(DATA_UPLOADS, NAMESPACE, of_backup(backup))
    assert upload.spec.data_mover_config == {"ParallelFilesUpload": "3"}
    for wishes, most in (["--write-sparse-files", "--parallel-files-download=3"], 1 << 20), ([], 50 << 20):
        restore, target = cluster.restore(backup, *wishes, source=namespace)
        assert cluster.velero.phase("restore", restore) == "Completed"
        restored = cluster.storage.volume_of(target, "data") / "holes"
        assert _digest(restored) == _digest(folder / "holes")
        assert restored.stat().st_blocks * 512 <= most
    cluster.assert_clean()


@pytest.mark.check(45)
def test_check_45_the_columns_of_kubectl_are_filled(cluster: Cluster, shop: Shop) -> None:
    upload = shop.uploads["data"]
    assert_columns(cluster, "datauploads", upload.metadata.name, (20 << 20) + 5, upload.status.node)


@pytest.mark.check(40)
def test_check_40_the_location_stays_available_and_has_no_foreign_folder(cluster: Cluster, shop: Shop) -> None:
    now = int(time.time())
    often = ["patch", "backupstoragelocation", "default", f"--namespace={NAMESPACE}", "--type=merge"]
    cluster.plane.kubectl(*often, '--patch={"spec": {"validationFrequency": "1s"}}')

    def looked_at() -> float:
        found = json.loads(cluster.plane.kubectl("get", *often[1:4], "-o=json"))
        return datetime.fromisoformat(found["status"]["lastValidationTime"]).timestamp()

    try:
        cluster.eventually("the server has looked at it since", lambda: looked_at() > now, 90)
    finally:
        cluster.plane.kubectl(*often, '--patch={"spec": {"validationFrequency": null}}')
    assert cluster.velero.phase("backupstoragelocation", "default") == "Available"
    names = names_in_bucket(cluster)
    assert {name.partition("/")[0] for name in names} <= {"backups", "kopia", "restores"}
    blobs = [name.removeprefix(f"kopia/{shop.namespace}/") for name in names if name.startswith("kopia/")]
    own = [name for name in blobs if not name.startswith("kopia/")]
    assert own and [name for name in own if not _BLOB.fullmatch(name)] == []


@pytest.mark.check(7)
def test_check_07_a_block_device_comes_back_byte_by_byte(cluster: Cluster) -> None:
    cluster.config("lighterage-config", {"runner": "local"})
    namespace, image = cluster.application(block=True, size="16Mi")
    with image.open("r+b") as device:
        device.write(os.urandom(3 << 20))
        device.seek(9 << 20)
        device.write(os.urandom(1 << 20))
    backup = cluster.back_up("--snapshot-move-data", namespace=namespace)
    (upload,) = cluster.objects(DATA_UPLOADS, NAMESPACE, of_backup(backup))
    assert (upload.status.phase, upload.status.message) == (Phase.COMPLETED, "")
    restore, target = cluster.restore(backup, source=namespace)
    assert cluster.velero.phase("restore", restore) == "Completed"
    assert _digest(cluster.storage.volume_of(target, "data")) == _digest(image)
    cluster.assert_clean()


@pytest.mark.check(32)
def test_check_32_pod_volumes_go_out_and_come_back_and_the_pod_starts(cluster: Cluster) -> None:
    namespace, scratch = pod_volumes(cluster)
    (scratch / "s").touch()

    backup = cluster.back_up(*BY_FILES, namespace=namespace)
    assert cluster.velero.phase("backup", backup) == "Completed"
    backups = {one.spec.volume: one for one in cluster.objects(POD_VOLUME_BACKUPS, NAMESPACE, of_backup(backup))}
    assert {name: one.status.phase for name, one in backups.items()} == {
        "data": Phase.COMPLETED,
        "scratch": Phase.COMPLETED,
    }
    found = cluster.restored_by_kopia(namespace, backups["data"].status.snapshot_id)
    assert (found / "file").read_bytes() == b"x" * 300_000

    restore, target = cluster.restore(backup, source=namespace)
    assert cluster.velero.phase("restore", restore) == "Completed"
    restores = cluster.objects(POD_VOLUME_RESTORES, NAMESPACE, of_restore(restore))
    assert [one.status.phase for one in restores] == [Phase.COMPLETED] * 2
    cluster.wait_running(target, "app")
    volume = cluster.storage.volume_of(target, "data")
    assert (volume / "file").read_bytes() == b"x" * 300_000
    cluster.eventually("the done file is removed", lambda: not (volume / ".velero").exists(), 30)
    restored = next(one for one in restores if one.spec.volume == "data")
    assert_columns(cluster, "podvolumebackups", backups["data"].metadata.name, 300_000)
    assert_columns(cluster, "podvolumerestores", restored.metadata.name, 300_000)


@pytest.mark.check(34)
def test_check_34_a_volume_that_is_not_on_its_node_costs_its_backup_nothing_else(cluster: Cluster) -> None:
    namespace, scratch = pod_volumes(cluster)
    scratch.rmdir()
    backup = cluster.back_up(*BY_FILES, namespace=namespace)
    assert cluster.velero.phase("backup", backup) == "PartiallyFailed"
    backups = {one.spec.volume: one for one in cluster.objects(POD_VOLUME_BACKUPS, NAMESPACE, of_backup(backup))}
    assert {name: one.status.phase for name, one in backups.items()} == {
        "data": Phase.COMPLETED,
        "scratch": Phase.FAILED,
    }
    assert "scratch" in backups["scratch"].status.message

    restore, target = cluster.restore(backup, source=namespace)
    assert cluster.velero.phase("restore", restore) == "Completed"
    cluster.wait_running(target, "app")
    assert (cluster.storage.volume_of(target, "data") / "file").read_bytes() == b"x" * 300_000


@pytest.mark.check(36)
def test_check_36_a_restore_says_which_of_its_pod_volumes_failed(cluster: Cluster) -> None:
    namespace, _ = pod_volumes(cluster)
    backup = cluster.back_up(*BY_FILES, namespace=namespace)
    backups = {one.spec.volume: one for one in cluster.objects(POD_VOLUME_BACKUPS, NAMESPACE, of_backup(backup))}
    lost = backups["data"].status.snapshot_id
    cluster.kopia(namespace).run("snapshot", "delete", lost, "--delete")
    restore, target = cluster.restore(backup, source=namespace)
    assert cluster.velero.phase("restore", restore) == "PartiallyFailed"
    restores = {one.spec.volume: one for one in cluster.objects(POD_VOLUME_RESTORES, NAMESPACE, of_restore(restore))}
    assert {name: one.status.phase for name, one in restores.items()} == {
        "data": Phase.FAILED,
        "scratch": Phase.COMPLETED,
    }
    assert lost in restores["data"].status.message
    assert not (cluster.storage.volume_of(target, "data") / ".velero").exists()
    cluster.plane.kubectl("delete", "namespace", target)


@pytest.mark.check(39)
def test_check_39_a_deleted_backup_leaves_the_others_intact(cluster: Cluster, shop: Shop) -> None:
    cluster.velero.cli("backup", "delete", shop.backup, "--confirm")
    gone = ["get", "backup", shop.backup, f"--namespace={NAMESPACE}"]
    cluster.eventually("the backup is deleted", lambda: cluster.plane.try_kubectl(*gone).returncode != 0, 60)
    kept = shop.second_uploads["data"].status.snapshot_id
    assert _digests(cluster.restored_by_kopia(shop.namespace, kept)) == _digests(shop.folders["data"])
    manifests = cluster.kopia(shop.namespace).run("snapshot", "list", "--all", "--json")
    assert shop.uploads["data"].status.snapshot_id not in manifests


def assert_columns(cluster: Cluster, plural: str, name: str, size: int, node: str = "") -> None:
    """What `kubectl get` prints of an object that is Completed; of nothing moved it prints nothing."""
    header, *lines = cluster.plane.kubectl("get", plural, f"--namespace={NAMESPACE}").splitlines()
    (row,) = [line.split() for line in lines if line.startswith(f"{name} ")]
    wanted = ["Completed", *[node] * bool(node)]
    wanted += ["default"] * header.count("STORAGE LOCATION")  # the pod volumes of 1.16 have one or the other
    wanted += [str(size)] * header.count("BYTES") if size else []
    assert not Counter(wanted) - Counter(row), header


def names_in_bucket(cluster: Cluster) -> list[str]:
    session = botocore.session.get_session()
    session.set_credentials(cluster.s3.access_key, cluster.s3.secret_key)
    path_style = Config(s3={"addressing_style": "path"})
    client = session.create_client("s3", "us-east-1", endpoint_url=cluster.s3.endpoint, config=path_style)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return [found["Key"] for page in pages for found in page.get("Contents", [])]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): _digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _attributes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Of every entry, and of the volume's own folder: mode, owner, time."""
    infos = {path.relative_to(folder): path.lstat() for path in (folder, *sorted(folder.rglob("*")))}
    return {str(path): (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns) for path, info in infos.items()}
