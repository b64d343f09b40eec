"""Scheduler and kubelets of a fake cluster, and what a node's kubelet shows of its volumes.

The scheduler knows node selectors, affinity, zones of volumes and consumers of late binding; the kubelets start pods,
or do not, with the words of real ones.
"""

from __future__ import annotations

import msgspec

from agent.base.clock import Clock
from agent.base.errors import VolumeNotMounted
from agent.exposers.host_path import csi_volume_path
from agent.exposers.placement import allows, selects
from agent.kube.api import KubeApi
from agent.kube.cluster import Node
from agent.kube.codec import JsonObject
from agent.kube.meta import Key, ObjectMeta
from agent.kube.pods import NodeSelector, Pod, PodPhase
from agent.kube.resource import NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, STORAGE_CLASSES
from agent.kube.volumes import BindingMode, PersistentVolumeClaim, VolumeMode
from agent.testing.fake_player import Player

SELECTED_NODE = "volume.kubernetes.io/selected-node"
ENDED = frozenset({PodPhase.SUCCEEDED, PodPhase.FAILED})
_CLAIM_MESSAGE = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."


class NodeFaults(msgspec.Struct):
    """What goes wrong. Empty: nothing."""

    scheduling: str = ""
    """Why no pod gets a node, in the scheduler's words."""
    waiting: tuple[str, str] = ("", "")
    """Reason and message with which containers wait instead of running."""
    mounting: str = ""
    """Why volumes are not mounted: the pod waits, and an event says it."""
    pod_end: str = ""
    """With which message pods fail as soon as they start."""


class FakeNodes(Player):
    """Scheduler and kubelets."""

    def __init__(self, api: KubeApi, clock: Clock) -> None:
        super().__init__(api, clock)
        self.faults = NodeFaults()

    async def step(self) -> None:
        """Let scheduler and kubelets look at every pod once."""
        for pod in await self._all(PODS):
            await self._quietly(self._pod(pod))

    async def add(self, name: str, **labels: str) -> Node:
        """A node that is ready."""
        meta = ObjectMeta(name=name, labels={"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **labels})
        node = await self._api.create(NODES, Node(api_version="v1", kind="Node", metadata=meta))
        return await self._status(NODES, node, {"conditions": [{"type": "Ready", "status": "True"}]})

    async def end_pod(self, key: Key, *, exit_code: int = 0, message: str = "") -> Pod:
        """The container of a pod ends."""
        pod = await self._api.get(PODS, key)
        phase = PodPhase.FAILED if exit_code else PodPhase.SUCCEEDED
        return await self._set_pod(pod, phase, {"terminated": {"exitCode": exit_code, "message": message}})

    async def _pod(self, pod: Pod) -> None:
        if pod.status.phase in ENDED:
            return
        claims = [await self._find(PERSISTENT_VOLUME_CLAIMS, key) for key in claims_of(pod)]
        if not pod.spec.node_name:
            await self._schedule(pod, claims)
        elif pod.status.phase is not PodPhase.RUNNING:
            await self._start(pod)

    async def _schedule(self, pod: Pod, claims: list[PersistentVolumeClaim | None]) -> None:
        nodes = [node for node in await self._all(NODES) if node.is_ready and not node.spec.unschedulable]
        there = [claim for claim in claims if claim is not None]
        fitting = [node for node in nodes if allows(pod, node)]
        for claim in there:
            zone = await self._zone_of(claim)
            fitting = [node for node in fitting if zone is None or selects(zone, node)]
        if self.faults.scheduling:
            await self._unschedulable(pod, self.faults.scheduling)
        elif len(there) < len(claims):
            await self._unschedulable(pod, "0/1 nodes are available: persistentvolumeclaim not found.")
        elif not fitting:
            count = len(nodes)
            text = f"0/{count} nodes are available: {count} node(s) didn't match Pod's node affinity/selector."
            await self._unschedulable(pod, text)
        elif not all([await self._has_volume(claim, fitting[0]) for claim in there]):
            await self._unschedulable(pod, _CLAIM_MESSAGE)
        else:
            await self._api.patch(PODS, pod.key, {"spec": {"nodeName": fitting[0].metadata.name}})

    async def _zone_of(self, claim: PersistentVolumeClaim) -> NodeSelector | None:
        name = claim.spec.volume_name
        volume = await self._find(PERSISTENT_VOLUMES, Key("", name)) if name else None
        affinity = volume.spec.node_affinity if volume is not None else None
        return affinity.required if affinity is not None else None

    async def _has_volume(self, claim: PersistentVolumeClaim, node: Node) -> bool:
        """Whether a claim is bound; one that waits for its consumer learns the node."""
        if claim.status.phase == "Bound":
            return True
        storage_class = await self._find(STORAGE_CLASSES, Key("", claim.spec.storage_class_name or ""))
        late = BindingMode.WAIT_FOR_FIRST_CONSUMER
        if storage_class is not None and storage_class.volume_binding_mode is late:
            patch: JsonObject = {"metadata": {"annotations": {SELECTED_NODE: node.metadata.name}}}
            await self._api.patch(PERSISTENT_VOLUME_CLAIMS, claim.key, patch)
        return False

    async def _unschedulable(self, pod: Pod, text: str) -> None:
        for condition in pod.status.conditions:
            if condition.type == "PodScheduled" and condition.message == text:
                return
        condition_now: JsonObject = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": text,
            "lastTransitionTime": self._now(),
        }
        await self._status(PODS, pod, {"phase": "Pending", "conditions": [condition_now]})
        await self._say(pod, "FailedScheduling", text)

    async def _start(self, pod: Pod) -> None:
        reason, message = self.faults.waiting
        if self.faults.mounting:
            await self._say(pod, "FailedMount", self.faults.mounting)
            reason, message = "ContainerCreating", ""
        if reason:
            await self._set_pod(pod, PodPhase.PENDING, {"waiting": {"reason": reason, "message": message}})
        elif self.faults.pod_end:
            ended: JsonObject = {"exitCode": 1, "reason": "Error", "message": self.faults.pod_end}
            await self._set_pod(pod, PodPhase.FAILED, {"terminated": ended})
        else:
            await self._set_pod(pod, PodPhase.RUNNING, {"running": {}})

    async def _set_pod(self, pod: Pod, phase: PodPhase, state: JsonObject) -> Pod:
        statuses: list[JsonObject] = [{"name": one.name, "state": state} for one in pod.spec.containers]
        return await self._status(PODS, pod, {"phase": phase.value, "containerStatuses": [*statuses]})


class FakeNodeVolumes:
    """Implements `NodeVolumes`: what a node's kubelet has mounted for its pods, at the usual places."""

    def __init__(self, api: KubeApi, node: str) -> None:
        self._api = api
        self._node = node
        self.hidden = False
        """Whether nothing of it is seen, as without mount propagation."""

    async def find(self, pod_uid: str, folder: str, mode: VolumeMode) -> str:
        """The path of a volume of a running pod of this node, by the name of its PersistentVolume or its own."""
        for pod in (await self._api.list(PODS)).items:
            if pod.metadata.uid == pod_uid and self._shows(pod) and folder in await self._folders(pod):
                return csi_volume_path(pod_uid, folder, mode)
        raise VolumeNotMounted(f"volume {folder!r} of pod {pod_uid!r} is not mounted on node {self._node}")

    def _shows(self, pod: Pod) -> bool:
        return not self.hidden and pod.spec.node_name == self._node and pod.status.phase is PodPhase.RUNNING

    async def _folders(self, pod: Pod) -> set[str]:
        folders = {str(volume["name"]) for volume in pod.spec.volumes}
        for key in claims_of(pod):
            folders.add((await self._api.get(PERSISTENT_VOLUME_CLAIMS, key)).spec.volume_name)
        return folders


def claims_of(pod: Pod) -> list[Key]:
    """The claims that a pod mounts."""
    volumes = [pod.spec.volume(str(volume["name"])) for volume in pod.spec.volumes]
    claims = [volume.persistent_volume_claim for volume in volumes if volume is not None]
    return [Key(pod.metadata.namespace, claim.claim_name) for claim in claims if claim is not None]
