"""Pods and pod templates as far as exposers read and write them.

What is only copied from the DaemonSet's template into pods of ours (`env`, mounts, tolerations, …) stays opaque, so
that no field which this release does not know gets lost on the way.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

import msgspec

from agent.kube.meta import KubeObject, ObjectMeta, View
from agent.kube.times import Time

Opaque: TypeAlias = dict[str, object]
"""A part of an object that is carried along as it is."""


class PodPhase(StrEnum):
    """Where a pod is in its life."""

    EMPTY = ""
    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


class ClaimSource(View, frozen=True, kw_only=True):
    """A volume that is a PersistentVolumeClaim of the pod's namespace."""

    claim_name: str
    read_only: bool = False


class HostPathSource(View, frozen=True, kw_only=True):
    """A volume that is a folder of the node."""

    path: str
    type: str = ""


class PodVolume(View, frozen=True, kw_only=True):
    """A volume of a pod: exactly one of the sources; what is none of them is empty here."""

    name: str
    persistent_volume_claim: ClaimSource | None = None
    host_path: HostPathSource | None = None
    empty_dir: Opaque | None = None
    csi: Opaque | None = None
    ephemeral: Opaque | None = None
    nfs: Opaque | None = None


class VolumeDevice(View, frozen=True, kw_only=True):
    """A block volume as a device file in a container."""

    name: str
    device_path: str


class Container(View, frozen=True, kw_only=True):
    """A container, init container, or the template of one."""

    name: str
    image: str = ""
    image_pull_policy: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[Opaque, ...] = ()
    env_from: tuple[Opaque, ...] = ()
    ports: tuple[Opaque, ...] = ()
    resources: Opaque = msgspec.field(default_factory=dict)
    volume_mounts: tuple[Opaque, ...] = ()
    volume_devices: tuple[VolumeDevice, ...] = ()
    security_context: Opaque = msgspec.field(default_factory=dict)
    termination_message_policy: str = ""


class NodeRequirement(View, frozen=True, kw_only=True):
    """A condition on a node's label or field."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class NodeSelectorTerm(View, frozen=True, kw_only=True):
    """All of these hold."""

    match_expressions: tuple[NodeRequirement, ...] = ()
    match_fields: tuple[NodeRequirement, ...] = ()


class NodeSelector(View, frozen=True, kw_only=True):
    """One of these terms holds."""

    node_selector_terms: tuple[NodeSelectorTerm, ...] = ()


class NodeAffinity(View, frozen=True, kw_only=True):
    """Which nodes a pod may run on."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None


class Affinity(View, frozen=True, kw_only=True):
    """The part of a pod's affinity that exposers set."""

    node_affinity: NodeAffinity | None = None


class PodOS(View, frozen=True, kw_only=True):
    """`spec.os`."""

    name: str


class PodSpec(View, frozen=True, kw_only=True):
    """What is to run."""

    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    volumes: tuple[Opaque, ...] = ()
    node_name: str = ""
    node_selector: dict[str, str] = msgspec.field(default_factory=dict)
    affinity: Affinity | None = None
    topology_spread_constraints: tuple[Opaque, ...] = ()
    tolerations: tuple[Opaque, ...] = ()
    restart_policy: str = ""
    termination_grace_period_seconds: int | None = None
    service_account_name: str = ""
    automount_service_account_token: bool | None = None
    image_pull_secrets: tuple[Opaque, ...] = ()
    dns_policy: str = ""
    dns_config: Opaque | None = None
    host_network: bool = False
    priority_class_name: str = ""
    security_context: Opaque = msgspec.field(default_factory=dict)
    os: PodOS | None = None

    def volume(self, name: str) -> PodVolume | None:
        """The volume of this name, typed; None when there is none. Raises `KubeUnreadable` by way of `convert`."""
        for volume in self.volumes:
            if volume.get("name") == name:
                return msgspec.convert(volume, PodVolume, strict=True)
        return None


class Condition(View, frozen=True, kw_only=True):
    """A condition of a pod, node, claim or resource definition."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: Time | None = None


class Waiting(View, frozen=True, kw_only=True):
    """Why a container does not run yet."""

    reason: str = ""
    message: str = ""


class Running(View, frozen=True, kw_only=True):
    """A container runs."""

    started_at: Time | None = None


class Terminated(View, frozen=True, kw_only=True):
    """How a container ended. `message` is its termination message, at most 4,096 bytes."""

    exit_code: int
    reason: str = ""
    message: str = ""
    signal: int = 0
    started_at: Time | None = None
    finished_at: Time | None = None


class ContainerState(View, frozen=True, kw_only=True):
    """One of the three."""

    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(View, frozen=True, kw_only=True):
    """A container as the kubelet sees it."""

    name: str
    ready: bool = False
    restart_count: int = 0
    image: str = ""
    image_id: str = msgspec.field(name="imageID", default="")
    state: ContainerState = ContainerState()


class PodStatus(View, frozen=True, kw_only=True):
    """A pod as the scheduler and the kubelet see it."""

    phase: PodPhase = PodPhase.EMPTY
    reason: str = ""
    message: str = ""
    conditions: tuple[Condition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()
    start_time: Time | None = None
    host_ip: str = msgspec.field(name="hostIP", default="")
    pod_ip: str = msgspec.field(name="podIP", default="")


class Pod(KubeObject, frozen=True, kw_only=True):
    """A pod."""

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class PodTemplate(View, frozen=True, kw_only=True):
    """What pods of a DaemonSet are made from."""

    metadata: ObjectMeta = ObjectMeta()
    spec: PodSpec = PodSpec()


class DaemonSetSpec(View, frozen=True, kw_only=True):
    """The part that movers' pods are copied from."""

    template: PodTemplate = PodTemplate()


class DaemonSetStatus(View, frozen=True, kw_only=True):
    """How many run."""

    desired_number_scheduled: int = 0
    number_ready: int = 0


class DaemonSet(KubeObject, frozen=True, kw_only=True):
    """The agent's own DaemonSet."""

    spec: DaemonSetSpec = DaemonSetSpec()
    status: DaemonSetStatus = DaemonSetStatus()
