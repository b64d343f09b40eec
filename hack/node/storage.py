"""The object store, and a CSI driver with snapshots: as plain processes."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

from hack.node.daemons import Daemon
from hack.node.layout import KUBELET_FOLDER, NODE, NODE_IP, S3_ACCESS_KEY, S3_PORT, S3_READER, S3_SECRET_KEY, Layout
from hack.node.tools import seaweedfs, tool

CSI_SOCKET = KUBELET_FOLDER / "plugins" / "dir.csi.lighterage.test" / "csi.sock"


def _port_offset(layout: Layout) -> int:
    """The same each time for one cluster, another one for another."""
    return zlib.crc32(str(layout.base.resolve()).encode()) % 5000


def object_store(layout: Layout) -> Daemon:
    """SeaweedFS; what is asked over HTTP has its default port, since nothing else lives in this network."""
    config = layout.run / "s3.json"
    config.write_text(s3_configuration())
    layout.bucket.mkdir(exist_ok=True)
    # Network namespaces do not part its sockets, which are in /tmp and named by these ports: another cluster's server
    # would answer.
    ports = [
        f"-{part}.port.grpc={port + _port_offset(layout)}"
        for part, port in (("master", 19333), ("volume", 18080), ("filer", 18888), ("s3", 18333))
    ]
    return Daemon(
        "s3",
        [
            seaweedfs(),
            "server",
            f"-dir={layout.bucket}",
            f"-ip={NODE_IP}",
            "-ip.bind=0.0.0.0",
            "-filer",
            "-s3",
            f"-s3.config={config}",
            f"-s3.port={S3_PORT}",
            "-volume.max=200",  # by itself it would be counted by the room that the disk has now
            "-volume.minFreeSpace=1",
            "-master.volumeSizeLimitMB=512",
            "-master.electionTimeout=1s",
            *ports,
            f"-filer.localSocket={layout.run / 'filer.sock'}",
            f"-s3.localSocket={layout.run / 's3.sock'}",
        ],
    )


def s3_configuration() -> str:
    """Who may do what, as SeaweedFS reads it."""
    rights = {
        "velero": ((S3_ACCESS_KEY, S3_SECRET_KEY), ["Admin", "Read", "Write", "List", "Tagging"]),
        "reader": (S3_READER, ["Read", "List"]),
    }
    identities = [
        {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
        for name, ((key, secret), actions) in rights.items()
    ]
    return json.dumps({"identities": identities})


def csi_driver(layout: Layout) -> Daemon:
    layout.volumes.mkdir(exist_ok=True)
    return Daemon("csi-driver", [tool("csi-test-driver"), f"-state={layout.volumes}", f"-node={NODE}"])


def csi_side_cars(layout: Layout) -> list[Daemon]:
    """What provisions volumes and takes snapshots by asking the driver."""
    kubeconfig = f"--kubeconfig={layout.kubeconfig()}"

    def side_car(name: str, *options: str) -> Daemon:
        return Daemon(name, [tool(name), kubeconfig, "--v=4", *options])

    return [
        side_car("snapshot-controller"),
        side_car("csi-snapshotter", f"--csi-address={CSI_SOCKET}"),
        side_car(
            "csi-provisioner",
            f"--csi-address={CSI_SOCKET}",
            "--extra-create-metadata",
            # By itself it frees snapshots of claims that it could not provision every five minutes.
            "--snapshot-orphan-sweep-interval=5s",
        ),
    ]


def snapshot_definitions() -> list[Path]:
    """The CustomResourceDefinitions of volume snapshots, as the side-cars' own module carries them."""
    folder = Path(tool("snapshot-crds"))
    return sorted(folder.glob("*.yaml"))
