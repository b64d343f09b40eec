"""PodVolumeBackups and PodVolumeRestores, done by a mover pod on the pod's node."""

import random
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.base.errors import ExposeUnsupported, PodBroken
from agent.exposers.contract import Broken, Done, Ready, Runner, Waiting
from agent.exposers.host_path import HostPods
from agent.exposers.hosting_pod import owner_of
from agent.exposers.pod_volume import PodVolumeBackupExposer, PodVolumeRestoreExposer
from agent.exposers.settings import ExposerSettings
from agent.kube.agent_config import AgentConfig, CachePVC, RunnerChoice
from agent.kube.cluster import Secret
from agent.kube.codec import JsonObject
from agent.kube.meta import Key, ObjectMeta
from agent.kube.pods import Container, DaemonSet, DaemonSetSpec, Opaque, Pod, PodSpec, PodTemplate
from agent.kube.resource import (
    BACKUP_STORAGE_LOCATIONS,
    DAEMON_SETS,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    SECRETS,
    SERVICE_ACCOUNTS,
)
from agent.kube.volumes import BindingMode, ReclaimPolicy, VolumeMode
from agent.testing.clock import VirtualClock
from agent.testing.fake_csi import FakeCsi
from agent.testing.fake_kube import FakeKube
from tests.unit.exposers.pod_kit import NODE, POD_UID, RESTORE_UID, RUNNING, PodNode, app_pod
from tests.unit.exposers.restore_kit import location
from tests.unit.exposers.test_pod_volume import DATA, backup, restore

IN_POD = AgentConfig(runner=RunnerChoice.POD, privileged_fs_backup=True)
KUBELET = "/var/lib/kubelet/pods"
JOB = Key("velero", "fs-big-1")


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def node(tmp_path: Path, clock: VirtualClock) -> PodNode:
    """A node with a pod that has mounted its volume, and an installation."""
    node = PodNode(tmp_path, FakeKube(clock, random.Random(1)))
    await install(node.kube, {"name": "host-pods", "hostPath": {"path": KUBELET}})
    node.put(app_pod(DATA, wait=RUNNING))
    node.mount("kubernetes.io~empty-dir", "data")
    return node


async def install(kube: FakeKube, *volumes: Opaque) -> None:
    mount = {"name": "host-pods", "mountPath": "/host_pods", "mountPropagation": "HostToContainer"}
    agent = Container(name="node-agent", image="lighterage/agent:1", volume_mounts=(mount,))
    template = PodTemplate(spec=PodSpec(containers=(agent,), volumes=volumes, service_account_name="velero"))
    meta = ObjectMeta(name="node-agent", namespace="velero")
    await kube.create(
        DAEMON_SETS,
        DaemonSet(api_version="apps/v1", kind="DaemonSet", metadata=meta, spec=DaemonSetSpec(template=template)),
    )
    for name, key in (("velero-repo-credentials", "repository-password"), ("cloud", "key")):
        meta = ObjectMeta(name=name, namespace="velero")
        await kube.create(SECRETS, Secret(api_version="v1", kind="Secret", metadata=meta, data={key: b"secret"}))
    await kube.create(BACKUP_STORAGE_LOCATIONS, location())


def settings(node: PodNode, clock: VirtualClock, config: AgentConfig = IN_POD) -> ExposerSettings:
    return ExposerSettings(
        api=node.kube,
        clock=clock,
        node=NODE,
        namespace="velero",
        config=lambda: config,
        volumes=HostPods(str(node.root)),
        sees_host_pods=True,
    )


async def test_the_mover_pod_mounts_the_folder_of_the_node_on_that_node(node: PodNode, clock: VirtualClock) -> None:
    state = await PodVolumeBackupExposer(settings(node, clock)).advance(backup())
    assert isinstance(state, Waiting)
    pod = await node.kube.get(PODS, JOB)
    assert pod.spec.node_name == NODE
    assert pod.metadata.labels["velero.io/pod-volume-backup"] == JOB.name
    source = f"{KUBELET}/{POD_UID}/volumes/kubernetes.io~empty-dir/data"
    assert {"name": "pvb-uid", "hostPath": {"path": source}} in pod.spec.volumes
    container = pod.spec.containers[0]
    mount = {"name": "pvb-uid", "mountPath": "/pvb-uid", "mountPropagation": "HostToContainer"}
    assert mount in container.volume_mounts
    assert container.security_context == {"privileged": True}
    assert not any(volume.get("name") == "host-pods" for volume in pod.spec.volumes), "no folder of other pods"


async def test_it_is_ready_once_the_pod_runs_and_leaves_nothing(node: PodNode, clock: VirtualClock) -> None:
    exposer = PodVolumeRestoreExposer(settings(node, clock))
    await exposer.advance(restore())
    await FakeCsi(node.kube, clock).nodes.step()
    assert await exposer.advance(restore()) == Ready(
        node=NODE, mode=VolumeMode.FILESYSTEM, path="/pvr-uid", runner=Runner.POD, pod=JOB.name
    )
    assert await exposer.finish(restore()) == Done()
    volume = node.root / POD_UID / "volumes" / "kubernetes.io~empty-dir" / "data"
    assert [file.name for file in (volume / ".velero").iterdir()] == [RESTORE_UID], "written by the agent itself"
    assert isinstance(await exposer.clean_up(restore()), Waiting)
    assert await exposer.clean_up(restore()) == Done()
    assert [pod.key for pod in (await node.kube.list(PODS)).items] == [Key("app", "web")]


async def test_a_job_stays_where_it_began_when_the_configuration_changes(node: PodNode, clock: VirtualClock) -> None:
    await PodVolumeBackupExposer(settings(node, clock)).advance(backup())
    await FakeCsi(node.kube, clock).nodes.step()
    local = PodVolumeBackupExposer(settings(node, clock, AgentConfig(runner=RunnerChoice.LOCAL)))
    state = await local.advance(backup())
    assert isinstance(state, Ready)
    assert state.runner is Runner.POD


async def test_a_pod_that_cannot_start_is_definite(node: PodNode, clock: VirtualClock) -> None:
    exposer = PodVolumeBackupExposer(settings(node, clock))
    await exposer.advance(backup())
    cluster = FakeCsi(node.kube, clock)
    cluster.nodes.faults.waiting = ("ErrImageNeverPull", "image is not present")
    await cluster.nodes.step()
    state = await exposer.advance(backup())
    assert isinstance(state, Broken)
    assert isinstance(state.error, PodBroken)
    assert "image is not present" in str(state.error)


async def test_an_installation_without_the_kubelets_folder_says_so(tmp_path: Path, clock: VirtualClock) -> None:
    node = PodNode(tmp_path, FakeKube(clock, random.Random(1)))
    await install(node.kube)
    node.put(app_pod(DATA))
    node.mount("kubernetes.io~empty-dir", "data")
    state = await PodVolumeBackupExposer(settings(node, clock)).advance(backup())
    assert isinstance(state, Broken)
    assert isinstance(state.error, ExposeUnsupported)
    assert "no volume host-pods" in str(state.error)


async def test_the_pod_of_the_stock_agent_ends_before_anything_is_read(node: PodNode, clock: VirtualClock) -> None:
    stock = Container(name="x", command=("/velero", "pod-volume", "backup"))
    meta = ObjectMeta(name=JOB.name, namespace=JOB.namespace, owner_references=(owner_of(backup()),))
    await node.kube.create(PODS, Pod(api_version="v1", kind="Pod", metadata=meta, spec=PodSpec(containers=(stock,))))
    exposer = PodVolumeBackupExposer(settings(node, clock, replace(IN_POD, runner=RunnerChoice.LOCAL)))
    assert isinstance(await exposer.advance(backup()), Waiting)
    state = await exposer.advance(backup())
    assert isinstance(state, Ready)
    assert state.runner is Runner.LOCAL


async def test_a_pod_of_somebody_else_with_that_name_is_left_alone(node: PodNode, clock: VirtualClock) -> None:
    theirs = Pod(api_version="v1", kind="Pod", metadata=ObjectMeta(name=JOB.name, namespace=JOB.namespace))
    await node.kube.create(PODS, theirs)
    exposer = PodVolumeBackupExposer(settings(node, clock))
    state = await exposer.advance(backup())
    assert isinstance(state, Broken)
    assert state.error.code == "expose.name-taken"
    assert await exposer.clean_up(backup()) == Done()
    assert JOB in [pod.key for pod in (await node.kube.list(PODS)).items]


async def test_a_restore_in_a_pod_gets_a_cache_on_its_node_and_gives_it_back(
    node: PodNode, clock: VirtualClock
) -> None:
    cluster = FakeCsi(node.kube, clock)
    await cluster.add_class("fast", binding=BindingMode.WAIT_FOR_FIRST_CONSUMER, reclaim=ReclaimPolicy.RETAIN)
    config = replace(IN_POD, cache_pvc=CachePVC(storage_class="fast"))
    exposer = PodVolumeRestoreExposer(replace(settings(node, clock, config), cache_limit_mb=2_048))
    await exposer.advance(restore())
    await cluster.step(2)
    assert isinstance(await exposer.advance(restore()), Ready)
    cache = await node.kube.get(PERSISTENT_VOLUME_CLAIMS, Key(JOB.namespace, f"{JOB.name}-cache"))
    assert cache.status.phase == "Bound", "no scheduler tells its provisioner where the pod is"
    assert cache.spec.resources.requests == {"storage": "3Gi"}
    pod = await node.kube.get(PODS, JOB)
    assert "/cachedir" in {mount["mountPath"] for mount in pod.spec.containers[0].volume_mounts}
    for _ in range(6):
        await exposer.clean_up(restore())
        await cluster.step()
    assert await exposer.clean_up(restore()) == Done()
    assert cluster.storage.volumes == set()


@pytest.mark.parametrize(("exists", "account"), [(True, "lighterage-mover"), (False, "velero")])
async def test_mover_pods_have_their_own_account_where_it_exists_and_the_agents_elsewhere(
    node: PodNode, clock: VirtualClock, exists: bool, account: str
) -> None:
    if exists:
        meta: JsonObject = {"name": "lighterage-mover", "namespace": "velero"}
        node.kube.put_raw(SERVICE_ACCOUNTS, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
    around = replace(settings(node, clock), mover_account="lighterage-mover")
    await PodVolumeBackupExposer(around).advance(backup())
    assert (await node.kube.get(PODS, JOB)).spec.service_account_name == account
