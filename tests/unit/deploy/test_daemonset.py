"""The manifests: what the server looks for, no right more than is used, and every capability with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.cli.agent import run
from agent.kube import codec
from agent.kube.durations import parse_duration
from agent.kube.pods import DaemonSet
from agent.server.flags import DEFAULT_MOVER_ACCOUNT
from agent.server.rights import MOVER_RIGHTS, RIGHTS, Right, Scope

FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "daemonset"


def _objects() -> list[dict[str, Any]]:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    return [value for name in kustomization["resources"] for value in yaml.safe_load_all((FOLDER / name).read_text())]


def _one(kind: str, *, of_movers: bool = False) -> dict[str, Any]:
    """The agent's, or that of mover pods."""
    of_kind = (value for value in _objects() if value["kind"] == kind)
    (found,) = (value for value in of_kind if (value["metadata"]["name"] == DEFAULT_MOVER_ACCOUNT) is of_movers)
    return found


def _granted(role: dict[str, Any]) -> list[tuple[str, str, tuple[str, ...]]]:
    return [
        (group, plural, tuple(rule["verbs"]))
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for plural in rule["resources"]
    ]


def _needed(rights: tuple[Right, ...], scope: Scope) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(right.group, right.plural, right.verbs) for right in rights if right.scope is scope]


def _container() -> dict[str, Any]:
    (container,) = _one("DaemonSet")["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def test_every_manifest_is_named_in_the_kustomization() -> None:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert {path.name for path in FOLDER.glob("*.yaml")} == {*kustomization["resources"], "kustomization.yaml"}


def test_the_server_finds_the_agent_by_name_and_labels() -> None:
    daemon_set = _one("DaemonSet")
    assert daemon_set["metadata"]["name"] == "node-agent"
    labels = daemon_set["spec"]["template"]["metadata"]["labels"]
    assert labels == {"name": "node-agent", "role": "node-agent"}
    assert daemon_set["spec"]["selector"]["matchLabels"] == {"name": "node-agent"}
    view = codec.decode(DaemonSet, daemon_set)
    assert len(view.spec.template.spec.containers) == 1, "the stock agent, and pods made from this, take exactly one"


@pytest.mark.parametrize(("kind", "scope"), [("Role", Scope.NAMESPACE), ("ClusterRole", Scope.CLUSTER)])
def test_roles_grant_what_the_self_test_asks_for_and_nothing_more(kind: str, scope: Scope) -> None:
    assert _granted(_one(kind)) == _needed(RIGHTS, scope)


def test_mover_pods_may_what_their_protocol_asks_for_in_one_namespace_and_nothing_of_secrets() -> None:
    assert _granted(_one("Role", of_movers=True)) == _needed(MOVER_RIGHTS, Scope.NAMESPACE)
    assert all(right.scope is Scope.NAMESPACE for right in MOVER_RIGHTS)
    assert not any(right.plural == "secrets" for right in MOVER_RIGHTS)
    binding = _one("RoleBinding", of_movers=True)
    assert [subject["name"] for subject in binding["subjects"]] == [DEFAULT_MOVER_ACCOUNT]
    assert binding["roleRef"]["name"] == _one("Role", of_movers=True)["metadata"]["name"]
    assert _one("ServiceAccount", of_movers=True)["metadata"]["name"] == DEFAULT_MOVER_ACCOUNT


def test_no_right_is_granted_by_a_wildcard_and_secrets_are_read_in_one_namespace_by_name_only() -> None:
    text = "\n".join((FOLDER / name).read_text() for name in ("role.yaml", "clusterrole.yaml", "mover.yaml"))
    assert "*" not in text
    (secrets,) = (right for right in RIGHTS if right.plural == "secrets")
    assert (secrets.scope, secrets.verbs) == (Scope.NAMESPACE, ("get",))


def test_copies_of_secrets_are_a_grant_of_their_own() -> None:
    folder = FOLDER / "secret-copies"
    assert yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"] == ["rbac.yaml"]
    objects = {value["kind"]: value for value in yaml.safe_load_all((folder / "rbac.yaml").read_text())}
    assert objects["ClusterRole"]["rules"] == [
        {"apiGroups": [""], "resources": ["secrets", "configmaps"], "verbs": ["get"]}
    ]
    assert objects["Role"]["rules"][0]["verbs"] == ["create", "patch", "delete"]


def test_both_bindings_are_of_the_service_account_of_the_pods() -> None:
    account = _one("ServiceAccount")["metadata"]["name"]
    assert _one("DaemonSet")["spec"]["template"]["spec"]["serviceAccountName"] == account
    for kind in ("RoleBinding", "ClusterRoleBinding"):
        binding = _one(kind)
        assert [subject["name"] for subject in binding["subjects"]] == [account]
        assert binding["roleRef"]["name"] == _one(binding["roleRef"]["kind"])["metadata"]["name"]


def test_the_volumes_and_variables_are_those_of_the_stock_agent() -> None:
    spec = _one("DaemonSet")["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["host-pods"]["hostPath"]["path"] == "/var/lib/kubelet/pods"
    assert volumes["host-plugins"]["hostPath"]["path"] == "/var/lib/kubelet/plugins"
    assert volumes["cloud-credentials"]["secret"]["optional"] is True
    mounts = {mount["name"]: mount for mount in _container()["volumeMounts"]}
    assert mounts["host-pods"]["mountPath"] == "/host_pods"
    assert mounts["host-pods"]["mountPropagation"] == "HostToContainer"
    assert mounts["scratch"]["mountPath"] == "/scratch"
    assert {variable["name"] for variable in _container()["env"]} >= {"NODE_NAME", "VELERO_NAMESPACE"}


def test_the_container_has_a_read_only_root_and_no_capability_without_a_reason() -> None:
    context = _container()["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"]["drop"] == ["ALL"]
    assert "SYS_ADMIN" not in context["capabilities"]["add"]
    lines = (FOLDER / "daemonset.yaml").read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.strip() == "add:") + 1
    assert lines[first].strip().startswith("#")
    spec = _one("DaemonSet")["spec"]["template"]["spec"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_probes_ask_the_endpoints_of_the_metrics_port() -> None:
    container = _container()
    assert container["ports"] == [{"name": "metrics", "containerPort": 8085}]
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}


def test_the_agent_ends_before_it_is_killed() -> None:
    (grace,) = (arg for arg in _container()["args"] if arg.startswith("--termination-grace="))
    seconds = parse_duration(grace.partition("=")[2]) / 1e9
    assert seconds < _one("DaemonSet")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]


def test_the_command_line_of_the_container_is_one_that_the_command_takes() -> None:
    assert _container()["command"] + _container()["args"][:2] == ["lighter", "agent", "run"]
    run.make_context("run", list(_container()["args"][2:]))
