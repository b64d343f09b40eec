"""`lighter agent … --node` against real agents and a real API server: what commands do, and why they cannot.

The agents listen at the addresses of their pods, which are played. There is no kubelet, so nobody runs a relay here:
tests/unit/control/test_node_commands.py has one that does.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from agent.base.errors import ControlForbidden, ControlUnreachable, KubeForbidden, UsageError
from agent.cli.agent_job import JobInfo
from agent.cli.agent_jobs import JobsResult
from agent.cli.agent_snapshots import RemoteFile, RemoteList, RemoteRestore
from agent.cli.agent_state import LimitsResult, StatusResult
from agent.control.rights import GROUP
from agent.testing.control_plane import ControlPlane
from agent.testing.control_plane_process import eventually
from agent.testing.s3_server import free_ports
from tests.agent_commands import APP, COMMANDS
from tests.controlplane.agents import LIGHTER
from tests.controlplane.control_agents import ControlAgents, control_agents, right, storage
from tests.unit.movers.moving_kit import backup_of, done, new_repository, running

NAMESPACE: Final = "agent-commands"
DOWN: Final = "n3"
"""Its pod runs, and nothing listens in it."""
ADDRESSES: Final = {"n1": "127.0.0.1", "n2": "127.0.0.2", DOWN: "127.0.0.3"}
PODS: Final = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}
EXEC: Final = {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get", "create"]}
EVERYTHING: Final = {"apiGroups": [GROUP], "resources": ["*"], "verbs": ["*"]}


@dataclass(frozen=True)
class Said:
    status: int
    out: str
    err: str

    @property
    def code(self) -> str:
        """Of the error that it ended with."""
        return str(json.loads(self.err.splitlines()[-1])["error"]["code"])


@dataclass(frozen=True)
class Nodes:
    """Three nodes, two agents, and people with and without rights."""

    agents: ControlAgents
    port: int

    @property
    def plane(self) -> ControlPlane:
        return self.agents.plane

    def said(self, command: str, *more: str, node: str, who: str = "operator", relay: bool = False) -> Said:
        """What a command prints, run as the kubeconfig of `who`."""
        kubeconfig = self.plane.folder / f"{NAMESPACE}-{who}.kubeconfig"
        at = [f"--node={node}", f"--namespace={NAMESPACE}", f"--kubeconfig={kubeconfig}", "--json"]
        if not relay:
            authority = self.plane.keys.authority
            at += [f"--control-port={self.port}", f"--cacert={authority}", "--server-name=localhost"]
        words = [str(LIGHTER), "agent", command, *more, *at]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
        return Said(done.returncode, done.stdout, done.stderr)

    def answer(self, command: str, *more: str, node: str = "n2") -> str:
        """Of a command that has to end well."""
        said = self.said(command, *more, node=node)
        assert said.status == 0, said.err
        return said.out

    def person(self, name: str, *rules: dict[str, Any]) -> None:
        self.agents.account(name)
        if rules:
            self.agents.grant(name, {"kind": "ServiceAccount", "name": name}, *rules)
        self.plane.service_account(NAMESPACE, name)

    def pod(self, name: str, node: str, namespace: str = NAMESPACE, **labels: str) -> str:
        """A pod that runs there, with the volume `html`; its uid."""
        spec: Any = {
            "nodeName": node,
            "automountServiceAccountToken": False,
            "containers": [{"name": "main", "image": "none"}],
            "volumes": [{"name": "html", "emptyDir": {}}],
        }
        metadata: Any = {"name": name, "namespace": namespace, "labels": labels}
        self.plane.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        status = json.dumps({"status": {"phase": "Running", "podIP": ADDRESSES[node]}})
        where = (name, f"--namespace={namespace}")
        self.plane.kubectl("patch", "pod", *where, "--subresource=status", "--type=merge", f"--patch={status}")
        return self.plane.kubectl("get", "pod", *where, "--output=jsonpath={.metadata.uid}")


@pytest.fixture(scope="module")
def nodes(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("agent-commands")
    (port,) = free_ports(1)
    with (
        control_agents(plane, folder, NAMESPACE) as agents,
        agents.listening("n1", f"{ADDRESSES['n1']}:{port}"),
        agents.listening("n2", f"{ADDRESSES['n2']}:{port}"),
    ):
        found = Nodes(agents, port)
        plane.kubectl("create", "namespace", "app")
        for node in ADDRESSES:
            plane.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
            found.pod(f"node-agent-{node}", node, role="node-agent")
        found.person("operator", PODS, EXEC, EVERYTHING)
        found.person("visitor", PODS)
        found.person("nobody")
        plane.apply(*_uploads())
        eventually("roles count", lambda: found.said("jobs", node="n1").status == 0, seconds=30)
        yield found
        plane.kubectl("delete", "node", *ADDRESSES)
        plane.kubectl("delete", "namespace", "app", "--wait=false")


def _uploads() -> Iterator[Any]:
    """A job that another node's agent has begun: any agent can be asked about it."""
    yield {
        "apiVersion": "velero.io/v2alpha1",
        "kind": "DataUpload",
        "metadata": {"name": "one", "namespace": NAMESPACE},
        "spec": {
            "snapshotType": "CSI",
            "csiSnapshot": {"volumeSnapshot": "vs", "storageClass": "sc", "snapshotClass": ""},
            "sourcePVC": "data",
            "sourceNamespace": "app",
            "backupStorageLocation": "default",
            "operationTimeout": "10m0s",
        },
        "status": {"phase": "InProgress", "node": DOWN},
    }


def test_status_and_jobs_are_those_of_the_named_node_and_of_all(nodes: Nodes) -> None:
    (state,) = msgspec.json.decode(nodes.answer("status"), type=StatusResult).agents
    assert (state.node, state.namespace) == ("n2", NAMESPACE)
    assert msgspec.json.decode(nodes.answer("jobs"), type=JobsResult).jobs == []
    (job,) = msgspec.json.decode(nodes.answer("jobs", "--all-nodes"), type=JobsResult).jobs
    assert (job.kind, job.name, job.phase, job.node) == ("DataUpload", "one", "InProgress", DOWN)


def test_a_job_is_paused_resumed_and_canceled_in_the_cluster(nodes: Nodes) -> None:
    def stored() -> Any:
        get = ("get", "dataupload", "one", f"--namespace={NAMESPACE}", "--output=json")
        return json.loads(nodes.plane.kubectl(*get))

    for command, annotation in (("pause", "true"), ("resume", None)):
        info = msgspec.json.decode(nodes.answer(command, "du/one"), type=JobInfo)
        assert info.paused is (annotation is not None)
        assert stored()["metadata"].get("annotations", {}).get("lighterage.io/paused") == annotation
    assert msgspec.json.decode(nodes.answer("cancel", "du/one"), type=JobInfo).cancel_requested
    assert stored()["spec"]["cancel"] is True


def test_limits_are_set_at_one_agent_and_counted_by_it_alone(nodes: Nodes) -> None:
    changed = nodes.answer("limits", "--upload", "5MiB", "--concurrency", "3")
    assert msgspec.json.decode(changed, type=LimitsResult).in_force.upload_bytes_per_second == 5 << 20
    shown = msgspec.json.decode(nodes.answer("limits"), type=LimitsResult)
    assert (shown.set.upload_bytes_per_second, shown.set.concurrency) == (5 << 20, 3)
    other = msgspec.json.decode(nodes.answer("limits", node="n1"), type=LimitsResult)
    assert (other.set.upload_bytes_per_second, other.set.concurrency) == (None, None)
    reset = msgspec.json.decode(nodes.answer("limits", "--reset"), type=LimitsResult)
    assert reset.in_force == reset.configured


def test_a_snapshot_is_listed_read_and_restored_into_a_pod_of_the_named_node(nodes: Nodes) -> None:
    folder = nodes.agents.folder
    tree = folder / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "below" / "page").write_bytes(b"<html>")
    (tree / "large").write_bytes(bytes(range(256)) * 8_192)
    snapshot = asyncio.run(_backed_up(folder, tree))
    nodes.plane.apply(*storage(NAMESPACE, folder / "bucket"))
    eventually("the repository is known", lambda: nodes.said("ls", *APP, node="n2").status == 0, seconds=30)

    (listed,) = msgspec.json.decode(nodes.answer("ls", *APP), type=RemoteList).entries
    assert listed.name == snapshot
    names = msgspec.json.decode(nodes.answer("ls", snapshot + "/", *APP), type=RemoteList).entries
    assert [(one.name, one.type) for one in names] == [("below", "directory"), ("large", "file")]
    length = msgspec.json.decode(nodes.answer("cat", f"{snapshot}/large", *APP), type=RemoteFile)
    assert length == RemoteFile(256 * 8_192)

    uid = nodes.pod("web", "n2", namespace="app")
    volume = folder / "n2" / uid / "volumes" / "kubernetes.io~empty-dir" / "html"
    volume.mkdir(parents=True)
    into = ("--pod", "app/web", "--volume", "html")
    restored = nodes.answer("restore", f"{snapshot}/below", *APP, *into)
    assert msgspec.json.decode(restored, type=RemoteRestore).files == 1
    assert (volume / "page").read_bytes() == b"<html>"
    refused = nodes.said("restore", f"{snapshot}/below", *APP, *into, node="n1")
    assert refused.status != 0 and "n2" in refused.err, "the pod is on another node"


async def _backed_up(folder: Path, tree: Path) -> str:
    location = await new_repository(folder / "bucket" / "kopia" / "app")
    async with running() as movers:
        return (await done(movers, backup_of(tree, location))).snapshot


def test_of_all_nodes_the_one_that_is_down_is_named_and_the_others_are_shown(nodes: Nodes) -> None:
    for command in ("status", "jobs"):
        said = nodes.said(command, node="all")
        assert (said.status, said.code) == (ControlUnreachable.exit_status, ControlUnreachable.code)
        assert f"the agent of the node {DOWN} cannot be reached" in said.err
    states = msgspec.json.decode(nodes.said("status", node="all").out, type=StatusResult)
    assert [one.node for one in states.agents] == ["n1", "n2"]


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"status", "jobs", "watch"}))
def test_what_is_about_one_agent_is_refused_for_all(nodes: Nodes, command: str) -> None:
    said = nodes.said(command, *COMMANDS[command], node="all")
    assert (said.status, said.out, said.code) == (UsageError.exit_status, "", UsageError.code)


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_unreachable_and_forbidden_are_told_apart(nodes: Nodes, command: str) -> None:
    words = COMMANDS[command]
    unknown = nodes.said(command, *words, node="n9")
    assert (unknown.status, unknown.code) == (ControlUnreachable.exit_status, ControlUnreachable.code)
    assert "no agent runs on the node n9" in unknown.err
    down = nodes.said(command, *words, node=DOWN)
    assert (down.status, down.code) == (ControlUnreachable.exit_status, ControlUnreachable.code)
    assert f"the agent of the node {DOWN} cannot be reached" in down.err
    visitor = nodes.said(command, *words, node="n1", who="visitor")
    assert (visitor.status, visitor.code) == (ControlForbidden.exit_status, ControlForbidden.code)
    assert f"system:serviceaccount:{NAMESPACE}:visitor has not the right to" in visitor.err


def test_who_may_not_list_pods_or_run_commands_in_them_is_told_so(nodes: Nodes) -> None:
    hidden = nodes.said("status", node="n1", who="nobody")
    assert (hidden.status, hidden.code) == (KubeForbidden.exit_status, KubeForbidden.code)
    refused = nodes.said("status", node="n1", who="visitor", relay=True)
    assert (refused.status, refused.code) == (ControlUnreachable.exit_status, ControlUnreachable.code)
    assert "403" in refused.err and "node-agent-n1" in refused.err


def test_a_node_whose_kubelet_is_away_is_unreachable_by_relay(nodes: Nodes) -> None:
    said = nodes.said("status", node="n1", relay=True)
    assert (said.status, said.code) == (ControlUnreachable.exit_status, ControlUnreachable.code)
    assert "node-agent-n1" in said.err


def test_a_right_of_its_own_is_enough_for_a_command_and_for_no_other(nodes: Nodes) -> None:
    nodes.person("watchman", PODS, right("get", "nodes"))
    eventually("the role counts", lambda: nodes.said("status", node="n1", who="watchman").status == 0, seconds=30)
    assert nodes.said("limits", node="n1", who="watchman").code == ControlForbidden.code
