"""From a pod's objects to the folder of its volume on the node."""

import random
from pathlib import Path

import pytest

from agent.base.errors import ExposeUnsupported, SourceGone, VolumeNotMounted
from agent.exposers.contract import Broken, Waiting
from agent.exposers.host_path import HostPods
from agent.exposers.pod_volume_source import MountedVolume, mounted_volume
from agent.kube.job import PodReference
from agent.kube.pods import Opaque, PodPhase
from agent.kube.volumes import VolumeMode
from agent.testing.clock import VirtualClock
from agent.testing.fake_kube import FakeKube
from tests.unit.exposers.pod_kit import NODE, POD_UID, WAITING, PodNode, app_pod, claim

REFERENCE = PodReference(kind="Pod", namespace="app", name="web", uid=POD_UID)
CLAIMED: Opaque = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
EPHEMERAL: Opaque = {"name": "data", "ephemeral": {"volumeClaimTemplate": {}}}


@pytest.fixture
def node(tmp_path: Path) -> PodNode:
    return PodNode(tmp_path, FakeKube(VirtualClock(), random.Random(1)))


async def find(
    node: PodNode, volume: str = "data", where: str = NODE, reference: PodReference = REFERENCE
) -> MountedVolume | Waiting | Broken:
    return await mounted_volume(node.kube, HostPods(str(node.root)), where, reference, volume)


def error_of(state: object, kind: type[Exception]) -> str:
    assert isinstance(state, Broken)
    assert isinstance(state.error, kind)
    return str(state.error)


@pytest.mark.parametrize(
    ("plugin", "source"),
    [
        ("kubernetes.io~empty-dir", {"emptyDir": {}}),
        ("kubernetes.io~nfs", {"nfs": {"server": "s", "path": "/p"}}),
        ("kubernetes.io~projected", {"projected": {"sources": []}}),
        ("kubernetes.io~configmap", {"configMap": {"name": "x"}}),
    ],
)
async def test_a_volume_without_a_claim_has_its_own_name(node: PodNode, plugin: str, source: Opaque) -> None:
    node.put(app_pod({"name": "other", "emptyDir": {}}, {"name": "data", **source}))
    node.mount(plugin, "other")
    path = node.mount(plugin, "data")
    state = await find(node)
    assert isinstance(state, MountedVolume)
    assert (state.path, state.mode) == (str(path), VolumeMode.FILESYSTEM)


async def test_an_inline_csi_volume_is_mounted_one_folder_deeper(node: PodNode) -> None:
    node.put(app_pod({"name": "data", "csi": {"driver": "d"}}))
    path = node.mount("kubernetes.io~csi", "data", "mount")
    state = await find(node)
    assert isinstance(state, MountedVolume)
    assert state.path == str(path)


@pytest.mark.parametrize(
    ("plugin", "below"),
    [("kubernetes.io~csi", ("mount",)), ("kubernetes.io~local-volume", ()), ("kubernetes.io~nfs", ())],
    ids=["csi or migrated", "local", "nfs"],
)
async def test_a_claim_has_the_name_of_its_volume(node: PodNode, plugin: str, below: tuple[str, ...]) -> None:
    node.put(app_pod(CLAIMED))
    await node.put_claim(claim("data", "pv-7"))
    path = node.mount(plugin, "pv-7", *below)
    state = await find(node)
    assert isinstance(state, MountedVolume)
    assert state.path == str(path)


async def test_a_generic_ephemeral_volume_has_the_claim_of_pod_and_volume(node: PodNode) -> None:
    node.put(app_pod(EPHEMERAL))
    await node.put_claim(claim("web-data", "pv-8", owner=POD_UID))
    path = node.mount("kubernetes.io~csi", "pv-8", "mount")
    state = await find(node)
    assert isinstance(state, MountedVolume)
    assert state.path == str(path)


async def test_a_claim_that_only_has_the_name_of_an_ephemeral_one_is_not_read(node: PodNode) -> None:
    node.put(app_pod(EPHEMERAL))
    await node.put_claim(claim("web-data", "pv-8", owner="another pod"))
    node.mount("kubernetes.io~csi", "pv-8", "mount")
    assert "belongs to somebody else" in error_of(await find(node), SourceGone)


async def test_a_block_volume_is_its_device(node: PodNode, tmp_path: Path) -> None:
    node.put(app_pod(CLAIMED))
    await node.put_claim(claim("data", "pv-9", VolumeMode.BLOCK))
    device = tmp_path / "loop1"
    device.touch()
    link = node.root / POD_UID / "volumeDevices" / "kubernetes.io~csi" / "pv-9"
    link.parent.mkdir(parents=True)
    link.symlink_to(device)
    state = await find(node)
    assert isinstance(state, MountedVolume)
    assert (state.path, state.mode) == (str(link), VolumeMode.BLOCK)


async def test_a_pod_that_is_gone_is_definite(node: PodNode) -> None:
    assert "app/web does not exist any more" in error_of(await find(node), SourceGone)


async def test_a_pod_made_anew_is_another(node: PodNode) -> None:
    node.put(app_pod(CLAIMED, uid="new"))
    assert "was made anew" in error_of(await find(node), SourceGone)


@pytest.mark.parametrize("phase", [PodPhase.SUCCEEDED, PodPhase.FAILED])
async def test_a_pod_that_has_ended_is_definite(node: PodNode, phase: PodPhase) -> None:
    node.put(app_pod(CLAIMED, phase=phase))
    assert "has ended" in error_of(await find(node), SourceGone)


async def test_a_pod_of_another_node_is_definite(node: PodNode) -> None:
    node.put(app_pod(CLAIMED))
    assert "runs on node-a and not on node-b" in error_of(await find(node, where="node-b"), SourceGone)


async def test_a_volume_that_the_pod_does_not_have_is_definite(node: PodNode) -> None:
    node.put(app_pod(CLAIMED))
    assert "has no volume of that name" in error_of(await find(node, "absent"), SourceGone)


async def test_a_claim_that_is_gone_is_definite(node: PodNode) -> None:
    node.put(app_pod(CLAIMED))
    assert "app/data does not exist" in error_of(await find(node), SourceGone)


async def test_a_folder_of_the_node_is_unsupported(node: PodNode) -> None:
    node.put(app_pod({"name": "data", "hostPath": {"path": "/etc"}}))
    assert "hostPath" in error_of(await find(node), ExposeUnsupported)


async def test_a_volume_of_an_unknown_shape_is_unsupported(node: PodNode) -> None:
    node.put(app_pod({"name": "data", "persistentVolumeClaim": "hostile"}))
    error_of(await find(node), ExposeUnsupported)


async def test_what_a_running_pod_has_not_mounted_never_comes(node: PodNode) -> None:
    node.put(app_pod({"name": "data", "emptyDir": {}}))
    assert "HostToContainer" in error_of(await find(node), VolumeNotMounted)


async def test_a_pod_whose_volumes_are_being_mounted_is_waited_for(node: PodNode) -> None:
    node.put(app_pod({"name": "data", "emptyDir": {}}, app=WAITING, phase=PodPhase.PENDING))
    assert isinstance(await find(node), Waiting)


async def test_a_claim_without_a_volume_is_waited_for(node: PodNode) -> None:
    node.put(app_pod(CLAIMED, app=WAITING, phase=PodPhase.PENDING))
    await node.put_claim(claim("data", ""))
    assert await find(node) == Waiting("the claim app/data has no volume yet")
