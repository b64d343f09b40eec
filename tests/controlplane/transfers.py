"""Uploads that take long enough for something to happen meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

from agent.kube.data_upload import DataUpload
from agent.kube.job import Phase
from tests.controlplane.cluster import Cluster

_SERVER_SECONDS = 180.0
"""Velero's server makes the repository first; after an API server was away it may take minutes to hear of it."""


def slow_application(cluster: Cluster, mebibytes: int = 24) -> str:
    """A namespace whose volume takes about a second for two mebibytes to be moved."""
    cluster.config("lighterage-config", {"limits": {"uploadBytesPerSecond": "2Mi"}})
    namespace, volume = cluster.application()
    fill(volume, mebibytes)
    return namespace


def fill(volume: Path, mebibytes: int) -> None:
    for number in range(mebibytes):
        (volume / f"file-{number}").write_bytes(os.urandom(1 << 20))


def in_progress(cluster: Cluster, mebibytes: int = 24) -> tuple[str, DataUpload]:
    """A namespace and its upload, which has begun to move data."""
    namespace = slow_application(cluster, mebibytes)
    return namespace, cluster.wait_phase(cluster.upload(namespace), Phase.IN_PROGRESS, seconds=_SERVER_SECONDS)


def assert_completed(cluster: Cluster, namespace: str, name: str, files: int, seconds: float = 90.0) -> DataUpload:
    upload = cluster.wait_final(name, seconds)
    assert (upload.status.phase, upload.status.message) == (Phase.COMPLETED, "")
    assert len(list(cluster.restored_by_kopia(namespace, upload.status.snapshot_id).iterdir())) == files
    cluster.assert_clean()
    return upload
