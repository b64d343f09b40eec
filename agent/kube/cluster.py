"""Nodes, events, leases, secrets and priority classes, as far as we read and write them."""

from __future__ import annotations

import msgspec

from agent.kube.meta import KubeObject, View
from agent.kube.pods import Condition
from agent.kube.times import Time
from agent.kube.volumes import ObjectReference


class NodeStatus(View, frozen=True, kw_only=True):
    """What the kubelet says of its node."""

    conditions: tuple[Condition, ...] = ()


class NodeSpec(View, frozen=True, kw_only=True):
    """What was said about a node."""

    unschedulable: bool = False


class Node(KubeObject, frozen=True, kw_only=True):
    """A node of the cluster."""

    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def is_ready(self) -> bool:
        """Whether its kubelet was heard of lately and is well."""
        return any(condition.type == "Ready" and condition.status == "True" for condition in self.status.conditions)


class EventSource(View, frozen=True, kw_only=True):
    """Who says it."""

    component: str = ""
    host: str = ""


class EventSeries(View, frozen=True, kw_only=True):
    """An event that came again and again."""

    count: int = 0
    last_observed_time: Time | None = None


class Event(KubeObject, frozen=True, kw_only=True):
    """Something that happened to an object (core v1)."""

    involved_object: ObjectReference = ObjectReference()
    type: str = ""
    reason: str = ""
    message: str = ""
    source: EventSource = EventSource()
    count: int = 0
    first_timestamp: Time | None = None
    last_timestamp: Time | None = None
    event_time: Time | None = None
    """Instead of the two timestamps, from components that use the newer API."""
    series: EventSeries | None = None
    reporting_component: str = ""
    reporting_instance: str = ""


class LeaseSpec(View, frozen=True, kw_only=True):
    """Who holds it. Times are `metav1.MicroTime` as text: nobody compares them with a clock of another machine."""

    holder_identity: str = ""
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int = 0


class Lease(KubeObject, frozen=True, kw_only=True):
    """A sign of life."""

    spec: LeaseSpec = LeaseSpec()


class Secret(KubeObject, frozen=True, kw_only=True):
    """Secret values by key. `repr` shows none of them."""

    type: str = ""
    data: dict[str, bytes] = msgspec.field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Secret({self.key})"


class ServiceAccount(KubeObject, frozen=True, kw_only=True):
    """Who a pod is to the API server. Only that it exists is read of it."""


class PriorityClass(KubeObject, frozen=True, kw_only=True):
    """A priority of pods."""

    value: int = 0
