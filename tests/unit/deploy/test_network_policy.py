"""The network policy, evaluated: it is about the agents' pods, and lets through where the code listens and connects to.

Nothing enforces policies in a test. What is evaluated here is what is rendered, against flags that name addresses to
listen at and the modules that can open a connection: a new one of either has to be permitted, or to be named here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

import agent
from agent.cli.agent import run
from agent.server.http import parse_address
from tests.unit.deploy.chart_kit import DEPLOY, Json, Objects, Render

SOURCE = Path(agent.__file__).parent
ANYBODY: Json = {"namespaceSelector": {}}
OPERATORS: Json = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "operators"}}}
DNS = (("UDP", 53), ("TCP", 53))
API_SERVER = (("TCP", 443), ("TCP", 6443))
"""The port of its service, and where it listens: which of the two a policy sees differs between network plug-ins."""
OBJECT_STORE = (("TCP", 443),)
"""Without an endpoint."""

CONNECTS = {
    "kube/aio_transport.py": API_SERVER,
    "kube/aio_exec.py": API_SERVER,
    "storage/s3_client.py": OBJECT_STORE,
    "storage/s3_receive.py": OBJECT_STORE,
    "storage/s3_errors.py": (),
    "storage/s3_import.py": (),
    "storage/s3_models.py": (),
    "observe/otlp.py": (("TCP", 4317),),
    "control/client.py": (),
}
"""Modules that import what can open a connection over the network, and where agents connect to by them by default."""
LISTENS = {"server/http.py": "--metrics-address", "control/serve.py": "--control-address"}
"""Modules that listen on the network, and the flag that says where."""
_CAN_CONNECT = re.compile(
    r"aiohttp|grpc|botocore|aiobotocore|requests|urllib3|http\.client|urllib\.request|opentelemetry\.exporter"
)
_LISTENING = {"TCPSite", "add_secure_port", "start_server", "create_server", "create_datagram_endpoint", "SockSite"}
_ONLY_STATUS = {"control/errors.py", "control/auth.py", "control/border.py"}
"""Of gRPC these take codes and contexts."""
_BY_DEFAULT = {"observe/otlp.py"}
"""Off until a variable names a collector; then its port is one of `egressPorts`."""


# ---- evaluation, as docs/concepts of Kubernetes say it ----


def selects(selector: Json, labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, "all that is used here"
    matched: dict[str, str] = selector.get("matchLabels", {})
    return matched.items() <= labels.items()


def permits(policy: Json, direction: str, protocol: str, port: int, peer: Json, named: dict[str, int]) -> bool:
    """Whether a policy lets one connection of a pod whose ports are `named` pass, to or from a peer."""
    spec = policy["spec"]
    if direction.capitalize() not in spec["policyTypes"]:
        return True
    for rule in spec.get(direction, []):
        peers = rule.get("from" if direction == "ingress" else "to")
        if peers is not None and peer not in peers:
            continue
        ports = rule.get("ports")
        if ports is None:
            return True
        for one in ports:
            number = named.get(one["port"]) if isinstance(one["port"], str) else one["port"]
            if (one.get("protocol", "TCP"), number) == (protocol, port):
                return True
    return False


class Agents:
    """The pods of a rendered DaemonSet behind the one policy that is rendered with it."""

    def __init__(self, objects: Objects) -> None:
        ((_, self.policy),) = ((key, one) for key, one in objects.items() if key[0] == "NetworkPolicy")
        self.daemon_set = objects["DaemonSet", "node-agent"]
        template = self.daemon_set["spec"]["template"]
        self.labels: dict[str, str] = template["metadata"]["labels"]
        (container,) = template["spec"]["containers"]
        self.args: list[str] = container["args"]
        self.named: dict[str, int] = {one["name"]: one["containerPort"] for one in container["ports"]}

    def flags(self) -> dict[str, Any]:
        return run.make_context("run", self.args[2:]).params

    def lets_in(self, port: int, peer: Json = ANYBODY) -> bool:
        return permits(self.policy, "ingress", "TCP", port, peer, self.named)

    def lets_out(self, protocol: str, port: int) -> bool:
        return permits(self.policy, "egress", protocol, port, {"ipBlock": {"cidr": "0.0.0.0/0"}}, self.named)


def of_kustomize() -> Agents:
    documents = (
        one
        for name in ("daemonset/daemonset.yaml", "observability/networkpolicy.yaml")
        for one in yaml.safe_load_all((DEPLOY / name).read_text())
    )
    return Agents({(one["kind"], one["metadata"]["name"]): one for one in documents})


@pytest.fixture(params=["kustomize", "chart"])
def agents(request: pytest.FixtureRequest, render: Render) -> Agents:
    return of_kustomize() if request.param == "kustomize" else Agents(render({"networkPolicy": {"enabled": True}}))


# ---- what the code does ----


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if not name.startswith(("testing/", "control/v1/")):
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {node.module or "", *(f"{node.module}.{one.name}" for one in node.names)}
    return names


def calls(tree: ast.Module) -> set[str]:
    called = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {
        one.attr if isinstance(one, ast.Attribute) else one.id
        for one in called
        if hasattr(one, "attr") or hasattr(one, "id")
    }


def test_what_listens_and_what_connects_is_what_this_page_knows() -> None:
    listening, connecting = set(), set()
    for name, tree in modules():
        if calls(tree) & _LISTENING:
            listening.add(name)
        elif any(_CAN_CONNECT.match(one) for one in imported(tree)) and name not in _ONLY_STATUS:
            connecting.add(name)
    assert listening == set(LISTENS)
    assert connecting == set(CONNECTS)


def test_each_flag_that_names_an_address_is_that_of_a_module_which_listens() -> None:
    addresses = {option for one in run.params for option in one.opts if option.endswith("-address")}
    assert addresses == set(LISTENS.values())


# ---- and the policy ----


def test_the_policy_selects_the_agents_and_no_other_pod(agents: Agents) -> None:
    selector = agents.policy["spec"]["podSelector"]
    assert selects(selector, agents.labels)
    for other in ({"component": "velero", "deploy": "velero"}, {"velero.io/data-upload": "nightly"}, {}):
        assert not selects(selector, other)
    assert set(agents.policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    namespace = agents.policy["metadata"].get("namespace")
    assert namespace == agents.daemon_set["metadata"].get("namespace"), "a policy is about its own namespace"


def test_who_scrapes_gets_to_where_metrics_are_and_nobody_elsewhere(agents: Agents) -> None:
    flags = agents.flags()
    metrics = parse_address(flags["metrics_address"]).port
    assert agents.named == {"metrics": metrics}, "the named port is the one that the agent listens at"
    assert flags["control_address"] == "", "nothing else listens by default"
    assert [port for port in range(1, 65_536) if agents.lets_in(port)] == [metrics]


def test_the_agent_gets_to_everything_that_the_code_connects_to_and_only_there(agents: Agents) -> None:
    wanted = {*DNS, *(one for name, places in CONNECTS.items() if name not in _BY_DEFAULT for one in places)}
    got = {
        (protocol, port) for protocol in ("TCP", "UDP") for port in range(1, 65_536) if agents.lets_out(protocol, port)
    }
    assert got == wanted


def test_callers_get_to_the_control_api_where_it_listens_when_they_are_named(render: Render) -> None:
    listens = {"extraArgs": ["--control-address=:8087", "--control-cert=/tls/tls.crt", "--control-key=/tls/tls.key"]}
    closed = Agents(render({"agent": listens, "networkPolicy": {"enabled": True}}))
    port = parse_address(closed.flags()["control_address"]).port
    assert not closed.lets_in(port, OPERATORS)
    opened = Agents(render({"agent": listens, "networkPolicy": {"enabled": True, "controlFrom": [OPERATORS]}}))
    assert opened.lets_in(port, OPERATORS)
    assert not opened.lets_in(port, ANYBODY)
    moved = {"enabled": True, "controlFrom": [OPERATORS], "controlPort": 9443}
    assert Agents(render({"networkPolicy": moved})).lets_in(9443, OPERATORS)


@pytest.mark.parametrize("endpoint", ["http://minio.storage:9000", "http://collector:4317"])
def test_stores_and_collectors_at_ports_of_their_own_are_reached_when_they_are_added(
    render: Render, endpoint: str
) -> None:
    port = urlsplit(endpoint).port
    assert port is not None
    assert not Agents(render({"networkPolicy": {"enabled": True}})).lets_out("TCP", port)
    policy = {"enabled": True, "egressPorts": [443, 6443, port]}
    assert Agents(render({"networkPolicy": policy})).lets_out("TCP", port)


def test_a_policy_without_one_of_its_ports_would_be_found_out(agents: Agents) -> None:
    rules = agents.policy["spec"]["egress"]
    for rule in rules:
        for one in list(rule["ports"]):
            rule["ports"].remove(one)
            assert not agents.lets_out(one["protocol"], one["port"])
            rule["ports"].append(one)
    agents.policy["spec"]["ingress"] = []
    assert not agents.lets_in(agents.named["metrics"])
