"""Pods with volumes, on a node that is a folder and in an API server in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.kube.codec import encode
from agent.kube.meta import ObjectMeta, OwnerReference
from agent.kube.pods import (
    Container,
    ContainerState,
    ContainerStatus,
    Opaque,
    Pod,
    PodPhase,
    PodSpec,
    PodStatus,
    Running,
    Terminated,
)
from agent.kube.pods import Waiting as ContainerWaiting
from agent.kube.resource import PERSISTENT_VOLUME_CLAIMS, PODS
from agent.kube.volumes import PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeMode
from agent.testing.fake_kube import FakeKube

NODE = "node-a"
POD_UID = "c070383e-5d0c-474d-aebe-a10f05f88e6d"
RESTORE_UID = "68ce5b47-1041-4440-b21d-0c1d3bd88a7b"

WAITING = ContainerState(waiting=ContainerWaiting(reason="PodInitializing"))
RUNNING = ContainerState(running=Running())
ENDED = ContainerState(terminated=Terminated(exit_code=0))


def app_pod(
    *volumes: Opaque,
    wait: ContainerState | None = None,
    app: ContainerState = RUNNING,
    phase: PodPhase = PodPhase.RUNNING,
    uid: str = POD_UID,
    args: tuple[str, ...] = (RESTORE_UID,),
) -> Pod:
    """A pod of a user; with `wait`, one that Velero restored, in this state of its init container."""
    mounts: tuple[Opaque, ...] = tuple(
        {"name": volume["name"], "mountPath": f"/restores/{volume['name']}"} for volume in volumes
    )
    init = (Container(name="restore-wait", args=args, volume_mounts=mounts),) if wait is not None else ()
    return Pod(
        api_version="v1",
        kind="Pod",
        metadata=ObjectMeta(name="web", namespace="app", uid=uid),
        spec=PodSpec(containers=(Container(name="web"),), init_containers=init, volumes=volumes, node_name=NODE),
        status=PodStatus(
            phase=phase,
            container_statuses=(ContainerStatus(name="web", state=app),),
            init_container_statuses=(ContainerStatus(name="restore-wait", state=wait),) if wait is not None else (),
        ),
    )


def claim(name: str, volume: str, mode: VolumeMode = VolumeMode.FILESYSTEM, owner: str = "") -> PersistentVolumeClaim:
    """A claim in the pod's namespace, bound unless `volume` is empty."""
    owners = (OwnerReference(api_version="v1", kind="Pod", name="web", uid=owner),) if owner else ()
    return PersistentVolumeClaim(
        api_version="v1",
        kind="PersistentVolumeClaim",
        metadata=ObjectMeta(name=name, namespace="app", owner_references=owners),
        spec=PersistentVolumeClaimSpec(volume_name=volume, volume_mode=mode),
    )


@dataclass
class PodNode:
    """A node with its kubelet's folder, and the cluster."""

    root: Path
    kube: FakeKube

    def put(self, pod: Pod) -> Pod:
        """Have the pod in the cluster as it is."""
        self.kube.put_raw(PODS, encode(pod))
        return pod

    async def put_claim(self, one: PersistentVolumeClaim) -> None:
        """Have the claim in the cluster."""
        await self.kube.create(PERSISTENT_VOLUME_CLAIMS, one)

    def mount(self, plugin: str, *folder: str) -> Path:
        """Have the kubelet mount a volume of the pod."""
        path = self.root.joinpath(POD_UID, "volumes", plugin, *folder)
        path.mkdir(parents=True)
        return path
