"""Agents found by the names of their nodes and reached through an API server, or at the addresses of their pods."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from agent.base.errors import ControlUnreachable
from agent.cli.agent_jobs import JobsResult
from agent.cli.agent_state import StatusResult
from agent.cli.agent_watch import WatchLine
from agent.control.client import Target, connect
from agent.control.nodes import ALL, RELAY_COMMAND, Cluster, Reached, reached
from agent.kube.job import Phase
from tests.unit.control.control_kit import NODE, job
from tests.unit.control.nodes_kit import MAIN, TOKEN, ApiServer, agent_of, lighter
from tests.unit.control.tls_kit import ALICE, Authority, TlsAgent


def cluster(api: ApiServer, *nodes: str, port: int = 0) -> Cluster:
    return Cluster(nodes=nodes, namespace="velero", kubeconfig=str(api.folder / "kubeconfig"), context="a", port=port)


async def names(one: Reached) -> set[str]:
    from agent.control.v1 import jobs_pb2

    async with connect(Target(address=one.address)) as client:
        return {job.id.name async for job in client.jobs(jobs_pb2.JobFilter(all_nodes=True))}


async def test_the_agent_of_a_node_answers_through_the_api_server(api: ApiServer) -> None:
    async with agent_of(api, "n1", "one"), agent_of(api, "n2", "two"), asyncio.timeout(300):
        async with reached(cluster(api, "n2")) as (only,):
            assert only.node == "n2" and await names(only) == {"two"}
            folder = Path(only.address.removeprefix("unix:")).parent
            assert folder.stat().st_mode & 0o077 == 0, "nobody else may use the tunnel"
        assert not folder.exists()
        assert api.commands == [RELAY_COMMAND] and api.tokens == {f"Bearer {TOKEN}"}
        async with reached(cluster(api, ALL)) as both:
            assert [one.node for one in both] == ["n1", "n2"]
            assert await asyncio.gather(*map(names, both)) == [{"one"}, {"two"}]


async def test_a_node_without_an_agent_that_runs_is_named(api: ApiServer) -> None:
    api.add("n1", phase="Pending")
    for nodes in (("n1",), ("n2",), (ALL,)):
        with pytest.raises(ControlUnreachable, match=r"n1|n2|any node"):
            async with reached(cluster(api, *nodes)):
                pass


async def test_why_a_tunnel_has_no_other_end_is_said(api: ApiServer) -> None:
    api.add("n1")
    async with asyncio.timeout(300), reached(cluster(api, "n1")) as (only,):
        with pytest.raises(ControlUnreachable):
            await names(only)
        assert "no agent listens at" in only.trouble()
    api.refuses = True
    async with asyncio.timeout(300), reached(cluster(api, "n1")) as (only,):
        with pytest.raises(ControlUnreachable):
            await names(only)
        assert "node-agent-n1" in only.trouble() and "403" in only.trouble()


async def test_at_the_address_of_its_pod_an_agent_is_shown_the_token_of_the_kubeconfig(
    api: ApiServer, tmp_path: Path, authority: Authority
) -> None:
    agent = TlsAgent(tmp_path, authority, mutual=False)
    agent.reviewer.tokens[TOKEN] = ALICE
    agent.grant(ALICE.name, "NodeService/GetNode")
    api.add("n1")
    async with agent.listening(), reached(cluster(api, "n1", port=agent.port)) as (only,):
        target = Target(address=only.address, token=only.token, ca=authority.pem, server_name="agent")
        async with connect(target) as client:
            assert (await client.node()).name == NODE
    assert not api.commands


async def test_commands_merge_what_the_agents_of_all_nodes_say(api: ApiServer) -> None:
    target = ("--node", "all", "--kubeconfig", str(api.folder / "kubeconfig"), "--context", "a", "--json")
    async with agent_of(api, "n1", "one", "both"), agent_of(api, "n2", "two", "both"), asyncio.timeout(300):
        # One after the other: so many relays at once start too late for an answer where the machine is busy.
        status, out, _ = await lighter("agent", "jobs", "--all-nodes", *target)
        assert status == 0
        assert sorted(one.name for one in msgspec.json.decode(out, type=JobsResult).jobs) == ["both", "one", "two"]
        _, states, _ = await lighter("agent", "status", *target)
        assert len(msgspec.json.decode(states, type=StatusResult).agents) == 2
        api.add("n3")
        status, out, err = await lighter("agent", "status", *target)
        assert status == ControlUnreachable.exit_status and "n3" in err
        assert len(msgspec.json.decode(out.splitlines()[0], type=StatusResult).agents) == 2, "the others are shown"


async def test_watch_tells_the_progress_of_all_nodes_until_all_has_ended(api: ApiServer) -> None:
    seen: dict[str, WatchLine] = {}

    async def read_until(stream: asyncio.StreamReader, check: Callable[[], bool]) -> None:
        while not check():
            line = msgspec.json.decode(await stream.readline(), type=WatchLine)
            seen[line.job.name] = line

    def done() -> dict[str, int]:
        return {name: line.job.bytes_done for name, line in seen.items()}

    async with agent_of(api, "n1", "one") as first, agent_of(api, "n2", "two") as second, asyncio.timeout(120):
        process = await _started(*_of_all_nodes(api), "--json", "--until-finished", stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        await read_until(process.stdout, lambda: len(seen) == 2)
        first.jobs.move("one", 10)
        second.jobs.move("two", 20)
        await read_until(process.stdout, lambda: done() == {"one": 10, "two": 20})
        first.jobs.put(job("one", node="n1", phase=Phase.COMPLETED))
        second.jobs.move("two", 90)
        await read_until(process.stdout, lambda: seen["one"].job.phase == "Completed" and done()["two"] == 90)
        assert {name: line.job.node for name, line in seen.items()} == {"one": "n1", "two": "n2"}
        assert process.returncode is None, "the other node has work still"
        second.jobs.put(job("two", node="n2", phase=Phase.FAILED, message="no space"))
        assert await process.wait() == 0
        assert b"no space" in await process.stdout.read()


async def test_watch_shows_a_bar_for_each_job_of_all_nodes_on_a_terminal(api: ApiServer) -> None:
    terminal, end = os.openpty()
    shown = asyncio.StreamReader()

    async def read_until(*wanted: bytes) -> None:
        text = b""
        while not all(one in text for one in wanted):
            text += await shown.read(1 << 16)

    reading = asyncio.ensure_future(_copied(terminal, shown))
    async with agent_of(api, "n1", "one") as first, agent_of(api, "n2", "two") as second, asyncio.timeout(120):
        process = await _started(*_of_all_nodes(api), stderr=end, env={"COLUMNS": "160", "TERM": "xterm"})
        os.close(end)
        await read_until(b"DataUpload/one on n1", b"DataUpload/two on n2")
        first.jobs.move("one", 10)
        second.jobs.move("two", 20)
        await read_until(b"10 bytes of 100 bytes", b"20 bytes of 100 bytes")
        process.send_signal(signal.SIGINT)
        await process.wait()
    await reading


async def _copied(terminal: int, shown: asyncio.StreamReader) -> None:
    """What is written to a terminal, until nobody has its other end any more."""
    with suppress(OSError):
        while data := await asyncio.to_thread(os.read, terminal, 1 << 16):
            shown.feed_data(data)
    os.close(terminal)


def _of_all_nodes(api: ApiServer) -> tuple[str, ...]:
    where = ("--kubeconfig", str(api.folder / "kubeconfig"), "--context", "a")
    return ("agent", "watch", "--node", "all", *where)


async def _started(*arguments: str, env: Mapping[str, str] | None = None, **streams: int) -> asyncio.subprocess.Process:
    command = (sys.executable, "-c", MAIN, *arguments)
    return await asyncio.create_subprocess_exec(*command, env={**os.environ, **(env or {})}, **streams)
