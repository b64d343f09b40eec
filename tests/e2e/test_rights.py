"""The agent that the other tests are about has the rights of its manifest, and no more (contract §12.46)."""

from __future__ import annotations

import pytest

from tests.e2e.agent_switch import STOCK, AgentSwitch
from tests.e2e.cluster import VELERO_NAMESPACE, Cluster, run
from tests.e2e.guide import agent_pod

_REFUSED = (
    ("*", "*", "--all-namespaces"),
    ("list", "secrets", "--all-namespaces"),
    ("list", "secrets", f"--namespace={VELERO_NAMESPACE}"),
    ("create", "pods", "--namespace=default"),
    ("delete", "datauploads.velero.io", f"--namespace={VELERO_NAMESPACE}"),
    ("create", "clusterrolebindings.rbac.authorization.k8s.io", "--all-namespaces"),
)


@pytest.mark.check(46)
def test_every_other_test_is_passed_by_an_agent_of_few_rights(agents: AgentSwitch, cluster: Cluster) -> None:
    if agents.image == STOCK:
        pytest.skip("the stock agent is the administrator of its cluster")
    pod = cluster.get("Pod", agent_pod(cluster), VELERO_NAMESPACE)
    assert pod is not None
    account = f"--as=system:serviceaccount:{VELERO_NAMESPACE}:{pod['spec']['serviceAccountName']}"

    def may(verb: str, what: str, where: str) -> bool:
        # It ends with status 1 where the answer is no.
        review = f"kubectl --kubeconfig={cluster.kubeconfig} auth can-i {verb} {what} {where} {account} || true"
        return run("sh", "-fc", review).strip() == "yes"

    assert may("patch", "datauploads.velero.io", f"--namespace={VELERO_NAMESPACE}")
    assert [refused for refused in _REFUSED if may(*refused)] == []
