"""Volumes of pods on a simulated node: real mounts and folders where a kubelet has them. Thread side."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import msgspec

from agent.kube.volumes import PersistentVolume, VolumeMode
from agent.testing.control_plane_csi import DRIVER, CsiStorage


class MountError(Exception):
    """A volume cannot be mounted; the text is the kubelet's."""


class MountedVolume(msgspec.Struct, frozen=True):
    """A volume of a pod: where its data is on the node, and how it is taken away."""

    path: Path
    volume: str = ""
    """Name of the PersistentVolume."""
    handle: str = ""
    """Of a CSI volume."""
    target: Path | None = None
    """Where the CSI driver published it, or what is bind-mounted."""


class NodeMounts:
    """The folder of one kubelet: `pods/<uid>/volumes/<plug-in>/<name>`, and `volumeDevices` for devices."""

    def __init__(self, root: Path, storage: CsiStorage) -> None:
        self._root = root
        self._storage = storage

    def pod(self, uid: str) -> Path:
        """The folder of a pod."""
        return self._root / "pods" / uid

    def mount_claim(self, uid: str, volume: PersistentVolume, *, read_only: bool) -> MountedVolume:
        """Bring the volume of a claim to a pod."""
        name, spec = volume.metadata.name, volume.spec
        if spec.csi is not None and spec.csi.driver == DRIVER:
            return self._mount_csi(uid, name, spec.csi.volume_handle, spec.volume_mode, read_only=read_only)
        if spec.local is not None:
            return self._bind(Path(str(spec.local["path"])), self._folder(uid, "kubernetes.io~local-volume", name))
        if spec.host_path is not None:
            return MountedVolume(Path(str(spec.host_path["path"])))
        raise MountError(f"MountVolume failed for volume {name!r}: this node has no such plug-in")

    def mount_other(self, uid: str, volume: dict[str, object]) -> MountedVolume:
        """Bring a volume without a claim to a pod: an emptyDir; configuration and tokens as empty folders."""
        name = str(volume["name"])
        host_path = volume.get("hostPath")
        if isinstance(host_path, dict):
            return MountedVolume(Path(str(host_path["path"])))
        kind = "empty-dir" if "emptyDir" in volume else next(iter(sorted(volume.keys() - {"name"}))).lower()
        folder = self._folder(uid, f"kubernetes.io~{kind}", name)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
        return MountedVolume(folder)

    def unmount(self, mounted: MountedVolume) -> None:
        """Take a volume away from a pod."""
        if mounted.handle and mounted.target is not None:
            if mounted.target != mounted.path:
                mounted.path.unlink(missing_ok=True)
            self._storage.unpublish(mounted.handle, mounted.target)
        elif mounted.target is not None:
            _run("umount", str(mounted.target))

    def remove_pod(self, uid: str) -> None:
        """Remove the folder of a pod whose volumes are gone; what is still mounted there makes it fail."""
        folder = self.pod(uid)
        if any(os.path.ismount(path) for path in folder.glob("volumes/*/*/mount")):
            raise MountError(f"the pod {uid} still has a volume mounted")
        shutil.rmtree(folder, ignore_errors=True)

    def _folder(self, uid: str, plugin: str, name: str) -> Path:
        return self.pod(uid) / "volumes" / plugin / name

    def _mount_csi(self, uid: str, name: str, handle: str, mode: VolumeMode, *, read_only: bool) -> MountedVolume:
        try:
            if mode is VolumeMode.FILESYSTEM:
                target = self._folder(uid, "kubernetes.io~csi", name) / "mount"
                self._storage.publish(handle, target, read_only=read_only)
                return MountedVolume(target, name, handle, target)
            target = self._root / "plugins/kubernetes.io/csi/volumeDevices/publish" / name / uid
            self._storage.publish(handle, target, block=True, read_only=read_only)
        except RuntimeError as error:
            raise MountError(f'MountVolume.SetUp failed for volume "{name}" : rpc error: {error}') from error
        link = self.pod(uid) / "volumeDevices/kubernetes.io~csi" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"/dev/loop{os.minor(target.stat().st_rdev)}")
        return MountedVolume(link, name, handle, target)

    def _bind(self, source: Path, target: Path) -> MountedVolume:
        target.mkdir(parents=True, exist_ok=True)
        _run("mount", "--bind", str(source), str(target))
        return MountedVolume(target, target=target)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MountError(f"{' '.join(command)}: {done.stderr.strip()}")
