"""The agents under test: real processes, one a node, with the rights and nothing but the rights of our manifest."""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from agent.testing.control_plane import ControlPlane
from agent.testing.control_plane_process import ChildProgram
from agent.testing.control_plane_velero import VeleroServer
from agent.testing.s3_server import free_ports
from agent.testing.simulated_node import SimulatedNodes

STOCK_CONFIG = "node-agent-config"
LIGHTER = Path(sys.executable).parent / "lighter"
_MANIFEST = Path(__file__).resolve().parents[2] / "deploy" / "daemonset"


class Agents:
    """Agents of one Velero by node. `install` puts our manifest in the place of Velero's."""

    def __init__(self, plane: ControlPlane, nodes: SimulatedNodes, velero: VeleroServer) -> None:
        self._plane = plane
        self._nodes = nodes
        self._velero = velero
        self.kubeconfig = Path()
        self._running: dict[str, ChildProgram] = {}
        self._flags: dict[str, tuple[str, ...]] = {}
        self._ports: dict[str, int] = {}

    def install(self) -> None:
        self._plane.kubectl("apply", "--server-side", "--force-conflicts", f"-k={_MANIFEST}")
        self.log_in()

    def log_in(self) -> None:
        """From now on agents have the account of the manifest that is installed."""
        self.kubeconfig = self._plane.service_account(self._velero.namespace, "node-agent")

    def start(self, node: str, *flags: str) -> None:
        folder = self._folder(node)
        port = self._ports[node] = free_ports(1)[0]
        command = [
            LIGHTER,
            "agent",
            "run",
            f"--kubeconfig={self.kubeconfig}",
            f"--host-pods={self._nodes.pods_folder(node)}",
            f"--metrics-address=127.0.0.1:{port}",
            f"--node-agent-configmap={STOCK_CONFIG}",
            "--log-level=debug",
            *flags,
        ]
        environment = {
            **self._velero.environment,
            "NODE_NAME": node,
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "VELERO_SCRATCH_DIR": str(folder / "scratch"),
        }
        program = ChildProgram(f"agent-{node}", command, folder, environment=environment)
        program.start()
        self._running[node], self._flags[node] = program, flags

    def wait_ready(self, node: str) -> None:
        self._running[node].wait_until("is ready", lambda: answers(self._ports[node], "/readyz"), seconds=60)

    def ensure(self, *nodes: str) -> None:
        """Have agents on these nodes, ready, without further flags."""
        for node in nodes:
            if node in self._running and (self._flags[node] or not self._running[node].running):
                self.stop(node)
            if node not in self._running:
                self.start(node)
        for node in nodes:
            self.wait_ready(node)

    def restart(self, *flags: str) -> None:
        """All agents anew, with further flags."""
        nodes = [*self._running]
        self.stop_all()
        for node in nodes:
            self.start(node, *flags)
        for node in nodes:
            self.wait_ready(node)

    def pid(self, node: str) -> int:
        return self._running[node].pid

    def stop(self, node: str) -> None:
        program = self._running.pop(node, None)
        if program is not None:
            program.stop()

    def kill(self, node: str) -> None:
        self._running.pop(node).kill()

    def stop_all(self) -> None:
        for node in [*self._running]:
            self.stop(node)

    def log(self, node: str) -> str:
        return (self._folder(node) / f"agent-{node}.log").read_text(errors="replace")

    def _folder(self, node: str) -> Path:
        return self._velero.folder / f"agent-{node}"

    def metrics(self, node: str) -> str:
        with _open(f"http://127.0.0.1:{self._ports[node]}/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def workers(self, node: str) -> list[int]:
        """The processes that move data for an agent: children of its fork server."""
        below = _children()
        return [worker for child in below.get(self._running[node].pid, []) for worker in below.get(child, [])]


_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def answers(port: int, path: str) -> bool:
    """Whether an agent says yes there."""
    try:
        with _open(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _children() -> Mapping[int, list[int]]:
    found: dict[int, list[int]] = {}
    for pid, parent in _parents():
        found.setdefault(parent, []).append(pid)
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = Path("/proc", name, "stat").read_text()
            except OSError:
                continue
            yield int(name), int(stat.rpartition(")")[2].split()[1])
