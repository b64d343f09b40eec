"""The kubelet of one simulated node: mounts what pods ask for, runs them or pretends to, and says how they are.

Of the containers only those really run whose program the simulation was given (Velero's restore helper); another init
container ends well at once, another container runs until its pod is deleted. One that fails is started again, after a
longer pause each time, unless its pod says that it never is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from agent.base.errors import KubeAlreadyExists, KubeError
from agent.kube.cluster import Lease, LeaseSpec, Node
from agent.kube.codec import JsonObject, JsonValue
from agent.kube.meta import Key, ObjectMeta
from agent.kube.pods import Container, Pod, PodPhase
from agent.kube.resource import LEASES, NODES
from agent.kube.volumes import PersistentVolume
from agent.testing.control_plane_process import ChildProgram
from agent.testing.simulated_node_cluster import ClusterView, now_text
from agent.testing.simulated_node_programs import container_program
from agent.testing.simulated_node_volumes import MountedVolume, MountError, NodeMounts

HEARTBEAT_SECONDS: Final = 2.0
_LEASES_NAMESPACE = "kube-node-lease"
_FIRST_PAUSE = 10.0
_LONGEST_PAUSE = 300.0
"""Seconds between two starts of what fails, as the real kubelet has them; the first restart is at once."""


class HostedPod(msgspec.Struct):
    """What the kubelet knows of a pod."""

    volumes: dict[str, MountedVolume] = msgspec.field(default_factory=dict)
    mounted: bool = False
    init_done: int = 0
    program: ChildProgram | None = None
    failures: int = 0
    """Of the init container whose turn it is."""
    last_exit: int = 0
    start_from: float = 0.0
    """Its next start is not before this moment of the loop's clock."""
    told: JsonObject = msgspec.field(default_factory=dict)
    lock: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)
    """Held while it is taken a step further, or ended."""


class Kubelet:
    """One node. `images` says which images cannot be had: reason and message by image."""

    def __init__(
        self,
        name: str,
        cluster: ClusterView,
        mounts: NodeMounts,
        folder: Path,
        programs: Mapping[str, Path],
        images: Mapping[str, tuple[str, str]],
    ) -> None:
        self.name = name
        self.alive = True
        self._cluster = cluster
        self._mounts = mounts
        self._folder = folder
        self._programs = programs
        self._images = images
        self._hosted: dict[str, HostedPod] = {}

    async def register(self, labels: Mapping[str, str]) -> None:
        """Make the node known, or known again."""
        own = {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        node = Node(api_version="v1", kind="Node", metadata=ObjectMeta(name=self.name, labels={**own, **labels}))
        lease = Lease(
            api_version=LEASES.api_version,
            kind="Lease",
            metadata=ObjectMeta(name=self.name, namespace=_LEASES_NAMESPACE),
            spec=LeaseSpec(holder_identity=self.name, lease_duration_seconds=40),
        )
        for make in (self._cluster.api.create(NODES, node), self._cluster.api.create(LEASES, lease)):
            try:
                await make
            except KubeAlreadyExists:
                continue
        await self.heartbeat()

    async def heartbeat(self) -> None:
        """Say that the node is well."""
        now = now_text()
        condition: JsonObject = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        quantities: JsonObject = {"cpu": "8", "memory": "32Gi", "pods": "500"}
        status: JsonObject = {"conditions": [condition], "capacity": quantities, "allocatable": quantities}
        await self._cluster.api.patch(NODES, Key("", self.name), {"status": status}, status=True)
        renewed: JsonObject = {"spec": {"renewTime": now.removesuffix("Z") + ".000000Z"}}
        await self._cluster.api.patch(LEASES, Key(_LEASES_NAMESPACE, self.name), renewed)

    async def keep_alive(self) -> None:
        """Heartbeats until canceled; none while the node is dead."""
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            if self.alive:
                try:
                    await self.heartbeat()
                except KubeError:
                    continue

    async def sync(self, pod: Pod) -> bool:
        """Take the pod a step further; whether it has to be looked at again soon."""
        if not self.alive:
            return False
        uid = pod.metadata.uid
        if pod.metadata.deletion_timestamp is not None:
            await self._end(uid)
            await self._cluster.remove(pod)
            return False
        if pod.status.phase in {PodPhase.SUCCEEDED, PodPhase.FAILED}:
            await self._end(uid)
            return False
        hosted = self._hosted.setdefault(uid, HostedPod())
        async with hosted.lock:
            if self._hosted.get(uid) is not hosted:  # it was ended meanwhile
                return True
            waiting = await self._mount(pod, hosted) or self._missing_image(pod)
            if waiting is not None:
                await self._tell(pod, hosted, _waiting(pod, *waiting))
                return True
            return await self._run(pod, hosted)

    async def forget_gone(self) -> None:
        """End what belongs to pods that are no longer there."""
        for uid in [*self._hosted]:
            if all(pod.metadata.uid != uid for pod in self._cluster.pods.store):
                await self._end(uid)

    async def die(self) -> None:
        """As by a power cut: nothing runs, nothing is mounted, nothing is said any more."""
        self.alive = False
        for uid in list(self._hosted):
            await self._end(uid)

    def path(self, pod_uid: str, volume: str) -> Path:
        """Where a volume of a pod is on this node. Raises `KeyError`."""
        return self._hosted[pod_uid].volumes[volume].path

    async def _mount(self, pod: Pod, hosted: HostedPod) -> tuple[str, str] | None:
        """Mount what is not mounted yet; why the pod has to wait, if it has to."""
        if hosted.mounted:
            return None
        self._mounts.pod(pod.metadata.uid).mkdir(parents=True, exist_ok=True)
        for volume in pod.spec.volumes:
            name = str(volume["name"])
            if name in hosted.volumes:
                continue
            try:
                mounted = await self._mount_one(pod, volume)
            except MountError as error:
                await self._cluster.tell(pod, "FailedMount", str(error), "kubelet")
                return ("ContainerCreating", "")
            if mounted is None:
                return ("ContainerCreating", "")
            hosted.volumes[name] = mounted
        hosted.mounted = True
        return None

    async def _mount_one(self, pod: Pod, volume: dict[str, object]) -> MountedVolume | None:
        uid = pod.metadata.uid
        key = self._cluster.claim_of(pod, volume)
        if key is None:
            return await asyncio.to_thread(self._mounts.mount_other, uid, volume)
        claim = self._cluster.claims.store.get(key)
        found: PersistentVolume | None = self._cluster.bound(claim) if claim is not None else None
        if found is None:
            return None
        source = volume.get("persistentVolumeClaim")
        read_only = isinstance(source, dict) and bool(source.get("readOnly"))
        mounted = await asyncio.to_thread(self._mounts.mount_claim, uid, found, read_only=read_only)
        await self._cluster.attach(found, self.name)
        return mounted

    def _missing_image(self, pod: Pod) -> tuple[str, str] | None:
        for container in (*pod.spec.init_containers, *pod.spec.containers):
            if container.image in self._images:
                return self._images[container.image]
        return None

    async def _run(self, pod: Pod, hosted: HostedPod) -> bool:
        """Init containers one after the other, then everything at once."""
        while hosted.init_done < len(pod.spec.init_containers):
            if _stays_failed(pod, hosted):
                return False
            container = pod.spec.init_containers[hosted.init_done]
            binary = self._programs.get(container.command[0]) if container.command else None
            if binary is not None:
                if self._run_program(pod, hosted, container, binary) != 0:
                    await self._tell(pod, hosted, _initializing(pod, hosted))
                    return not _stays_failed(pod, hosted)
                hosted.failures = 0
            hosted.init_done += 1
        await self._tell(pod, hosted, _running(pod))
        return False

    def _run_program(self, pod: Pod, hosted: HostedPod, container: Container, binary: Path) -> int | None:
        """Start it when it is time; its exit status once it has ended, 0 or the last one, None while it runs."""
        now = asyncio.get_running_loop().time()
        if hosted.program is None:
            if now < hosted.start_from:
                return hosted.last_exit
            paths = {name: mounted.path for name, mounted in hosted.volumes.items()}
            folder = self._folder / "containers" / pod.metadata.uid
            hosted.program = container_program(pod, container, binary, paths, folder)
            hosted.program.start()
        if hosted.program.running:
            return None
        status, hosted.program = hosted.program.wait(0), None
        if status != 0:
            pause = min(_FIRST_PAUSE * 2 ** (hosted.failures - 1), _LONGEST_PAUSE) if hosted.failures else 0.0
            hosted.failures, hosted.last_exit, hosted.start_from = hosted.failures + 1, status, now + pause
        return status

    async def _tell(self, pod: Pod, hosted: HostedPod, status: JsonObject) -> None:
        if status != hosted.told:
            await self._cluster.set_status(pod, status | {"startTime": now_text(), "hostIP": "127.0.0.1"})
            hosted.told = status

    async def _end(self, uid: str) -> None:
        hosted = self._hosted.get(uid)
        if hosted is None:
            return
        async with hosted.lock:
            if self._hosted.get(uid) is not hosted:
                return
            if hosted.program is not None:
                hosted.program.kill()
                hosted.program = None
            for name, mounted in list(hosted.volumes.items()):
                await asyncio.to_thread(self._mounts.unmount, mounted)
                del hosted.volumes[name]
                if mounted.handle and not self._has(mounted.volume):
                    await self._detach(mounted.volume)
            await asyncio.to_thread(self._mounts.remove_pod, uid)
            del self._hosted[uid]

    def _has(self, volume: str) -> bool:
        return any(mounted.volume == volume for hosted in self._hosted.values() for mounted in hosted.volumes.values())

    async def _detach(self, volume: str) -> None:
        if self.alive:  # a dead node's attachments stay until somebody decides that it will not come back
            await self._cluster.detach(volume, self.name)


def _container(container: Container, state: JsonObject, *, ready: bool = False) -> JsonObject:
    return {
        "name": container.name,
        "image": container.image,
        "imageID": container.image,
        "ready": ready,
        "restartCount": 0,
        "state": state,
    }


def _conditions(*true: str) -> list[JsonValue]:
    kinds = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    return [{"type": kind, "status": "True" if kind in true else "False"} for kind in kinds]


def _waiting(pod: Pod, reason: str, message: str) -> JsonObject:
    state: JsonObject = {"waiting": {"reason": reason, "message": message}}
    return {
        "phase": "Pending",
        "conditions": _conditions("PodScheduled"),
        "initContainerStatuses": [_container(one, state) for one in pod.spec.init_containers],
        "containerStatuses": [_container(one, state) for one in pod.spec.containers],
    }


def _ended(status: int = 0) -> JsonObject:
    return {"terminated": {"exitCode": status, "reason": "Error" if status else "Completed"}}


def _stays_failed(pod: Pod, hosted: HostedPod) -> bool:
    return hosted.failures > 0 and pod.spec.restart_policy == "Never"


def _initializing(pod: Pod, hosted: HostedPod) -> JsonObject:
    waiting: JsonObject = {"waiting": {"reason": "PodInitializing"}}
    statuses: list[JsonValue] = [
        _container(one, _ended(), ready=True)
        if i < hosted.init_done
        else _its_turn(pod, one, hosted)
        if i == hosted.init_done
        else _container(one, waiting)
        for i, one in enumerate(pod.spec.init_containers)
    ]
    return {
        "phase": "Failed" if _stays_failed(pod, hosted) else "Pending",
        "conditions": _conditions("PodScheduled"),
        "initContainerStatuses": statuses,
        "containerStatuses": [_container(one, waiting) for one in pod.spec.containers],
    }


def _its_turn(pod: Pod, container: Container, hosted: HostedPod) -> JsonObject:
    """The init container that runs, failed, or waits to be started again."""
    if not hosted.failures:
        return _container(container, {"running": {}})
    if _stays_failed(pod, hosted):
        return _container(container, _ended(hosted.last_exit))
    waits: JsonObject = {"waiting": {"reason": "CrashLoopBackOff", "message": f"restarting failed {container.name}"}}
    return {
        **_container(container, waits if hosted.program is None else {"running": {}}),
        "restartCount": hosted.failures,
        "lastState": _ended(hosted.last_exit),
    }


def _running(pod: Pod) -> JsonObject:
    return {
        "phase": "Running",
        "conditions": _conditions("PodScheduled", "Initialized", "ContainersReady", "Ready"),
        "initContainerStatuses": [_container(one, _ended(), ready=True) for one in pod.spec.init_containers],
        "containerStatuses": [_container(one, {"running": {}}, ready=True) for one in pod.spec.containers],
    }
