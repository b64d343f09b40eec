"""The done file's folder goes once the pod has started, on real directories and in virtual time."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.base.errors import KubeUnavailable
from agent.exposers.done_file import write_done_file
from agent.exposers.host_path import HostPods
from agent.exposers.restore_wait import DoneFolders
from agent.kube.pods import ContainerState, PodPhase, Terminated
from agent.testing.clock import VirtualClock
from agent.testing.fake_kube import FakeKube
from tests.unit.exposers.pod_kit import ENDED, POD_UID, RESTORE_UID, RUNNING, PodNode, app_pod, claim

EMPTY_DIR = "kubernetes.io~empty-dir"


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def node(tmp_path: Path, clock: VirtualClock) -> PodNode:
    return PodNode(tmp_path, FakeKube(clock, random.Random(1)))


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual time does not wait for threads."""

    async def at_once(function: Callable[..., object], *arguments: object) -> object:
        return function(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", at_once)


@asynccontextmanager
async def cleaner(node: PodNode, clock: VirtualClock) -> AsyncIterator[DoneFolders]:
    folders = DoneFolders(node.kube, HostPods(str(node.root)), clock, random.Random(2))
    task = asyncio.create_task(folders.run())
    try:
        yield folders
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def restored(volume: Path) -> Path:
    write_done_file(str(volume), RESTORE_UID)
    return volume


async def gone(path: Path, clock: VirtualClock, within: float) -> bool:
    """Whether the folder is removed in this virtual time."""
    deadline = clock.monotonic() + within
    while (path / ".velero").exists():
        if clock.monotonic() >= deadline:
            return False
        await clock.sleep(0.5)
    return True


async def test_the_folder_goes_within_15_seconds_of_the_end_of_the_wait(node: PodNode, clock: VirtualClock) -> None:
    first = restored(node.mount(EMPTY_DIR, "data"))
    second = restored(node.mount("kubernetes.io~csi", "pvc-1", "mount"))
    await node.put_claim(claim("logs", "pvc-1"))
    volumes = ({"name": "data", "emptyDir": {}}, {"name": "logs", "persistentVolumeClaim": {"claimName": "logs"}})
    async with cleaner(node, clock) as folders:
        folders.pod_changed(app_pod(*volumes, wait=RUNNING))
        await clock.sleep(60)
        assert (first / ".velero").exists(), "the pod still waits for it"
        folders.pod_changed(app_pod(*volumes, wait=ENDED))
        assert await gone(first, clock, 15)
        assert await gone(second, clock, 15)


async def test_an_agent_that_starts_later_removes_it_when_it_is_told_of_the_pod(
    node: PodNode, clock: VirtualClock
) -> None:
    volume = restored(node.mount(EMPTY_DIR, "data"))
    pod = app_pod({"name": "data", "emptyDir": {}}, wait=ENDED)
    for _ in range(2):
        async with cleaner(node, clock) as folders:
            folders.pod_changed(pod)
            assert await gone(volume, clock, 15)


async def test_a_folder_that_the_application_makes_later_stays(node: PodNode, clock: VirtualClock) -> None:
    volume = node.mount(EMPTY_DIR, "data")
    (volume / ".velero").mkdir()
    async with cleaner(node, clock) as folders:
        folders.pod_changed(app_pod({"name": "data", "emptyDir": {}}, wait=ENDED))
        assert not await gone(volume, clock, 30)


@pytest.mark.parametrize(
    "wait", [RUNNING, ContainerState(terminated=Terminated(exit_code=1)), None], ids=["waits", "failed", "no restore"]
)
async def test_only_the_good_end_of_the_wait_counts(
    node: PodNode, clock: VirtualClock, wait: ContainerState | None
) -> None:
    volume = restored(node.mount(EMPTY_DIR, "data"))
    async with cleaner(node, clock) as folders:
        folders.pod_changed(app_pod({"name": "data", "emptyDir": {}}, wait=wait))
        assert not await gone(volume, clock, 30)


async def test_a_pod_that_has_ended_is_left_alone(node: PodNode, clock: VirtualClock) -> None:
    async with cleaner(node, clock) as folders:
        folders.pod_changed(app_pod({"name": "data", "emptyDir": {}}, wait=ENDED, phase=PodPhase.SUCCEEDED))
        await clock.sleep(30)
    assert node.kube.requests == []


async def test_an_api_server_that_does_not_answer_is_asked_again(node: PodNode, clock: VirtualClock) -> None:
    volume = restored(node.mount("kubernetes.io~csi", "pvc-1", "mount"))
    await node.put_claim(claim("logs", "pvc-1"))
    node.kube.fail("get", "persistentvolumeclaims", KubeUnavailable("no answer"), times=3)
    async with cleaner(node, clock) as folders:
        folders.pod_changed(app_pod({"name": "logs", "persistentVolumeClaim": {"claimName": "logs"}}, wait=ENDED))
        assert await gone(volume, clock, 15)


async def test_a_hostile_uid_removes_nothing_and_stops_nothing(node: PodNode, clock: VirtualClock) -> None:
    outside = node.root / POD_UID
    volume = restored(node.mount(EMPTY_DIR, "data"))
    hostile = app_pod({"name": "data", "emptyDir": {}}, wait=ENDED, uid="other", args=("../../..",))
    async with cleaner(node, clock) as folders:
        folders.pod_changed(hostile)
        await clock.sleep(120)
        assert outside.exists()
        folders.pod_changed(app_pod({"name": "data", "emptyDir": {}}, wait=ENDED))
        assert await gone(volume, clock, 15)
