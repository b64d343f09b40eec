"""Volumes and snapshots for a control plane: a CSI driver that keeps them in folders, and the controllers around it.

    with ControlPlane(folder) as plane, CsiStorage(plane) as storage:
        ...                                     # claims of the classes `dir` and `dir-late` get bound
        storage.faults(fail={"CreateSnapshot": "the backend is busy"})

The provisioner, the snapshotter and the snapshot controller are the real ones. The driver is
`hack/tools/csi-test-driver`: whatever it has made lies below `folder`, for tests to look at.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

from agent.testing.control_plane import ControlPlane, Manifest
from agent.testing.control_plane_process import ChildProgram, tool

DRIVER: Final = "dir.csi.lighterage.test"
STORAGE_CLASS: Final = "dir"
LATE_STORAGE_CLASS: Final = "dir-late"
"""Binds a claim when its first consumer has a node."""
SNAPSHOT_CLASS: Final = "dir"

_QUICK = ["--kube-api-qps=100", "--kube-api-burst=200", "--retry-interval-start=200ms"]


class CsiStorage:
    """The driver and its controllers. `zone` makes volumes belong to zones."""

    def __init__(self, plane: ControlPlane, *, zone: str = "") -> None:
        self.folder = plane.folder / "csi"
        self._plane = plane
        self._zone = zone
        self._stack = ExitStack()
        self._faults = self.folder / "faults.json"
        self.endpoint = Path()
        """The driver's socket."""
        self.driver: ChildProgram

    def __enter__(self) -> Self:
        self.folder.mkdir()
        with ExitStack() as stack:
            sockets = stack.enter_context(tempfile.TemporaryDirectory(prefix="csi-"))  # paths of sockets are short
            self.endpoint = Path(sockets) / "csi.sock"
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self, stack: ExitStack) -> None:
        self._plane.install_definitions(tool("snapshot-crds"))
        self._plane.apply(*_classes())
        self.driver = self._program(
            stack,
            "csi-test-driver",
            f"-state={self.folder}",
            f"-endpoint={self.endpoint}",
            f"-driver={DRIVER}",
            "-kubelet-dir=",
            f"-faults={self._faults}",
            f"-zone={self._zone}",
        )
        self.driver.wait_until("serves", self.endpoint.exists, seconds=20)
        api, socket = f"--kubeconfig={self._plane.kubeconfig}", f"--csi-address={self.endpoint}"
        self._program(stack, "snapshot-controller", api, *_QUICK)
        self._program(stack, "csi-snapshotter", api, socket, *_QUICK)
        self._program(stack, "csi-provisioner", api, socket, "--extra-create-metadata", *_QUICK)

    def _program(self, stack: ExitStack, name: str, *arguments: str) -> ChildProgram:
        program = ChildProgram(name, [tool(name), *arguments], self._plane.folder)
        stack.callback(program.stop)
        program.start()
        return program

    # What a test looks at and does

    def volume(self, handle: str) -> Path:
        """Where a volume's files are (Filesystem), or its image (Block)."""
        return self.folder / "vol" / handle

    def volume_of(self, namespace: str, claim: str) -> Path:
        """Where the volume of a bound claim is. Raises `RuntimeError` when there is none."""
        name = self._plane.kubectl("get", "pvc", claim, f"--namespace={namespace}", "-o=jsonpath={.spec.volumeName}")
        if not name:
            raise RuntimeError(f"the claim {namespace}/{claim} is not bound")
        return self.volume(self._plane.kubectl("get", "pv", name, "-o=jsonpath={.spec.csi.volumeHandle}"))

    def volumes(self) -> set[str]:
        """Handles of the volumes that the storage holds."""
        return set(os.listdir(self.folder / "vol"))

    def snapshots(self) -> set[str]:
        """Handles of the snapshots that the storage holds."""
        return set(os.listdir(self.folder / "snap"))

    def faults(
        self,
        *,
        fail: Mapping[str, str] | None = None,
        delay: Mapping[str, float] | None = None,
        snapshot_ready: float = 0.0,
    ) -> None:
        """What goes wrong from now on: calls that fail with a message, take seconds longer; snapshots ready late."""
        asked = {"fail": fail or {}, "delaySeconds": delay or {}, "snapshotReadySeconds": snapshot_ready}
        new = self._faults.with_suffix(".new")
        new.write_text(json.dumps(asked))
        new.rename(self._faults)

    # What a kubelet asks for. Thread side.

    def publish(self, handle: str, target: Path, *, block: bool = False, read_only: bool = False) -> None:
        """Mount a volume for a pod, or map its device. Raises `RuntimeError` with the driver's words."""
        options = ["-block"] * block + ["-read-only"] * read_only
        self._call("publish", handle, target, *options)

    def unpublish(self, handle: str, target: Path) -> None:
        """Take it away again."""
        self._call("unpublish", handle, target)

    def _call(self, step: str, handle: str, target: Path, *options: str) -> None:
        command = [str(tool("csi-test-driver")), step, f"-endpoint={self.endpoint}", f"-volume={handle}"]
        done = subprocess.run([*command, f"-target={target}", *options], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().partition(" rpc error: ")[2] or done.stderr.strip())


def _classes() -> list[Manifest]:
    storage = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": DRIVER}
    snapshots = {"apiVersion": "snapshot.storage.k8s.io/v1", "driver": DRIVER, "deletionPolicy": "Delete"}
    found = [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSIDriver",
            "metadata": {"name": DRIVER},
            "spec": {"attachRequired": False, "podInfoOnMount": False},
        },
        {**storage, "metadata": {"name": STORAGE_CLASS}, "volumeBindingMode": "Immediate"},
        {**storage, "metadata": {"name": LATE_STORAGE_CLASS}, "volumeBindingMode": "WaitForFirstConsumer"},
        {
            **snapshots,
            "kind": "VolumeSnapshotClass",
            "metadata": {"name": SNAPSHOT_CLASS, "labels": {"velero.io/csi-volumesnapshot-class": "true"}},
        },
    ]
    return cast(list[Manifest], found)
