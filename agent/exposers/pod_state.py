"""What the status of a pod of ours says: that it runs, that it still may, or that it never will.

What may heal is waited for, with the cluster's own words. Definite are: an image that cannot be had (it is never
pulled: the agent's own image is on each of its nodes), a container whose configuration is wrong, a pod that ended, and
one that no node of the cluster may run by its own rules. What the scheduler says about claims never is (§13.11).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from agent.base.clock import Clock
from agent.base.errors import KubeForbidden, PodBroken, PodUnschedulable
from agent.exposers.contract import Broken, Runner, Waiting
from agent.exposers.events import clip, last_warning
from agent.exposers.hosting_pod import runner_of
from agent.exposers.made import every, is_being_deleted
from agent.exposers.placement import allows, selects
from agent.kube.api import KubeApi
from agent.kube.pods import Condition, ContainerStatus, NodeSelector, Pod, PodPhase
from agent.kube.resource import NODES
from agent.kube.times import ns_from_time
from agent.movers.pod_protocol import JOB_ANNOTATION

_DEFINITE = frozenset(
    {"ErrImageNeverPull", "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"}
)
"""Why containers wait for ever. Not `CreateContainerError`, which a busy node says and takes back."""
_UNSCHEDULABLE_SECONDS = 45.0
"""How long nodes that fit may take to appear before their lack is definite."""
_ENDED = frozenset({PodPhase.SUCCEEDED, PodPhase.FAILED})


ReachableFrom = Callable[[], Awaitable[NodeSelector | None]]
"""Asks for the nodes that the volume of a pod allows; None: it does not say."""


async def _anywhere() -> None:
    """For volumes that are on their node already."""


class Running(msgspec.Struct, frozen=True):
    """The pod has its volume, on this node. A mover pod that got its job may have ended since: its end is a result."""

    node: str


async def state_of_pod(
    api: KubeApi, clock: Clock, pod: Pod, reachable_from: ReachableFrom = _anywhere
) -> Running | Waiting | Broken:
    """Where a pod of ours stands. `reachable_from` is asked only where that matters."""
    what = f"the pod {pod.key}"
    if is_being_deleted(pod):
        return Waiting(f"{what} is being deleted")
    has_job = runner_of(pod) is Runner.POD and JOB_ANNOTATION in pod.metadata.annotations
    if pod.status.phase in _ENDED and not has_job:
        return Broken(PodBroken(f"{what} ended: {_end_of(pod)}"))
    if pod.status.phase in _ENDED or (pod.status.phase is PodPhase.RUNNING and not _terminated(pod)):
        return Running(pod.spec.node_name)
    for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        if status.state.waiting is not None and status.state.waiting.reason in _DEFINITE:
            return Broken(PodBroken(f"{what} cannot start: {_words_of(status)}"))
    if not pod.spec.node_name:
        return await _unscheduled(api, clock, pod, reachable_from)
    warning = await last_warning(api, clock, pod)
    words = [_words_of(status) for status in pod.status.container_statuses if status.state.waiting is not None]
    node = pod.spec.node_name
    return Waiting(f"{what} starts on node {node}: {warning or ', '.join(words) or 'nothing said yet'}", node)


async def _unscheduled(api: KubeApi, clock: Clock, pod: Pod, reachable_from: ReachableFrom) -> Waiting | Broken:
    condition = _scheduling(pod)
    if condition is None:
        return Waiting(f"the pod {pod.key} is not scheduled yet")
    text = clip(f"{condition.reason}: {condition.message}")
    since = condition.last_transition_time or pod.metadata.creation_timestamp
    waited = 0.0 if since is None else (clock.now_ns() - ns_from_time(since)) / 1e9
    late = waited >= _UNSCHEDULABLE_SECONDS and "affinity" in text
    if late and await _fits_nowhere(api, pod, await reachable_from()):
        return Broken(
            PodUnschedulable(
                f"no node of the cluster may run the pod {pod.key}: {text}",
                hint="compare loadAffinity and the zones of the volume with the labels of the nodes",
            )
        )
    return Waiting(f"the pod {pod.key} cannot be scheduled: {text}")


async def _fits_nowhere(api: KubeApi, pod: Pod, reachable_from: NodeSelector | None) -> bool:
    """Whether there are nodes, and none of them is allowed by the rules of the pod and of its volume."""
    there_are_nodes = False
    try:
        async for node in every(api, NODES):
            if allows(pod, node) and (reachable_from is None or selects(reachable_from, node)):
                return False
            there_are_nodes = True
    except KubeForbidden:
        return False
    return there_are_nodes


def _scheduling(pod: Pod) -> Condition | None:
    for condition in pod.status.conditions:
        if condition.type == "PodScheduled" and condition.status == "False":
            return condition
    return None


def _terminated(pod: Pod) -> bool:
    return any(status.state.terminated is not None for status in pod.status.container_statuses)


def _end_of(pod: Pod) -> str:
    told = [pod.status.reason, pod.status.message]
    for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        end = status.state.terminated
        if end is not None:
            told += [f"exit status {end.exit_code}", end.reason, end.message]
    return clip(", ".join(word for word in told if word) or pod.status.phase)


def _words_of(status: ContainerStatus) -> str:
    waiting = status.state.waiting
    return (
        "" if waiting is None else clip(f"{waiting.reason}: {waiting.message}" if waiting.message else waiting.reason)
    )
