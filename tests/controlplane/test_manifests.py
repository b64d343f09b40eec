"""The manifests and the chart, as the API server takes them, and what an uninstallation has to take away."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from agent.kube.aio_api import AioKubeApi
from agent.kube.aio_transport import load_configuration
from agent.kube.names import DATA_UPLOAD_DOWNLOAD_FINALIZER
from agent.server.definitions import InstalledDefinitions
from agent.server.rights import MOVER_RIGHTS, RIGHTS, Right
from agent.server.self_test import Place, run_self_test
from agent.testing.control_plane import ControlPlane, Manifest, clean_environment
from agent.testing.control_plane_process import tool
from tests.controlplane.charts import chart, objects

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "manifests"
OPERATOR = "monitoring.coreos.com/v1"
"""Kinds of Prometheus' operator, which are not installed here."""

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
    "without host paths": {"hostPaths": False, "credentialsSecret": "", "updateStrategy": {"type": "RollingUpdate"}},
}


@pytest.fixture
def namespace(plane: ControlPlane) -> Iterator[str]:
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    yield NAMESPACE
    plane.kubectl("delete", "namespace", NAMESPACE)


def take(plane: ControlPlane, found: list[Manifest]) -> set[str]:
    """Have the API server look at objects as strictly as it can, without keeping them; their kinds."""
    known = [one for one in found if one["apiVersion"] != OPERATOR]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": known})
    arguments = ("--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-")
    plane.kubectl("apply", *arguments, stdin=listed)
    return {str(one["kind"]) for one in known}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_the_chart_is_taken_without_a_field_that_is_not_known(
    plane: ControlPlane, namespace: str, values: dict[str, Any], tmp_path: Path
) -> None:
    assert namespace == NAMESPACE
    assert {"DaemonSet", "Role", "ClusterRole", "ServiceAccount"} <= take(plane, chart(values, NAMESPACE, tmp_path))


@pytest.mark.parametrize("folder", ["daemonset", "daemonset/secret-copies", "observability"])
def test_what_kustomize_makes_is_taken_without_a_field_that_is_not_known(
    plane: ControlPlane, namespace: str, folder: str
) -> None:
    found = objects(plane.kubectl("kustomize", str(ROOT / "deploy" / folder)))
    for one in found:
        metadata = cast(Manifest, one["metadata"])
        if "namespace" in metadata:
            assert metadata["namespace"] == "velero"
            metadata["namespace"] = namespace
    assert take(plane, found)


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
    values = {"rbac": {"name": "lighterage-manifests"}, "nodeSelector": {"lighterage.test/nowhere": "true"}}
    plane.apply(*chart(values, NAMESPACE, tmp_path))
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
    values = {"rbac": {"name": "lighterage-manifests"}, "nodeSelector": {"lighterage.test/nowhere": "true"}}
    found = chart(values, NAMESPACE, tmp_path)
    plane.apply(*found)
    where = Place(node="nowhere", namespace=namespace, host_pods=str(tmp_path), mover_account="lighterage-mover")
    account = await load_configuration(str(plane.service_account(namespace, "node-agent")))

    async def named(api: AioKubeApi) -> list[str]:
        test = await run_self_test(api, InstalledDefinitions(), where)
        return [one.check for one in test.problems if one.check.startswith("right to ")]

    async def settles(api: AioKubeApi, wanted: list[str]) -> None:
        """Rules count a moment after they are written."""
        for _ in range(50):
            if (seen := await named(api)) == wanted:
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"the self-test named {seen} and not {wanted}")

    try:
        async with AioKubeApi(account, user_agent="lighterage-tests") as api:
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
    guide = (ROOT / "docs" / "switching.md").read_text(encoding="utf-8")
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
