"""Where the programs of the cluster come from.

What Go builds comes from `hack/tool`, which builds it once and keeps it; the rest are packages of the distribution, and
SeaweedFS comes with the project's test requirements. Once they are there, nothing is downloaded.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

from hack.node.layout import ROOT, Layout

SYSTEM: Final = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "busybox": "busybox-static",
    "iptables": "iptables",
    "ip": "iproute2",
    "mount": "mount",
    "losetup": "mount",
    "unshare": "util-linux",
    "nsenter": "util-linux",
}
"""Programs of the system, and Debian's package of each."""
CNI_FOLDER: Final = Path("/usr/lib/cni")
CSI_SIDE_CARS: Final = ("snapshot-controller", "csi-snapshotter", "csi-provisioner")
GO_TOOLS: Final = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kubectl",
    *CSI_SIDE_CARS,
    "csi-test-driver",
    "snapshot-crds",
    "velero",
    "velero-restore-helper",
    "velero-plugin-for-aws",
)


class MissingTool(Exception):
    """A program is not there; the message says how to get it."""


def install_packages() -> None:
    """Install what is missing of the system's packages. Raises `MissingTool`."""
    missing = {package for program, package in SYSTEM.items() if shutil.which(program) is None}
    if not (CNI_FOLDER / "ptp").exists():
        missing.add("containernetworking-plugins")
    if missing and subprocess.run([ROOT / "hack" / "system-packages", *sorted(missing)], check=False).returncode:
        raise MissingTool(f"packages of the system are missing: {' '.join(sorted(missing))}")


@cache
def tool(name: str) -> Path:
    """A program that Go builds: it is built now if it never was.

    Raises `MissingTool`.
    """
    found = subprocess.run([ROOT / "hack" / "tool", name], stdout=subprocess.PIPE, text=True, check=False)
    if found.returncode != 0:
        raise MissingTool(f"hack/tool {name} failed")
    return Path(found.stdout.strip())


def system(name: str) -> Path:
    """A program of the system. Raises `MissingTool`."""
    found = shutil.which(name)
    if found is None:
        raise MissingTool(f"{name} is not installed; on Debian: apt-get install {SYSTEM[name]}")
    return Path(found)


def seaweedfs() -> Path:
    """The S3 server, from the interpreter's own environment."""
    return Path(sys.executable).parent / "weed"


@cache
def nginx() -> Path:
    """The web server of the demonstration: Debian's package is only unpacked; installed, it would serve here.

    Raises `MissingTool`.
    """
    folder = Layout.of_environment().base / "packages"
    found = folder / "usr" / "sbin" / "nginx"
    command = [str(ROOT / "hack" / "system-packages"), "--unpack", str(folder), "nginx"]
    if not found.exists() and subprocess.run(command, check=False).returncode:
        raise MissingTool("the package nginx cannot be had")
    return found


def search_path(tools: Iterable[str] = ("kubectl", "velero")) -> str:
    """The folders of the commands that people and tests type, for PATH."""
    return ":".join(dict.fromkeys(str(tool(name).parent) for name in tools))
