"""The blocks of a page that are for a cluster, run as they stand: what a reader fills in is filled in by the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent.testing.control_plane_process import tool
from tests.e2e.agent_switch import OURS, STOCK, AgentSwitch
from tests.e2e.cluster import VELERO_NAMESPACE, Cluster
from tests.e2e.workload import IMAGE
from tests.shell_blocks import ROOT, of, script

_CLEAR: Final = (
    "kubectl -n velero delete daemonset node-agent --ignore-not-found",
    "kubectl -n velero wait --for=delete pods -l role=node-agent --timeout=150s",
    "for release in $(helm list -n velero --short); do helm uninstall -n velero $release; done",
    'kubectl delete --ignore-not-found -k "$MANIFESTS"',
    "kubectl -n velero delete leases -l app.kubernetes.io/name=lighterage",
)


def blocks_of(page: str) -> list[str]:
    """In the order of the page."""
    return [block.text for block in of("cluster") if block.page == ROOT / page]


def agent_pod(cluster: Cluster) -> str:
    """The agent that runs; on the first node, where there are several."""
    pods = cluster.list("Pod", VELERO_NAMESPACE, "role=node-agent")
    return min(str(pod["metadata"]["name"]) for pod in pods if "deletionTimestamp" not in pod["metadata"])


class Guide:
    """Runs blocks in a folder of its own, where names of this repository lead to it."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._folder = folder
        self._repository, _, self._tag = OURS.rpartition(":")
        nodes = {str(found["spec"]["nodeName"]) for found in cluster.list("Pod", VELERO_NAMESPACE, "role=node-agent")}
        for name in ("deploy", "hack"):
            (folder / name).symlink_to(ROOT / name)
        self.variables: dict[str, str] = {
            "IMAGE": OURS,
            "REPOSITORY": self._repository,
            "TAG": self._tag,
            "NODE": min(nodes),
            "CONTEXT": cluster.kubectl("config", "current-context").strip(),
            "BUSYBOX": IMAGE,
            "MANIFESTS": str(self.overlay("manifests")),
        }
        programs = [str(tool(name).parent) for name in ("helm", "grpcurl")]
        self._path = ":".join([os.environ["PATH"], *programs, str(Path(sys.executable).parent)])

    def overlay(self, name: str, *changes: Mapping[str, object], base: str = "daemonset") -> Path:
        """The folder of a kustomization: manifests of ours with the image under test, and changes of the DaemonSet."""
        made = self._folder / name
        made.mkdir()
        kustomization: dict[str, object] = {
            "resources": [os.path.relpath(ROOT / "deploy" / base, made.resolve())],
            "images": [{"name": "lighterage", "newName": self._repository, "newTag": self._tag}],
            "patches": [{"target": {"kind": "DaemonSet", "name": "node-agent"}, "patch": json.dumps(changes)}],
        }
        if not changes:
            del kustomization["patches"]
        (made / "kustomization.yaml").write_text(json.dumps(kustomization))
        return made

    def run(self, page: str, text: str, *, seconds: float = 180, **variables: str) -> str:
        """What a block prints. Raises `AssertionError` when it does not end well."""
        environment = {**os.environ, **self.variables, **variables, "PATH": self._path}
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail"],
            input=script(page, text),
            cwd=self._folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{page}: status {done.returncode}\n{text}\n{done.stdout[-3000:]}"
        return done.stdout


class Seat:
    """The DaemonSet `node-agent`: whoever sits there meanwhile, the one under test comes back."""

    def __init__(self, cluster: Cluster, guide: Guide, agents: AgentSwitch) -> None:
        self._cluster = cluster
        self._guide = guide
        self._agents = agents

    def stock(self) -> None:
        """As `velero install` leaves it."""
        self.clear()
        self._agents.use(STOCK)

    def ready(self) -> str:
        """The name of the agent's pod, when it runs."""
        self._agents.wait_until_ready()
        return agent_pod(self._cluster)

    def clear(self) -> None:
        """As where there never was an agent: nothing of our manifests, and no release of the chart."""
        for command in _CLEAR:
            self._guide.run("docs/install.md", command)

    def restore(self) -> None:
        self.clear()
        self._agents.put_back()
