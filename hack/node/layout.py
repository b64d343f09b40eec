"""Addresses inside the cluster, and folders outside of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
"""The repository's work tree."""
MANIFESTS: Final = Path(__file__).resolve().parent / "manifests"

NODE: Final = "node1"
NODE_IP: Final = "10.95.0.1"
SERVICE_IP: Final = "10.96.0.1"
"""The Service `kubernetes`. Both addresses are on the loop-back device, so neither kube-proxy nor DNS is needed."""
SERVICE_RANGE: Final = "10.96.0.0/16"
POD_RANGE: Final = "10.244.0.0/20"

S3_PORT: Final = 8333
S3_BUCKET: Final = "velero"
S3_ACCESS_KEY: Final = "velerokey"
S3_SECRET_KEY: Final = "velerosecret0123"
S3_READER: Final = ("readerkey", "readersecret0123")
"""Keys of an identity that may only read: for tests of a bucket that refuses to be written."""

KUBELET_FOLDER: Final = Path("/var/lib/kubelet")
"""Only a mount point on the machine: the cluster mounts its own folder over it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What one cluster keeps: `images` are made anew from their inputs at any time, `run` is the cluster's state."""

    base: Path

    @classmethod
    def of_environment(cls) -> Layout:
        """`LIGHTERAGE_CLUSTER`, else a folder of the user's cache."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cls(Path(os.environ.get("LIGHTERAGE_CLUSTER") or cache / "lighterage" / "cluster"))

    @property
    def images(self) -> Path:
        return self.base / "images"

    @property
    def run(self) -> Path:
        return self.base / "run"

    @property
    def logs(self) -> Path:
        return self.run / "log"

    @property
    def held(self) -> Path:
        """A file here named like a daemon keeps that daemon down."""
        return self.run / "held"

    @property
    def keys(self) -> Path:
        return self.run / "pki"

    def kubeconfig(self, user: str = "admin") -> Path:
        return self.run / f"{user}.kubeconfig"

    @property
    def volumes(self) -> Path:
        """Where the CSI driver keeps volumes and snapshots."""
        return self.run / "csi"

    @property
    def bucket(self) -> Path:
        """Where the S3 server keeps what it is given."""
        return self.run / "s3"

    @property
    def ready(self) -> Path:
        """There while the node is up."""
        return self.run / "ready"
