"""The scheduler of a simulation: which node a pod gets, or the real scheduler's words for why it gets none.

It looks at what matters for volumes: node selectors and required affinity, where bound volumes can be reached, late
binding, cordoned and silent nodes. Resources, taints, and spreading do not count; of the nodes that fit, the one with
the fewest pods gets it.
"""

from __future__ import annotations

from typing import Final

from agent.base.errors import KubeConflict, KubeNotFound
from agent.exposers.placement import allows, selects
from agent.kube.cluster import Node
from agent.kube.codec import JsonObject
from agent.kube.meta import Key
from agent.kube.pods import Pod
from agent.kube.resource import PERSISTENT_VOLUME_CLAIMS
from agent.kube.volumes import BindingMode, PersistentVolumeClaim
from agent.testing.simulated_node_cluster import ClusterView, now_text

SELECTED_NODE: Final = "volume.kubernetes.io/selected-node"
_COMPONENT = "default-scheduler"


class Scheduler:
    """Looks at one pod without a node at a time."""

    def __init__(self, cluster: ClusterView) -> None:
        self._cluster = cluster

    async def schedule(self, pod: Pod) -> None:
        """Bind the pod, or say why not; to be called again when the world has changed."""
        claims: list[PersistentVolumeClaim] = []
        for volume in pod.spec.volumes:
            key = self._cluster.claim_of(pod, volume)
            if key is None:
                continue
            claim = self._cluster.claims.store.get(key)
            if claim is None:
                await self._refuse(pod, f'persistentvolumeclaim "{key.name}" not found')
                return
            claims.append(claim)
        unbound = [claim for claim in claims if self._cluster.bound(claim) is None]
        if any(not self._is_late(claim) for claim in unbound):
            await self._refuse(pod, "pod has unbound immediate PersistentVolumeClaims")
            return
        node = self._choose(pod, claims)
        if node is None:
            await self._refuse(pod, "node(s) didn't match Pod's node affinity/selector, or the volumes' node affinity")
        elif unbound:
            for claim in unbound:
                await self._select_node(claim, node)
        else:
            await self._cluster.bind(pod, node.metadata.name)

    def _is_late(self, claim: PersistentVolumeClaim) -> bool:
        found = self._cluster.classes.store.get(Key("", claim.spec.storage_class_name or ""))
        return found is not None and found.volume_binding_mode is BindingMode.WAIT_FOR_FIRST_CONSUMER

    def _choose(self, pod: Pod, claims: list[PersistentVolumeClaim]) -> Node | None:
        selected = {claim.metadata.annotations[SELECTED_NODE] for claim in claims if self._waits(claim)}
        load = dict.fromkeys((node.metadata.name for node in self._cluster.nodes.store), 0)
        for other in self._cluster.pods.store:
            load[other.spec.node_name] = load.get(other.spec.node_name, 0) + 1
        fitting = [
            node
            for node in self._cluster.nodes.store
            if node.is_ready
            and not (node.spec.unschedulable and not _is_daemon(pod))
            and (not selected or selected == {node.metadata.name})
            and allows(pod, node)
            and all(self._reaches(node, claim) for claim in claims)
        ]
        return min(fitting, key=lambda node: (load[node.metadata.name], node.metadata.name), default=None)

    def _waits(self, claim: PersistentVolumeClaim) -> bool:
        return SELECTED_NODE in claim.metadata.annotations and self._cluster.bound(claim) is None

    def _reaches(self, node: Node, claim: PersistentVolumeClaim) -> bool:
        volume = self._cluster.bound(claim)
        affinity = volume.spec.node_affinity if volume is not None else None
        return affinity is None or affinity.required is None or selects(affinity.required, node)

    async def _select_node(self, claim: PersistentVolumeClaim, node: Node) -> None:
        if claim.metadata.annotations.get(SELECTED_NODE) == node.metadata.name:
            return
        patch: JsonObject = {"metadata": {"annotations": {SELECTED_NODE: node.metadata.name}}}
        try:
            await self._cluster.api.patch(
                PERSISTENT_VOLUME_CLAIMS, claim.key, patch, resource_version=claim.metadata.resource_version
            )
        except (KubeConflict, KubeNotFound):
            return

    async def _refuse(self, pod: Pod, why: str) -> None:
        count = len(self._cluster.nodes.store)
        message = f"0/{count} nodes are available: {why}."
        if any(condition.message == message for condition in pod.status.conditions):
            return
        condition: JsonObject = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": now_text(),
        }
        await self._cluster.set_status(pod, {"conditions": [condition]})
        await self._cluster.tell(pod, "FailedScheduling", message, _COMPONENT)


def _is_daemon(pod: Pod) -> bool:
    return any(owner.kind == "DaemonSet" for owner in pod.metadata.owner_references)
