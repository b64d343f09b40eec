"""A second control plane that shares nothing with the first but the bucket.

Numbers are those of the contract's acceptance list (§12).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.testing.control_plane import ControlPlane
from agent.testing.control_plane_process import tool
from tests.controlplane.cluster import Cluster, cluster_around


@pytest.mark.slow
@pytest.mark.check(31)
def test_check_31_a_backup_is_restored_where_nothing_but_the_bucket_is_known(cluster: Cluster, tmp_path: Path) -> None:
    namespace, folder = cluster.application()
    (folder / "file").write_bytes(os.urandom(300_000))
    backup = cluster.back_up("--snapshot-move-data", namespace=namespace)
    assert cluster.velero.phase("backup", backup) == "Completed"
    cluster.agents.stop_all()
    cluster.velero.server.stop()  # it has ports that the second one needs
    try:
        with ControlPlane(tmp_path / "second") as plane:
            plane.install_definitions(tool("velero-crds"), tool("snapshot-crds"))
            with cluster_around(plane, cluster.s3, ["m1"]) as second:
                second.default_config()
                second.agents.ensure("m1")
                get = ["get", "backup", backup, "--namespace=velero"]
                second.eventually("the backup is found", lambda: plane.try_kubectl(*get).returncode == 0)
                restore, target = second.restore(backup, source=namespace)
                assert second.velero.phase("restore", restore) == "Completed"
                restored = second.storage.volume_of(target, "data") / "file"
                assert restored.read_bytes() == (folder / "file").read_bytes()
                second.assert_clean()
    finally:
        cluster.velero.server.start()
        cluster.velero.wait_available()
