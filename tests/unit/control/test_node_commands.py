"""Commands of `lighter agent` by names of nodes: each does what it says at the right agent, or says why it cannot."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from agent.base.errors import (
    ControlForbidden,
    ControlJobNotFound,
    ControlUnreachable,
    KubeForbidden,
    UsageError,
)
from agent.cli.agent_job import JobInfo
from agent.cli.agent_jobs import JobsResult
from agent.cli.agent_snapshots import RemoteFile, RemoteList, RemoteRestore
from agent.cli.agent_state import LimitsResult, StatusResult
from tests.agent_commands import COMMANDS
from tests.unit.control.nodes_kit import TOKEN, ApiServer, agent_of, lighter
from tests.unit.control.tls_kit import ALICE, Authority, TlsAgent

OF_MANY = {"status", "jobs", "watch"}
"""Those that may be about several agents."""


def where(api: ApiServer, *nodes: str) -> tuple[str, ...]:
    named = (word for node in nodes for word in ("--node", node))
    return (*named, "--kubeconfig", str(api.folder / "kubeconfig"), "--context", "a")


async def said(api: ApiServer, command: str, *more: str, node: str = "n2") -> str:
    """What a command prints that has to end well."""
    status, out, err = await lighter("agent", command, *COMMANDS[command], *more, *where(api, node), "--json")
    assert status == 0, err
    return out


def code(err: str) -> str:
    found: str = json.loads(err.splitlines()[-1])["error"]["code"]
    return found


def test_every_command_that_asks_agents_is_in_this_contract() -> None:
    from agent.cli.agent import agent

    assert set(COMMANDS) == set(agent.commands) - {"run", "relay"}
    for name in COMMANDS:
        assert "--node" in {option for one in agent.commands[name].params for option in one.opts}


async def test_status_and_jobs_are_those_of_the_named_node(api: ApiServer) -> None:
    async with agent_of(api, "n1", "one"), agent_of(api, "n2", "two"), asyncio.timeout(300):
        (state,) = msgspec.json.decode(await said(api, "status"), type=StatusResult).agents
        assert (state.node, state.ready, state.namespace) == ("n2", True, "velero")
        (job,) = msgspec.json.decode(await said(api, "jobs", "--all-nodes"), type=JobsResult).jobs
        assert (job.name, job.node) == ("two", "n2")


async def test_a_job_is_paused_resumed_and_canceled_by_the_agent_that_was_named(api: ApiServer) -> None:
    async with agent_of(api, "n1", "one") as first, agent_of(api, "n2", "one") as second, asyncio.timeout(300):
        for command, paused, canceled in (("pause", True, False), ("resume", False, False), ("cancel", False, True)):
            info = msgspec.json.decode(await said(api, command), type=JobInfo)
            assert (info.name, info.paused, info.cancel_requested) == ("one", paused, canceled)
            state = second.jobs.states["DataUpload", "one"]
            assert (state.paused, state.canceled) == (paused, canceled)
        untouched = first.jobs.states["DataUpload", "one"]
        assert (untouched.paused, untouched.canceled) == (False, False)
        status, _, err = await lighter("agent", "cancel", "du/no-such", *where(api, "n2"), "--json")
        assert (status, code(err)) == (ControlJobNotFound.exit_status, ControlJobNotFound.code)


async def test_limits_are_shown_set_and_reset_at_the_agent_that_was_named(api: ApiServer) -> None:
    async with agent_of(api, "n1") as first, agent_of(api, "n2") as second, asyncio.timeout(300):
        shown = msgspec.json.decode(await said(api, "limits"), type=LimitsResult)
        assert (shown.in_force.upload_bytes_per_second, shown.in_force.concurrency) == (1_000, 2)
        changed = msgspec.json.decode(
            await said(api, "limits", "--upload", "5MiB", "--download", "0", "--requests", "7", "--concurrency", "3"),
            type=LimitsResult,
        )
        assert changed.in_force == changed.set
        in_force = second.limits.in_force
        assert (in_force.upload_bytes_per_second, in_force.requests_per_second, in_force.concurrency) == (5 << 20, 7, 3)
        reset = msgspec.json.decode(await said(api, "limits", "--reset"), type=LimitsResult)
        assert reset.in_force == reset.configured == shown.in_force
        assert (first.changes, second.changes) == (0, 2)


async def test_snapshots_are_listed_read_and_restored_by_the_agent_that_was_named(api: ApiServer) -> None:
    async with agent_of(api, "n1"), agent_of(api, "n2"), asyncio.timeout(300):
        (snapshot,) = msgspec.json.decode(await said(api, "ls"), type=RemoteList).entries
        assert (snapshot.name, snapshot.type, snapshot.source) == ("s", "snapshot", "u@h:/p")
        (entry,) = msgspec.json.decode(await said(api, "ls", "s/folder"), type=RemoteList).entries
        assert (entry.name, entry.type, entry.size) == ("f", "file", 3)
        assert msgspec.json.decode(await said(api, "cat"), type=RemoteFile) == RemoteFile(3)
        assert await lighter("agent", "cat", *COMMANDS["cat"], *where(api, "n2")) == (0, "abc", "")
        assert msgspec.json.decode(await said(api, "restore"), type=RemoteRestore).files == 1


async def test_all_nodes_are_asked_for_what_can_be_merged_and_refused_for_what_cannot(api: ApiServer) -> None:
    async with agent_of(api, "n1", "one") as first, agent_of(api, "n2", "two") as second, asyncio.timeout(300):
        (one, other) = msgspec.json.decode(await said(api, "status", node="all"), type=StatusResult).agents
        assert [one.node, other.node] == ["n1", "n2"]
        both = msgspec.json.decode(await said(api, "jobs", node="all"), type=JobsResult).jobs
        assert {(job.name, job.node) for job in both} == {("one", "n1"), ("two", "n2")}
        for command in sorted(set(COMMANDS) - OF_MANY):
            status, out, err = await lighter("agent", command, *COMMANDS[command], *where(api, "all"), "--json")
            assert (status, out, code(err)) == (UsageError.exit_status, "", UsageError.code), command
            assert "about one agent" in err
        assert first.changes == second.changes == 0
        assert not first.jobs.states["DataUpload", "one"].canceled


async def test_of_one_node_all_may_be_asked_for_anything(api: ApiServer) -> None:
    async with agent_of(api, "n1", "one") as only, asyncio.timeout(300):
        await said(api, "cancel", node="all")
        assert only.jobs.states["DataUpload", "one"].canceled


async def test_of_three_agents_the_one_that_is_down_is_named_and_the_others_are_shown(api: ApiServer) -> None:
    async with agent_of(api, "n1", "one"), agent_of(api, "n3", "three"), asyncio.timeout(300):
        api.add("n2")  # its pod runs, and no agent in it
        for command, shown in (("status", StatusResult), ("jobs", JobsResult)):
            status, out, err = await lighter("agent", command, *where(api, "all"), "--json")
            assert (status, code(err)) == (ControlUnreachable.exit_status, ControlUnreachable.code)
            assert "the agent of the node n2 cannot be reached" in err and "n1" not in err and "n3" not in err
            found = msgspec.json.decode(out.splitlines()[0], type=shown)
            assert len(found.agents if isinstance(found, StatusResult) else found.jobs) == 2
        status, out, err = await lighter("agent", "watch", *where(api, "all"), "--json", "--until-finished")
        assert status == ControlUnreachable.exit_status
        assert "n2" in err


async def refused(api: ApiServer, command: str, *more: str, node: str) -> tuple[int, str, str]:
    """Exit status, code and text of a command that must not look as if it had an answer."""
    status, out, err = await lighter("agent", command, *COMMANDS[command], *more, *where(api, node), "--json")
    assert out in {"", '{"agents":[]}\n', '{"jobs":[]}\n'}
    return status, code(err), err


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_node_without_an_agent_and_one_whose_agent_does_not_listen_are_named(
    api: ApiServer, command: str
) -> None:
    async with asyncio.timeout(300):
        api.add("n2")
        *how, err = await refused(api, command, node="n9")
        assert how == [ControlUnreachable.exit_status, ControlUnreachable.code]
        assert "no agent runs on the node n9" in err
        *how, err = await refused(api, command, node="n2")
        assert how == [ControlUnreachable.exit_status, ControlUnreachable.code]
        assert "the agent of the node n2 cannot be reached" in err and "no agent listens at" in err


@pytest.mark.parametrize("command", ["status", "cancel"])
async def test_who_may_not_run_a_command_in_the_pod_or_not_list_pods_is_told_so(api: ApiServer, command: str) -> None:
    async with asyncio.timeout(300):
        api.add("n2")
        api.refuses = True
        *how, err = await refused(api, command, node="n2")
        assert how == [ControlUnreachable.exit_status, ControlUnreachable.code]
        assert "403" in err and "node-agent-n2" in err
        api.hides = True
        *how, err = await refused(api, command, node="n2")
        assert how == [KubeForbidden.exit_status, KubeForbidden.code]
        assert "pods" in err


@pytest.mark.parametrize("command", COMMANDS)
async def test_at_the_address_of_a_pod_a_command_needs_the_right_of_the_kubeconfigs_user(
    api: ApiServer, by_token: TlsAgent, authority: Authority, command: str
) -> None:
    by_token.reviewer.tokens = {TOKEN: ALICE}
    (api.folder / "ca.crt").write_bytes(authority.pem)
    api.add("n1")
    trust = ("--cacert", str(api.folder / "ca.crt"), "--server-name", "agent")
    async with by_token.listening(), asyncio.timeout(300):
        *how, err = await refused(api, command, f"--control-port={by_token.port}", *trust, node="n1")
    assert how == [ControlForbidden.exit_status, ControlForbidden.code]
    assert "alice has not the right to" in err
