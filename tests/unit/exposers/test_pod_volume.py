"""PodVolumeBackups and PodVolumeRestores, done by the agent itself, on real directories."""

import random
from pathlib import Path

import pytest

from agent.base.errors import DoneFileFailed, ExposeUnsupported, SourceGone
from agent.exposers.contract import Broken, Done, Ready, Runner
from agent.exposers.host_path import HostPods
from agent.exposers.pod_volume import PodVolumeBackupExposer, PodVolumeRestoreExposer
from agent.exposers.settings import ExposerSettings
from agent.kube.agent_config import AgentConfig
from agent.kube.job import PodReference
from agent.kube.meta import ObjectMeta, OwnerReference
from agent.kube.pod_volume_backup import PodVolumeBackup, PodVolumeBackupSpec
from agent.kube.pod_volume_restore import PodVolumeRestore, PodVolumeRestoreSpec
from agent.kube.pods import Opaque
from agent.kube.volumes import VolumeMode
from agent.testing.clock import VirtualClock
from agent.testing.fake_kube import FakeKube
from tests.unit.exposers.pod_kit import ENDED, NODE, POD_UID, RESTORE_UID, RUNNING, PodNode, app_pod

DATA: Opaque = {"name": "data", "emptyDir": {}}
REFERENCE = PodReference(kind="Pod", namespace="app", name="web", uid=POD_UID)


@pytest.fixture
def node(tmp_path: Path) -> PodNode:
    return PodNode(tmp_path, FakeKube(VirtualClock(), random.Random(1)))


def settings(node: PodNode, config: AgentConfig | None = None, *, sees_host_pods: bool = True) -> ExposerSettings:
    return ExposerSettings(
        api=node.kube,
        clock=VirtualClock(),
        node=NODE,
        namespace="velero",
        config=lambda: config or AgentConfig(),
        volumes=HostPods(str(node.root)),
        sees_host_pods=sees_host_pods,
    )


def metadata(uid: str, owner: str) -> ObjectMeta:
    owners = (OwnerReference(api_version="velero.io/v1", kind="Restore", name="r", uid=owner),) if owner else ()
    return ObjectMeta(name="fs-big-1", namespace="velero", uid=uid, owner_references=owners)


def backup() -> PodVolumeBackup:
    spec = PodVolumeBackupSpec(
        node=NODE, pod=REFERENCE, volume="data", backup_storage_location="default", uploader_type="kopia"
    )
    return PodVolumeBackup(
        api_version="velero.io/v1", kind="PodVolumeBackup", metadata=metadata("pvb-uid", "b"), spec=spec
    )


def restore(owner: str = RESTORE_UID) -> PodVolumeRestore:
    spec = PodVolumeRestoreSpec(
        pod=REFERENCE, volume="data", backup_storage_location="default", snapshot_id="s", source_namespace="app"
    )
    return PodVolumeRestore(
        api_version="velero.io/v1", kind="PodVolumeRestore", metadata=metadata("pvr-uid", owner), spec=spec
    )


async def test_a_mounted_volume_is_ready_without_anything_being_made(node: PodNode) -> None:
    node.put(app_pod(DATA))
    path = node.mount("kubernetes.io~empty-dir", "data")
    state = await PodVolumeBackupExposer(settings(node)).advance(backup())
    assert state == Ready(node=NODE, mode=VolumeMode.FILESYSTEM, path=str(path), runner=Runner.LOCAL)
    assert {verb for verb, _ in node.kube.requests} == {"get"}


async def test_a_pod_that_went_meanwhile_is_source_gone(node: PodNode) -> None:
    state = await PodVolumeBackupExposer(settings(node)).advance(backup())
    assert isinstance(state, Broken)
    assert isinstance(state.error, SourceGone)
    assert state.error.code == "expose.source-gone"


async def test_an_agent_without_the_kubelets_folder_says_so(node: PodNode) -> None:
    node.put(app_pod(DATA))
    state = await PodVolumeBackupExposer(settings(node, sees_host_pods=False)).advance(backup())
    assert isinstance(state, Broken)
    assert isinstance(state.error, ExposeUnsupported)
    assert "--node-agent-disable-host-path" in str(state.error)


async def test_a_backup_leaves_nothing_to_finish_or_to_clean_up(node: PodNode) -> None:
    node.put(app_pod(DATA))
    path = node.mount("kubernetes.io~empty-dir", "data")
    exposer = PodVolumeBackupExposer(settings(node))
    assert await exposer.finish(backup()) == Done()
    assert await exposer.clean_up(backup()) == Done()
    assert list(path.iterdir()) == []


async def test_a_finished_restore_tells_the_pod_so(node: PodNode) -> None:
    node.put(app_pod(DATA, wait=RUNNING))
    path = node.mount("kubernetes.io~empty-dir", "data")
    exposer = PodVolumeRestoreExposer(settings(node))
    assert isinstance(await exposer.advance(restore()), Ready)
    for _ in range(2):
        assert await exposer.finish(restore()) == Done()
        assert [file.name for file in (path / ".velero").iterdir()] == [RESTORE_UID]


async def test_a_pod_that_has_gone_on_already_is_not_told_again(node: PodNode) -> None:
    node.put(app_pod(DATA, wait=ENDED))
    path = node.mount("kubernetes.io~empty-dir", "data")
    assert await PodVolumeRestoreExposer(settings(node)).finish(restore()) == Done()
    assert list(path.iterdir()) == []


async def test_a_canceled_restore_leaves_no_done_file(node: PodNode) -> None:
    node.put(app_pod(DATA, wait=RUNNING))
    path = node.mount("kubernetes.io~empty-dir", "data")
    exposer = PodVolumeRestoreExposer(settings(node))
    await exposer.advance(restore())
    assert await exposer.clean_up(restore()) == Done()
    assert list(path.iterdir()) == []


@pytest.mark.parametrize(("owner", "why"), [("", "names no restore"), ("../../x", "cannot be the name of a file")])
async def test_a_restore_without_a_sound_owner_fails_and_leaves_no_done_file(
    node: PodNode, owner: str, why: str
) -> None:
    node.put(app_pod(DATA, wait=RUNNING))
    path = node.mount("kubernetes.io~empty-dir", "data")
    state = await PodVolumeRestoreExposer(settings(node)).finish(restore(owner))
    assert isinstance(state, Broken)
    assert isinstance(state.error, DoneFileFailed)
    assert why in str(state.error)
    assert list(path.iterdir()) == []


async def test_a_pod_that_went_before_the_end_fails_the_restore(node: PodNode) -> None:
    state = await PodVolumeRestoreExposer(settings(node)).finish(restore())
    assert isinstance(state, Broken)
    assert isinstance(state.error, SourceGone)


async def test_a_diagnosis_names_the_path_or_the_reason(node: PodNode) -> None:
    exposer = PodVolumeBackupExposer(settings(node))
    assert await exposer.diagnose(backup()) == ("the pod app/web does not exist any more",)
    node.put(app_pod(DATA))
    path = node.mount("kubernetes.io~empty-dir", "data")
    assert await exposer.diagnose(backup()) == (f"the volume 'data' of the pod app/web is mounted at {path}",)
