"""Backups and restores as a person makes them: the unmodified command and server of Velero, our agents, real data.

Numbers are those of the contract's acceptance list (§12).
"""

from __future__ import annotations

from agent.kube.job import Phase
from agent.kube.resource import DATA_UPLOADS
from agent.kube.selector import Selector
from agent.testing.control_plane_velero import NAMESPACE
from tests.controlplane.cluster import Cluster


def of(backup: str) -> Selector:
    return Selector(labels={"velero.io/backup-name": backup})


def test_check_06_08_27_a_file_system_moves_out_and_comes_back_whole(cluster: Cluster) -> None:
    namespace, volume = cluster.application()
    (volume / "folder").mkdir()
    (volume / "folder" / "file").write_bytes(b"content" * 100_000)

    backup = cluster.back_up("--snapshot-move-data", namespace=namespace)
    assert cluster.velero.phase("backup", backup) == "Completed"
    (upload,) = cluster.objects(DATA_UPLOADS, NAMESPACE, of(backup))
    assert upload.status.phase is Phase.COMPLETED
    assert upload.status.snapshot_id and upload.status.progress.bytes_done == 700_000
    cluster.assert_clean()

    found = cluster.restored_by_kopia(namespace, upload.status.snapshot_id)
    assert (found / "folder" / "file").read_bytes() == b"content" * 100_000

    restore, target = cluster.restore(backup, source=namespace)
    assert cluster.velero.phase("restore", restore) == "Completed"
    cluster.wait_running(target, "app")
    restored = cluster.storage.volume_of(target, "data")
    assert (restored / "folder" / "file").read_bytes() == b"content" * 100_000
