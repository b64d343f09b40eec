"""Objects for the agents without Velero's server: the tests make them, as it does."""

from __future__ import annotations

from typing import Any, cast

from agent.kube.pods import Pod
from agent.kube.resource import CONFIG_MAPS, PODS, Resource
from agent.testing.control_plane import Manifest
from agent.testing.control_plane_velero import NAMESPACE
from tests.controlplane.cluster import Cluster


def make(cluster: Cluster, resource: Resource[Any], kind: str, name: str, spec: dict[str, Any]) -> None:
    """An object as the server makes it, but for its labels; it belongs to a stand-in of a Restore, called `owner`."""
    cluster.plane.apply(manifest(resource, kind, name, spec, owner(cluster)))


def owner(cluster: Cluster) -> str:
    """The uid of that stand-in."""
    cluster.plane.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner", "namespace": NAMESPACE}}
    )
    return cluster.get(CONFIG_MAPS, "owner", NAMESPACE).metadata.uid


def manifest(resource: Resource[Any], kind: str, name: str, spec: dict[str, Any], owner_uid: str) -> Manifest:
    """What `make` makes."""
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner_uid}
    labels = {"velero.io/pod-uid": spec["pod"]["uid"]} if "pod" in spec else {}
    metadata = {"name": name, "namespace": NAMESPACE, "labels": labels, "ownerReferences": [reference]}
    return cast(Manifest, {"apiVersion": resource.api_version, "kind": kind, "metadata": metadata, "spec": spec})


def waiting_pod(cluster: Cluster, namespace: str) -> Pod:
    """A pod as Velero restores it: its first container waits for the volume `data`."""
    init = {
        "name": "restore-wait",
        "image": "velero",
        "command": ["/velero-restore-helper"],
        "args": ["restore-uid"],
        "securityContext": {"runAsUser": 1000},
        "volumeMounts": [{"name": "data", "mountPath": "/restores/data"}],
    }
    spec = {
        "initContainers": [init],
        "containers": [{"name": "main", "image": "app"}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        "terminationGracePeriodSeconds": 0,
    }
    metadata = {"name": "waiting", "namespace": namespace}
    cluster.plane.apply(cast(Any, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))

    def waits() -> bool:
        states = cluster.get(PODS, "waiting", namespace).status.init_container_statuses
        return bool(states) and states[0].state.running is not None

    cluster.eventually("restore-wait runs", waits)
    return cluster.get(PODS, "waiting", namespace)
