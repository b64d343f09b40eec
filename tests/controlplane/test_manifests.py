"""The manifests and the chart, as the API server takes them, and what an uninstallation has to take away."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from agent.kube.aio_api import AioKubeApi
from agent.kube.aio_transport import load_configuration
from agent.kube.names import DATA_UPLOAD_DOWNLOAD_FINALIZER
from agent.server.definitions import InstalledDefinitions
from agent.server.rights import MOVER_RIGHTS, RIGHTS, Right
from agent.server.self_test import Place, Verdict, check_rights, run_self_test
from agent.testing.control_plane import ControlPlane, Manifest, clean_environment
from agent.testing.control_plane_process import tool
from tests.controlplane.manifests import DEPLOY, chart, objects

NAMESPACE = "manifests"
NOWHERE = {"lighterage.test/nowhere": "true"}
OF_OPERATOR = {"PodMonitor", "PrometheusRule"}
"""Kinds of Prometheus' operator, by its own definitions."""

VALUES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": {
        "agent": {"nodeAgentConfigMap": "node-agent-config", "config": {"keepPartial": True}, "logFormat": "json"},
        "rbac": {"secretCopies": True},
        "networkPolicy": {"enabled": True, "egressPorts": [443, 9000]},
        "dashboard": {"enabled": True},
        "podMonitor": {"enabled": True},
        "serviceMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "tolerations": [{"operator": "Exists"}],
        "priorityClassName": "system-node-critical",
        "scratch": {"sizeLimit": "10Gi"},
    },
    "accounts and objects of somebody else": {
        "serviceAccount": {"name": "velero", "annotations": {"eks.amazonaws.com/role-arn": "arn"}},
        "moverServiceAccount": {"name": ""},
        "imagePullSecrets": [{"name": "pull"}],
        "image": {"repository": "registry.example.com/lighterage", "digest": "sha256:" + "0" * 64},
        "affinity": {"podAntiAffinity": {}},
        "extraCapabilities": ["SYS_ADMIN"],
        "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca"}],
        "seccompProfile": {"type": "Localhost", "localhostProfile": "agent.json"},
        "kubeletRootDir": "/var/snap/kubelet",
        "podLabels": {"team": "storage"},
        "podAnnotations": {"a": "b"},
    },
    "without host paths": {"hostPaths": False, "credentialsSecret": "", "updateStrategy": {"type": "RollingUpdate"}},
}


@pytest.fixture
def namespace(plane: ControlPlane) -> Iterator[str]:
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    yield NAMESPACE
    plane.kubectl("delete", "namespace", NAMESPACE)


def take(plane: ControlPlane, found: list[Manifest]) -> set[str]:
    """Have the API server take objects, by a dry run as strict as it can be and then for real; their kinds."""
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": found})
    arguments = ("apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", "-")
    plane.kubectl(*arguments, "--dry-run=server", stdin=listed)
    try:
        plane.kubectl(*arguments, stdin=listed)
    finally:
        cluster_wide = [one for one in found if str(one["kind"]).startswith("Cluster")]
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": cluster_wide})
        plane.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=listed)
    return {str(one["kind"]) for one in found}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_the_chart_is_taken_without_a_field_that_is_not_known(
    plane: ControlPlane, namespace: str, values: dict[str, Any], tmp_path: Path
) -> None:
    named = {**values, "rbac": {"name": "lighterage-manifests", **values.get("rbac", {})}, "nodeSelector": NOWHERE}
    kinds = {"DaemonSet", "Role", "ClusterRole", "ServiceAccount"}
    if values is VALUES["everything"]:
        kinds |= {*OF_OPERATOR, "ServiceMonitor", "Service", "NetworkPolicy", "ConfigMap"}
    assert kinds <= take(plane, chart(named, tmp_path, namespace))


@pytest.mark.parametrize("kind", [*sorted(OF_OPERATOR), "ServiceMonitor"])
def test_the_operators_definitions_refuse_a_field_that_they_do_not_know(
    plane: ControlPlane, namespace: str, tmp_path: Path, kind: str
) -> None:
    found = chart(VALUES["everything"], tmp_path, namespace)
    (monitor,) = (one for one in found if one["kind"] == kind)
    spec = cast(Any, monitor)["spec"]
    first = next(value[0] for value in spec.values() if isinstance(value, list))
    first["intervall"] = "30s"
    refused = plane.try_kubectl(
        "apply", "--server-side", "--validate=strict", "--dry-run=server", "-f", "-", stdin=json.dumps(monitor)
    )
    assert refused.returncode
    assert "intervall" in refused.stderr


@pytest.mark.parametrize(
    ("folders", "kinds"),
    [
        (["daemonset"], {"DaemonSet", "ClusterRoleBinding"}),
        (["daemonset", "daemonset/secret-copies"], {"DaemonSet", "ClusterRoleBinding"}),
        (["without-host-paths"], {"DaemonSet", "ClusterRoleBinding"}),
        (["observability"], {"ConfigMap", "NetworkPolicy", *OF_OPERATOR}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_what_kustomize_makes_is_taken_without_a_field_that_is_not_known(
    plane: ControlPlane, namespace: str, tmp_path: Path, folders: list[str], kinds: set[str]
) -> None:
    found = overlay(plane, tmp_path, {"namespace": namespace, "resources": [str(DEPLOY / one) for one in folders]})
    assert kinds <= take(plane, _apart(found))


@pytest.mark.parametrize(("host_paths", "is_taken"), [(True, False), (False, True)])
def test_without_host_paths_the_agents_pod_meets_the_strictest_standard(
    plane: ControlPlane, namespace: str, tmp_path: Path, host_paths: bool, is_taken: bool
) -> None:
    plane.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    found = chart({"hostPaths": host_paths}, tmp_path, namespace)
    plane.apply(*(one for one in found if one["kind"] == "ServiceAccount"))
    (daemon_set,) = (cast(Any, one) for one in found if one["kind"] == "DaemonSet")
    metadata = {"name": "agent", "namespace": namespace}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": daemon_set["spec"]["template"]["spec"]}
    done = plane.try_kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    assert (done.returncode == 0) is is_taken, done.stderr
    assert is_taken or 'violates PodSecurity "restricted' in done.stderr


def test_the_overlay_of_the_guide_moves_everything_to_its_namespace(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    guide = (DEPLOY.parent / "docs" / "install.md").read_text(encoding="utf-8")
    (block,) = (one for one in re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL) if "Kustomization" in one)
    wanted = yaml.safe_load(block)
    wanted["resources"] = [one.replace("../lighterage/deploy", str(DEPLOY)) for one in wanted["resources"]]
    found = overlay(plane, tmp_path, {**wanted, "namespace": namespace})
    for one in found:
        metadata = cast(Manifest, one["metadata"])
        assert metadata.get("namespace", namespace) == namespace
        for subject in cast(list[Manifest], one.get("subjects", [])):
            assert subject["namespace"] == namespace, metadata["name"]
    assert take(plane, _apart(found))
    (container,) = json.loads(plane.kubectl("get", "daemonset", "node-agent", f"--namespace={namespace}", "-o=json"))[
        "spec"
    ]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.com/lighterage:0.1.0"
    assert container["args"][-1] == "--node-agent-configmap=node-agent-config"


def overlay(plane: ControlPlane, folder: Path, kustomization: dict[str, Any]) -> list[Manifest]:
    """What `kubectl kustomize` makes of a folder that names ours."""
    resources = [os.path.relpath(one, folder) for one in kustomization["resources"]]
    (folder / "kustomization.yaml").write_text(json.dumps({**kustomization, "resources": resources}))
    return objects(plane.kubectl("kustomize", str(folder)))


def _apart(found: list[Manifest]) -> list[Manifest]:
    """The same with cluster roles of names that no agent of these tests needs, and without pods."""
    text = json.dumps(found)
    for name in ("lighterage-node-agent", "lighterage-secret-copies"):
        text = text.replace(f'"{name}"', f'"{name}-manifests"')
    apart = cast(list[Manifest], json.loads(text))
    for one in apart:
        if one["kind"] == "DaemonSet":
            cast(Any, one)["spec"]["template"]["spec"]["nodeSelector"] = NOWHERE
    return apart


@pytest.mark.check(46)
@pytest.mark.parametrize(
    ("name", "rights", "refused"),
    [
        (
            "node-agent",
            RIGHTS,
            (("list", "secrets"), ("delete", "datauploads.velero.io"), ("create", "daemonsets.apps")),
        ),
        ("lighterage-mover", MOVER_RIGHTS, (("get", "secrets"), ("patch", "pods"), ("patch", "datauploads.velero.io"))),
    ],
)
def test_the_accounts_of_the_chart_may_do_what_is_needed_and_not_more(
    plane: ControlPlane,
    namespace: str,
    tmp_path: Path,
    name: str,
    rights: tuple[Right, ...],
    refused: tuple[tuple[str, str], ...],
) -> None:
    values = {"rbac": {"name": "lighterage-manifests"}, "nodeSelector": NOWHERE}
    plane.apply(*chart(values, tmp_path, namespace))
    try:
        account = f"--as=system:serviceaccount:{namespace}:{name}"

        def may(verb: str, kind: str, *where: str) -> bool:
            return plane.try_kubectl("auth", "can-i", verb, kind, account, *where).stdout.strip() == "yes"

        for right in rights:
            for review in right.reviews(namespace):
                where = [f"--namespace={review.namespace}"] if review.namespace else ["--all-namespaces"]
                assert may(review.verb, right.name, *where), review
        for verb, kind in refused:
            assert not may(verb, kind, f"--namespace={namespace}")
        assert not may("get", "secrets", "--namespace=default")
        assert not may("delete", "persistentvolumes")
    finally:
        plane.kubectl("delete", "clusterrole,clusterrolebinding", "lighterage-manifests")


@pytest.mark.slow
async def test_each_rule_that_is_taken_away_is_named_by_the_self_test(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    values = {"rbac": {"name": "lighterage-manifests"}, "nodeSelector": NOWHERE}
    found = chart(values, tmp_path, namespace)
    plane.apply(*found)
    where = Place(node="nowhere", namespace=namespace, host_pods=str(tmp_path), mover_account="lighterage-mover")
    account = await load_configuration(str(plane.service_account(namespace, "node-agent")))
    movers = await load_configuration(str(plane.service_account(namespace, "lighterage-mover")))

    async def named(api: AioKubeApi) -> list[str]:
        """What the agent's self-test names, and the same of the rights of mover pods under their own account."""
        test = await run_self_test(api, InstalledDefinitions(), where)
        of_movers = [one for _, one in await check_rights(mover, namespace, MOVER_RIGHTS)]
        problems = (*test.problems, *(one for one in of_movers if one.verdict is not Verdict.OK))
        return [one.check for one in problems if one.check.startswith("right to ")]

    async def settles(api: AioKubeApi, wanted: list[str]) -> None:
        """Rules count a moment after they are written."""
        for _ in range(300):
            if (seen := await named(api)) == wanted:
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"the self-test named {seen} and not {wanted}")

    try:
        async with (
            AioKubeApi(account, user_agent="lighterage-tests") as api,
            AioKubeApi(movers, user_agent="lighterage-tests") as mover,
        ):
            await settles(api, [])
            for role in (one for one in found if one["kind"] in {"Role", "ClusterRole"}):
                rules = cast(list[Manifest], role["rules"])
                for rule in rules:
                    (group,), (plural,) = cast(list[str], rule["apiGroups"]), cast(list[str], rule["resources"])
                    name = f"{plural}.{group}" if group else plural
                    scope = f"in {namespace}" if role["kind"] == "Role" else "in the cluster"
                    plane.apply({**role, "rules": [one for one in rules if one is not rule]})
                    await settles(api, [f"right to {name} {scope}"])
                plane.apply(role)
            await settles(api, [])
    finally:
        plane.kubectl("delete", "clusterrole,clusterrolebinding", "lighterage-manifests")


def test_what_the_guide_says_takes_finalizers_and_annotations_away(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    metadata: Manifest = {
        "name": "left",
        "namespace": namespace,
        "finalizers": [DATA_UPLOAD_DOWNLOAD_FINALIZER],
        "annotations": {"lighterage.io/moved": "{}", "mine": "stays"},
    }
    spec: Manifest = {
        "snapshotType": "CSI",
        "csiSnapshot": {"volumeSnapshot": "vs", "storageClass": "sc", "snapshotClass": ""},
        "sourcePVC": "data",
        "sourceNamespace": "app",
        "backupStorageLocation": "default",
        "operationTimeout": "10m0s",
    }
    plane.apply({"apiVersion": "velero.io/v2alpha1", "kind": "DataUpload", "metadata": metadata, "spec": spec})
    guide = (DEPLOY.parent / "docs" / "switching.md").read_text(encoding="utf-8")
    (block,) = (one for one in re.findall(r"```sh cluster\n(.*?)```", guide, re.DOTALL) if "finalizers" in one)
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f'#!/bin/sh\nexec {tool("kubectl")} --kubeconfig={plane.kubeconfig} "$@"\n')
    kubectl.chmod(0o755)
    environment = clean_environment() | {"PATH": f"{tmp_path}:{clean_environment()['PATH']}"}

    script = block.replace("-n velero", f"-n {namespace}")
    subprocess.run(["bash", "-euc", script], env=environment, check=True, capture_output=True)

    left = json.loads(plane.kubectl("get", "dataupload", "left", f"--namespace={namespace}", "-o=json"))["metadata"]
    assert "finalizers" not in left
    assert left["annotations"] == {"mine": "stays"}
    plane.kubectl("delete", "dataupload", "left", f"--namespace={namespace}", "--timeout=10s")
