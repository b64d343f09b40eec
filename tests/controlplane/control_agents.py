"""Agents with a control address in a namespace of their own: real processes, with the rights of chart and guide."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent.control.rights import GROUP
from agent.testing.control_plane import ControlPlane, Manifest, clean_environment
from agent.testing.control_plane_process import ChildProgram
from agent.testing.s3_server import free_ports
from tests.controlplane.agents import LIGHTER
from tests.controlplane.manifests import chart
from tests.unit.movers.moving_kit import PASSWORD

GUIDE: Final = (Path(__file__).resolve().parents[2] / "docs" / "control-api.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class ControlAgents:
    """Agents of one namespace."""

    plane: ControlPlane
    folder: Path
    namespace: str
    kubeconfig: Path
    """Of the agents' account."""

    @contextmanager
    def listening(self, node: str, address: str, *flags: str) -> Iterator[ControlAgent]:
        """The agent of a node, which listens at this address for the time of the block."""
        certificate, key = self.plane.keys.issue("agent")
        (metrics,) = free_ports(1)
        program = ChildProgram(
            f"control-{node}",
            [
                LIGHTER,
                "agent",
                "run",
                f"--kubeconfig={self.kubeconfig}",
                f"--host-pods={self.folder / node}",
                f"--metrics-address=127.0.0.1:{metrics}",
                f"--control-socket={self.folder}/{node}.sock",
                f"--control-address={address}",
                f"--control-cert={certificate}",
                f"--control-key={key}",
                f"--cache-dir={self.folder}/cache-{node}",
                *flags,
            ],
            self.folder,
            environment={**clean_environment(), "NODE_NAME": node, "VELERO_NAMESPACE": self.namespace},
        )
        (self.folder / node).mkdir(exist_ok=True)
        program.start()
        try:
            program.wait_until("listens", lambda: "control API listens" in program.log.read_text(), seconds=60)
            yield ControlAgent(program, metrics, int(address.rpartition(":")[2]))
        finally:
            program.stop()

    def account(self, name: str) -> str:
        """A token of a new service account."""
        self.plane.kubectl("create", "serviceaccount", name, f"--namespace={self.namespace}")
        return self.plane.kubectl("create", "token", name, f"--namespace={self.namespace}").strip()

    def grant(self, name: str, subject: Manifest, *rules: dict[str, Any]) -> None:
        """A role with these rules, and its binding, both of this name."""
        metadata: Manifest = {"name": name, "namespace": self.namespace}
        group = "rbac.authorization.k8s.io"
        role: Any = {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": list(rules)}
        reference: Manifest = {"apiGroup": group, "kind": "Role", "name": name}
        binding: Any = {**role, "kind": "RoleBinding", "roleRef": reference, "subjects": [subject]}
        del binding["rules"]
        self.plane.apply(role, binding)


@dataclass(frozen=True)
class ControlAgent:
    """One that listens."""

    program: ChildProgram
    metrics: int
    control: int
    """Ports."""


def right(verb: str, resource: str) -> dict[str, Any]:
    """A rule for the control API."""
    return {"apiGroups": [GROUP], "resources": [resource], "verbs": [verb]}


@contextmanager
def control_agents(plane: ControlPlane, folder: Path, namespace: str) -> Iterator[ControlAgents]:
    """A namespace with our chart and the right to ask for rights, for the time of the block."""
    plane.kubectl("create", "namespace", namespace)
    try:
        values = {"rbac": {"name": "lighterage-control-api"}, "nodeSelector": {"lighterage.test/nowhere": "true"}}
        plane.apply(*chart(values, folder, namespace))
        (delegate,) = re.findall(r"kubectl (create clusterrolebinding .*)", GUIDE)
        plane.kubectl(*delegate.replace("velero:", f"{namespace}:").split())
        yield ControlAgents(plane, folder, namespace, plane.service_account(namespace, "node-agent"))
    finally:
        roles = ("lighterage-control-api", "lighterage-control", "--ignore-not-found")
        plane.kubectl("delete", "clusterrole,clusterrolebinding", *roles)
        plane.kubectl("delete", "namespace", namespace, "--wait=false")


def storage(namespace: str, bucket: Path) -> Iterator[Manifest]:
    """What Velero's server makes for a location and the namespace `app`, and the password of its repositories."""

    def metadata(name: str, **labels: str) -> Manifest:
        return {"name": name, "namespace": namespace, "labels": dict(labels)}

    yield {
        "apiVersion": "velero.io/v1",
        "kind": "BackupStorageLocation",
        "metadata": metadata("default"),
        "spec": {"provider": "fs", "config": {"fspath": str(bucket)}, "objectStorage": {"bucket": "backups"}},
    }
    yield {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata("velero-repo-credentials"),
        "stringData": {"repository-password": PASSWORD},
    }
    names = {"volume-namespace": "app", "storage-location": "default", "repository-type": "kopia"}
    yield {
        "apiVersion": "velero.io/v1",
        "kind": "BackupRepository",
        "metadata": metadata("app-default-kopia", **{f"velero.io/{name}": value for name, value in names.items()}),
        "spec": {
            "volumeNamespace": "app",
            "backupStorageLocation": "default",
            "repositoryType": "kopia",
            "maintenanceFrequency": "1h0m0s",
            "resticIdentifier": "",
        },
        "status": {"phase": "Ready"},
    }
