"""What the simulation of nodes says of containers that really run, where the agent reads it."""

from __future__ import annotations

from agent.kube.pods import ContainerStatus, Pod, PodPhase
from agent.kube.resource import PODS
from tests.controlplane.cluster import Cluster

HELPER_WITHOUT_ARGUMENT = {"name": "restore-wait", "image": "velero", "command": ["/velero-restore-helper"]}
"""It wants the restore's UID, and ends with status 1 without."""


def applied(cluster: Cluster, policy: str) -> tuple[str, str]:
    namespace, name = cluster.namespace(), "fails"
    spec = {
        "initContainers": [HELPER_WITHOUT_ARGUMENT],
        "containers": [{"name": "main", "image": "app"}],
        "restartPolicy": policy,
        "terminationGracePeriodSeconds": 0,
    }
    metadata = {"name": name, "namespace": namespace}
    cluster.plane.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    return name, namespace


def helper(pod: Pod) -> ContainerStatus | None:
    return next(iter(pod.status.init_container_statuses), None)


def test_an_init_container_that_fails_is_started_again_after_a_pause(cluster: Cluster) -> None:
    name, namespace = applied(cluster, "Always")

    def is_restarted() -> bool:
        found = helper(cluster.get(PODS, name, namespace))
        return found is not None and found.restart_count >= 2

    cluster.eventually("it was started again", is_restarted)
    pod = cluster.get(PODS, name, namespace)
    found = helper(pod)
    assert found is not None and found.state.waiting is not None
    assert (pod.status.phase, found.state.waiting.reason) == (PodPhase.PENDING, "CrashLoopBackOff")


def test_a_pod_whose_init_container_fails_and_is_never_restarted_has_failed(cluster: Cluster) -> None:
    name, namespace = applied(cluster, "Never")
    cluster.eventually("it failed", lambda: cluster.get(PODS, name, namespace).status.phase is PodPhase.FAILED)
    found = helper(cluster.get(PODS, name, namespace))
    assert found is not None and found.state.terminated is not None
    assert (found.state.terminated.exit_code, found.state.terminated.reason) == (1, "Error")
