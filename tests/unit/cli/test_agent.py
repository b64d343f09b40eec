"""`lighter agent run` and `/velero node-agent server`: the command lines that manifests have."""

from __future__ import annotations

import click
import pytest

from agent.base.errors import ConfigurationError, UsageError
from agent.cli import agent as command
from agent.cli.velero import translate
from agent.server import app, check
from agent.server.flags import DEFAULT_CONTROL_SOCKET, AgentFlags
from agent.server.self_test import Finding, SelfTest, Verdict
from tests.unit.cli.conftest import Lighter


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[AgentFlags]:
    """The flags of each agent that would have been started."""
    for name in ("NODE_NAME", "VELERO_NAMESPACE", "VELERO_SCRATCH_DIR", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    seen: list[AgentFlags] = []
    monkeypatch.setattr(app, "serve", seen.append)
    return seen


def _run(*args: str) -> None:
    command.run.main(list(args), standalone_mode=False)


def test_without_flags_all_is_as_in_the_stock_agent(started: list[AgentFlags]) -> None:
    _run("--node=node-a")
    assert started == [AgentFlags(node="node-a", control_socket=DEFAULT_CONTROL_SOCKET)]


def test_every_flag_of_the_stock_agent_is_taken_in_both_forms(started: list[AgentFlags]) -> None:
    words = [
        ("log-level", "debug"),
        ("log-format", "json"),
        ("features", "EnableCSI,EnableFuture"),
        ("metrics-address", "127.0.0.1:9000"),
        ("resource-timeout", "1h0m0s"),
        ("data-mover-prepare-timeout", "45m"),
        ("node-agent-configmap", "nac"),
        ("backup-repository-configmap", "brc"),
        ("kubeconfig", "/kube/config"),
        ("kubecontext", "prod"),
        ("namespace", "backups"),
        ("client-qps", "100"),
        ("client-burst", "200"),
        ("client-page-size", "0"),
        ("colorized", "false"),
        ("v", "4"),
        ("vmodule", "a=1"),
        ("stderrthreshold", "INFO"),
        ("log_file_max_size", "1800"),
    ]
    _run("--node=n", *(f"--{name}={value}" for name, value in words), "--logtostderr=true")
    _run("--node", "n", *(word for name, value in words for word in (f"--{name}", value)), "--logtostderr")
    expected = AgentFlags(
        node="n",
        namespace="backups",
        log_level="debug",
        log_format="json",
        features=("EnableCSI", "EnableFuture"),
        metrics_address="127.0.0.1:9000",
        prepare_timeout=2700.0,
        node_agent_configmap="nac",
        backup_repository_configmap="brc",
        kubeconfig="/kube/config",
        kubecontext="prod",
        control_socket=DEFAULT_CONTROL_SOCKET,
        without_effect=(
            "--client-burst",
            "--client-page-size",
            "--client-qps",
            "--colorized",
            "--log_file_max_size",
            "--logtostderr",
            "--resource-timeout",
            "--stderrthreshold",
            "--v",
            "--vmodule",
        ),
    )
    assert started == [expected, expected]
    assert expected.unknown_features == ("EnableFuture",)


def test_short_flags_are_those_of_velero(started: list[AgentFlags]) -> None:
    _run("--node=n", "-n", "backups", "-v", "4")
    _run("--node=n", "-n", "backups", "-v=4")
    assert [flags.namespace for flags in started] == ["backups", "backups"]


def test_the_environment_is_that_of_the_stock_daemonset(
    started: list[AgentFlags], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_NAME", "node-b")
    monkeypatch.setenv("VELERO_NAMESPACE", "backups")
    monkeypatch.setenv("VELERO_SCRATCH_DIR", "/elsewhere")
    monkeypatch.setenv("KUBECONFIG", "/kube/config")
    _run()
    _run("--namespace=flag-wins", "--cache-dir=/cache")
    first, second = started
    assert (first.node, first.namespace, first.kubeconfig) == ("node-b", "backups", "/kube/config")
    assert first.cache_dir == "/elsewhere/lighterage"
    assert (second.namespace, second.cache_dir) == ("flag-wins", "/cache")


def test_without_a_node_there_is_no_agent(started: list[AgentFlags]) -> None:
    with pytest.raises(ConfigurationError, match="name of the node"):
        _run()
    assert started == []


@pytest.mark.parametrize(
    "word", ["--resource-timeout=10", "--resource-timeout=-5m", "--log-format=xml", "--no-such-flag"]
)
def test_what_the_stock_agent_refuses_is_refused(started: list[AgentFlags], word: str) -> None:
    with pytest.raises(click.UsageError):
        _run("--node=n", word)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["node-agent", "server"], ["agent", "run"]),
        (["node-agent", "server", "--features="], ["agent", "run", "--features="]),
        (["--log-level=debug", "node-agent", "server", "-v=2"], ["agent", "run", "--log-level=debug", "-v=2"]),
        (["-n", "backups", "node-agent", "server"], ["agent", "run", "-n", "backups"]),
    ],
)
def test_the_stock_command_line_is_ours(given: list[str], expected: list[str]) -> None:
    assert translate(given) == expected


@pytest.mark.parametrize(
    "given", [[], ["server"], ["node-agent"], ["backup", "create", "x"], ["backup", "node-agent", "server"]]
)
def test_everything_else_of_velero_is_refused(given: list[str]) -> None:
    with pytest.raises(UsageError, match="only `velero node-agent server`"):
        translate(given)


@pytest.fixture
def tested(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What the self-test of `--check` finds."""
    found = [Finding("definitions", Verdict.OK, "installed")]

    async def fake(flags: AgentFlags) -> SelfTest:
        return SelfTest(findings=tuple(found), host_pods=True, pod_volumes=True, snapshots=False)

    monkeypatch.setattr(check, "check", fake)
    return found


def test_check_prints_a_table_and_says_by_its_status_whether_an_agent_could_work(
    tested: list[Finding], lighter: Lighter
) -> None:
    assert "definitions  ok  installed" in lighter("agent", "run", "--check", "--node=n").stdout
    tested.append(Finding("right to pods", Verdict.FATAL, "list is refused"))
    outcome = lighter("agent", "run", "--check", "--node=n")
    assert outcome.status == ConfigurationError.exit_status
    assert "list is refused" in outcome.stdout


def test_check_gives_one_json_value_of_its_schema(tested: list[Finding], lighter: Lighter) -> None:
    outcome = lighter("agent", "run", "--check", "--node=n", "--json")
    assert outcome.stdout == (
        '{"node":"n","namespace":"velero","podVolumes":true,"snapshots":false,'
        '"findings":[{"check":"definitions","verdict":"ok","text":"installed"}]}\n'
    )
