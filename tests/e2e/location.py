"""Backup storage locations of a test's own, in the bucket of the default one: with other rights, or by another way.

What a test does to its location disturbs nobody else.
"""

from __future__ import annotations

import base64
import os
from typing import Final

from tests.e2e.cluster import VELERO_NAMESPACE, Cluster

WRONG: Final = ("velerokey", "wrong")
READER: Final = (
    os.environ.get("E2E_READER_KEY", "readerkey"),
    os.environ.get("E2E_READER_SECRET", "readersecret0123"),
)
"""An identity of the S3 server that may read and list, and nothing else."""


class Location:
    """A location with a Secret of its own, both under one name, and a folder of the bucket of its own."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self.name = name
        default = cluster.get("BackupStorageLocation", "default", VELERO_NAMESPACE)
        assert default is not None
        self._spec = default["spec"]

    @property
    def s3_url(self) -> str:
        """Of the default location."""
        return str(self._spec["config"]["s3Url"])

    @property
    def folder(self) -> str:
        """Of all its objects: `BUCKET/PREFIX/`."""
        return f"{self._spec['objectStorage']['bucket']}/{self._prefix}/"

    @property
    def _prefix(self) -> str:
        # Velero takes no bucket with folders that it does not know; this one it leaves alone.
        return f"plugins/{self.name}"

    def create(self, keys: tuple[str, str] | None = None, *, s3_url: str = "") -> None:
        """With the keys of the default location, and its server, if no other ones are given."""
        metadata = {"name": self.name, "namespace": VELERO_NAMESPACE}
        spec = self._spec | {"credential": {"name": self.name, "key": "cloud"}, "default": False}
        spec["objectStorage"] = spec["objectStorage"] | {"prefix": self._prefix}
        spec["config"] = spec["config"] | {"s3Url": s3_url or self.s3_url}
        data = {"cloud": _file_of(keys) if keys else self._default_keys()}
        self._cluster.create(
            {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data},
            {"apiVersion": "velero.io/v1", "kind": "BackupStorageLocation", "metadata": metadata, "spec": spec},
        )

    def change_keys(self, keys: tuple[str, str]) -> None:
        self._cluster.patch("Secret", self.name, VELERO_NAMESPACE, {"data": {"cloud": _file_of(keys)}})

    def delete(self) -> None:
        self._cluster.delete("BackupStorageLocation", self.name, VELERO_NAMESPACE)
        self._cluster.delete("Secret", self.name, VELERO_NAMESPACE)
        for found in self._cluster.list("BackupRepository", VELERO_NAMESPACE):
            if found["spec"]["backupStorageLocation"] == self.name:
                self._cluster.delete("BackupRepository", found["metadata"]["name"], VELERO_NAMESPACE)

    def _default_keys(self) -> str:
        secret = self._cluster.get("Secret", "cloud-credentials", VELERO_NAMESPACE)
        assert secret is not None
        return str(secret["data"]["cloud"])


def _file_of(keys: tuple[str, str]) -> str:
    text = f"[default]\naws_access_key_id={keys[0]}\naws_secret_access_key={keys[1]}\n"
    return base64.b64encode(text.encode()).decode()
