"""Backups by Velero that several tests make, and what selects the objects of one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent.kube.selector import Selector
from tests.controlplane.cluster import Cluster

BY_FILES: Final = ("--default-volumes-to-fs-backup", "--snapshot-volumes=false")


def of_backup(name: str) -> Selector:
    return Selector(labels={"velero.io/backup-name": name})


def of_restore(name: str) -> Selector:
    return Selector(labels={"velero.io/restore-name": name})


def pod_volumes(cluster: Cluster) -> tuple[str, Path]:
    """A namespace whose pod `app` has the volumes `data`, with a file, and `scratch`; the folder of `scratch`."""
    namespace = cluster.namespace()
    cluster.claim(namespace, "data")
    cluster.pod(namespace, "app", ["data"], volumes=[{"name": "scratch", "emptyDir": {}}])
    (cluster.storage.volume_of(namespace, "data") / "file").write_bytes(b"x" * 300_000)
    app = cluster.wait_running(namespace, "app")
    volumes = cluster.nodes.pods_folder(app.spec.node_name) / app.metadata.uid / "volumes"
    return namespace, volumes / "kubernetes.io~empty-dir" / "scratch"
