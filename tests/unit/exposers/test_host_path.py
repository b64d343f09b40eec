"""Finding a pod's volume below the kubelet's folder, on real directories."""

from pathlib import Path

import pytest

from agent.base.errors import VolumeNotMounted
from agent.exposers.host_path import HostPods, LocalTree, csi_volume_path, find_volume
from agent.kube.volumes import VolumeMode

UID = "70a8cffd-3af7-4006-a46f-8878f8859c68"


def find(root: Path, folder: str, mode: VolumeMode = VolumeMode.FILESYSTEM, uid: str = UID) -> str:
    return find_volume(LocalTree(), str(root), uid, folder, mode)


def make(root: Path, plugin: str, folder: str, *below: str) -> Path:
    path = root.joinpath(UID, "volumes", plugin, folder, *below)
    path.mkdir(parents=True)
    return path


@pytest.mark.check(33)
@pytest.mark.parametrize(
    "plugin", ["kubernetes.io~empty-dir", "kubernetes.io~nfs", "kubernetes.io~local-volume", "kubernetes.io~projected"]
)
def test_a_volume_that_is_not_csi_is_its_folder(tmp_path: Path, plugin: str) -> None:
    path = make(tmp_path, plugin, "data")
    make(tmp_path, "kubernetes.io~secret", "data-2")
    assert find(tmp_path, "data") == str(path)


@pytest.mark.check(33)
def test_a_csi_volume_is_mounted_one_folder_deeper(tmp_path: Path) -> None:
    path = make(tmp_path, "kubernetes.io~csi", "pvc-1", "mount")
    assert find(tmp_path, "pvc-1") == str(path)
    assert csi_volume_path(UID, "pvc-1", VolumeMode.FILESYSTEM, str(tmp_path)) == str(path)


def test_a_csi_volume_that_is_not_mounted_yet_is_not_found(tmp_path: Path) -> None:
    make(tmp_path, "kubernetes.io~csi", "pvc-1")
    with pytest.raises(VolumeNotMounted, match="cannot be followed"):
        find(tmp_path, "pvc-1")


@pytest.mark.check(33)
def test_a_block_volume_is_the_link_to_its_device(tmp_path: Path) -> None:
    device = tmp_path / "loop3"
    device.touch()
    link = tmp_path / "pods" / UID / "volumeDevices" / "kubernetes.io~csi" / "pvc-1"
    link.parent.mkdir(parents=True)
    link.symlink_to(device)
    assert find(tmp_path / "pods", "pvc-1", VolumeMode.BLOCK) == str(link)
    assert csi_volume_path(UID, "pvc-1", VolumeMode.BLOCK, str(tmp_path / "pods")) == str(link)


def test_a_block_volume_whose_device_is_not_seen_says_what_to_mount(tmp_path: Path) -> None:
    link = tmp_path / UID / "volumeDevices" / "kubernetes.io~csi" / "pvc-1"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "absent")
    with pytest.raises(VolumeNotMounted, match="/dev"):
        find(tmp_path, "pvc-1", VolumeMode.BLOCK)


def test_a_root_that_is_a_link_is_followed(tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", "kubernetes.io~csi", "pvc-1", "mount")
    (tmp_path / "kubelet").symlink_to(tmp_path / "elsewhere")
    path = find(tmp_path / "kubelet", "pvc-1")
    assert path == str(tmp_path / "kubelet" / UID / "volumes" / "kubernetes.io~csi" / "pvc-1" / "mount")


def test_two_plugins_with_such_a_folder_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "kubernetes.io~nfs", "data")
    make(tmp_path, "kubernetes.io~empty-dir", "data")
    with pytest.raises(VolumeNotMounted, match="more than once"):
        find(tmp_path, "data")


def test_a_folder_that_is_a_link_out_of_the_pod_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    plugin = tmp_path / "pods" / UID / "volumes" / "kubernetes.io~empty-dir"
    plugin.mkdir(parents=True)
    (plugin / "data").symlink_to(tmp_path / "secret")
    with pytest.raises(VolumeNotMounted, match="leads out"):
        find(tmp_path / "pods", "data")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a\0b", "x" * 256])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(VolumeNotMounted, match="not the name of a folder"):
        find(tmp_path, name)
    with pytest.raises(VolumeNotMounted, match="not the name of a folder"):
        find(tmp_path, "data", uid=name)


def test_names_are_compared_whole_and_never_as_patterns(tmp_path: Path) -> None:
    make(tmp_path, "kubernetes.io~empty-dir", "data")
    for name in ("*", "dat?", "d", "data2"):
        with pytest.raises(VolumeNotMounted, match="is not mounted below"):
            find(tmp_path, name)


def test_a_pod_without_a_folder_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(VolumeNotMounted, match="HostToContainer"):
        find(tmp_path, "data")


async def test_the_nodes_volumes_are_looked_up_outside_the_loop(tmp_path: Path) -> None:
    path = make(tmp_path, "kubernetes.io~csi", "pvc-1", "mount")
    assert await HostPods(str(tmp_path)).find(UID, "pvc-1", VolumeMode.FILESYSTEM) == str(path)
