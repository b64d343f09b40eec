"""Where a pod's volume lies on the node (contract §3.3), seen through the agent's mount of the kubelet's `pods` folder.

The kubelet mounts a volume at `<pod uid>/volumes/<plug-in>/<folder>`, a CSI volume one deeper at `mount`, and maps a
block volume to `<pod uid>/volumeDevices/<plug-in>/<folder>`. Exactly one plug-in may have such a folder. Which plug-in
mounted it says whether it is CSI, so no object of the cluster has to be asked about migrated in-tree volumes.

Names come from objects of the cluster and are not trusted: a name is one component of a path, and what is found has to
lie in the folder of that pod when all links are followed. The kubelet's root itself may well be a link.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
from collections.abc import Sequence
from typing import Final, Protocol

from agent.base.errors import VolumeNotMounted
from agent.kube.volumes import VolumeMode

HOST_PODS: Final = "/host_pods"
"""Where the agent's DaemonSet mounts the kubelet's `pods` folder."""

CSI_PLUGIN_FOLDER: Final = "kubernetes.io~csi"
_CSI_MOUNT = "mount"
_FOLDERS = {VolumeMode.FILESYSTEM: "volumes", VolumeMode.BLOCK: "volumeDevices"}
_MAX_NAME = 255
_PROPAGATION_HINT = "check that the agent mounts the kubelet's pods folder with HostToContainer propagation"


class HostTree(Protocol):
    """The few questions about a file system that finding a volume takes. Thread side."""

    def names(self, path: str) -> Sequence[str]:
        """The entries of a folder; `FileNotFoundError` and `NotADirectoryError` when it is none."""
        ...

    def real(self, path: str) -> str:
        """The path with all links followed; `FileNotFoundError` when it leads nowhere."""
        ...


class LocalTree:
    """The file system of this process."""

    def names(self, path: str) -> Sequence[str]:
        """The entries of a folder."""
        return os.listdir(path)

    def real(self, path: str) -> str:
        """The path with all links followed."""
        return os.path.realpath(path, strict=True)


class NodeVolumes(Protocol):
    """The volumes of the pods of this node."""

    async def find(self, pod_uid: str, folder: str, mode: VolumeMode) -> str:
        """The path of a volume of a pod; `VolumeNotMounted` when there is none, or more than one."""
        ...


class HostPods:
    """The volumes of this node's pods below the agent's mount of the kubelet's `pods` folder."""

    def __init__(self, root: str = HOST_PODS, tree: HostTree | None = None) -> None:
        self._root = root
        self._tree = LocalTree() if tree is None else tree

    async def find(self, pod_uid: str, folder: str, mode: VolumeMode) -> str:
        """The path of a volume of a pod. `folder` is the volume's name in the pod, or its PersistentVolume's."""
        return await asyncio.to_thread(find_volume, self._tree, self._root, pod_uid, folder, mode)


def find_volume(tree: HostTree, root: str, pod_uid: str, folder: str, mode: VolumeMode) -> str:
    """The path of a pod's volume or device below `root`; `VolumeNotMounted`. Thread side."""
    what = f"volume {folder!r} of pod {pod_uid!r}"
    if not (_is_one_component(pod_uid) and _is_one_component(folder)):
        raise VolumeNotMounted(f"cannot look for {what}: a name in it is not the name of a folder")
    plugins = posixpath.join(root, pod_uid, _FOLDERS[mode])
    found = [plugin for plugin in _names(tree, plugins) if folder in _names(tree, posixpath.join(plugins, plugin))]
    if not found:
        raise VolumeNotMounted(f"{what} is not mounted below {plugins}", hint=_PROPAGATION_HINT)
    if len(found) > 1:
        raise VolumeNotMounted(f"{what} is mounted more than once below {plugins}: {', '.join(sorted(found)[:5])}")
    path = posixpath.join(plugins, found[0], folder)
    if mode is VolumeMode.BLOCK:
        _follow(tree, path, what)  # a link to a device, which lies elsewhere
        return path
    if found[0] == CSI_PLUGIN_FOLDER:
        path = posixpath.join(path, _CSI_MOUNT)
    home = posixpath.join(_follow(tree, root, what), pod_uid)
    if not _follow(tree, path, what).startswith(home + "/"):
        raise VolumeNotMounted(f"{what} at {path} is a link that leads out of the pod's own folder {home}")
    return path


def csi_volume_path(pod_uid: str, volume: str, mode: VolumeMode, root: str = HOST_PODS) -> str:
    """Where the kubelet of any node puts a CSI volume of a pod, by convention and without looking."""
    path = posixpath.join(root, pod_uid, _FOLDERS[mode], CSI_PLUGIN_FOLDER, volume)
    return path if mode is VolumeMode.BLOCK else posixpath.join(path, _CSI_MOUNT)


def _is_one_component(name: str) -> bool:
    return 0 < len(name) <= _MAX_NAME and name not in {".", ".."} and not {"/", "\0"} & set(name)


def _names(tree: HostTree, path: str) -> Sequence[str]:
    try:
        return tree.names(path)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise VolumeNotMounted(f"cannot list {path}: {error.strerror}", hint=_PROPAGATION_HINT) from error


def _follow(tree: HostTree, path: str, what: str) -> str:
    try:
        return tree.real(path)
    except OSError as error:
        raise VolumeNotMounted(
            f"{what} is listed at {path}, which cannot be followed: {error.strerror}",
            hint="a block volume needs the node's /dev and the kubelet's plugins folder mounted into the agent",
        ) from error
