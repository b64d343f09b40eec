"""Agents found by the names of their nodes and reached through an API server, or at the addresses of their pods."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest
from aiohttp import WSMsgType, web

from agent.base.errors import ControlUnreachable
from agent.cli.agent_jobs import JobsResult
from agent.cli.agent_state import StatusResult
from agent.cli.agent_watch import WatchLine
from agent.control.client import Target, connect
from agent.control.nodes import ALL, RELAY_COMMAND, Cluster, Reached, reached
from agent.control.serve import serve_socket
from agent.kube.job import Phase
from tests.unit.control.control_kit import NODE, World, job
from tests.unit.control.tls_kit import ALICE, Authority, TlsAgent

TOKEN = "token-of-the-kubeconfig"
_MAIN = "import sys; from agent.cli.main import main; sys.argv[0] = 'lighter'; main()"


class ApiServer:
    """Lists pods, and runs relays in them as a kubelet would: as processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pods: list[dict[str, object]] = []
        self.refuses = False
        self.commands: list[tuple[str, ...]] = []
        self.tokens: set[str] = set()

    def add(self, node: str, *, phase: str = "Running", ip: str = "127.0.0.1") -> Path:
        """A pod of an agent; the path of its socket."""
        name = f"node-agent-{node}"
        self.pods.append(
            {
                "metadata": {"name": name, "namespace": "velero"},
                "spec": {"nodeName": node, "containers": [{"name": "node-agent"}]},
                "status": {"phase": phase, "podIP": ip},
            }
        )
        return self.folder / name / "control.sock"

    async def list(self, request: web.Request) -> web.Response:
        self.tokens.add(request.headers.get("Authorization", ""))
        assert request.query["labelSelector"] == "role=node-agent"
        return web.json_response({"kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": self.pods})

    async def execute(self, request: web.Request) -> web.StreamResponse:
        if self.refuses:
            return web.json_response({"kind": "Status", "reason": "Forbidden", "message": "no"}, status=403)
        self.commands.append(tuple(request.query.getall("command")))
        assert request.query["container"] == "node-agent"
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        path = self.folder / request.match_info["name"] / "control.sock"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _MAIN, "agent", "relay", "--socket", str(path)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        tasks = [
            asyncio.ensure_future(_in(socket, process)),
            asyncio.ensure_future(_out(socket, process.stdout, 1)),
            asyncio.ensure_future(_out(socket, process.stderr, 2)),
        ]
        try:
            await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
            if process.returncode is None and tasks[0].done():
                process.kill()
            await asyncio.gather(*tasks[1:])
            status = "Success" if await process.wait() == 0 else "Failure"
            message = f"command terminated with exit code {process.returncode}"
            with_message = json.dumps({"status": status, "message": message}).encode()
            if not socket.closed:
                await socket.send_bytes(b"\x03" + with_message)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return socket


async def _in(socket: web.WebSocketResponse, process: asyncio.subprocess.Process) -> None:
    async for message in socket:
        if message.type is WSMsgType.BINARY and message.data[0] == 0 and process.stdin is not None:
            process.stdin.write(message.data[1:])
            await process.stdin.drain()


async def _out(socket: web.WebSocketResponse, stream: asyncio.StreamReader | None, channel: int) -> None:
    while stream is not None and (data := await stream.read(1 << 15)):
        await socket.send_bytes(bytes((channel,)) + data)


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    folder = Path(tempfile.mkdtemp(prefix="api-"))  # short: sockets below it have names of at most 107 bytes
    server = ApiServer(folder)
    app = web.Application()
    app.router.add_get("/api/v1/namespaces/velero/pods", server.list)
    app.router.add_get("/api/v1/namespaces/velero/pods/{name}/exec", server.execute)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://{host}:{port}"}}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
        "contexts": [
            {"name": name, "context": {"cluster": cluster, "user": "u"}} for name, cluster in (("a", "c"), ("b", "x"))
        ],
        "current-context": "b",
    }
    (folder / "kubeconfig").write_text(json.dumps(config))
    yield server
    await runner.cleanup()
    shutil.rmtree(folder)


def cluster(api: ApiServer, *nodes: str, port: int = 0) -> Cluster:
    return Cluster(nodes=nodes, namespace="velero", kubeconfig=str(api.folder / "kubeconfig"), context="a", port=port)


@asynccontextmanager
async def agent_of(api: ApiServer, node: str, *jobs: str) -> AsyncIterator[World]:
    world = World()
    world.node.name = node
    for name in jobs:
        world.jobs.put(job(name, node=node))
    async with serve_socket(world.parts, world.clock, api.add(node)):
        yield world


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
        status, out, _ = await _lighter("agent", "jobs", "--all-nodes", *target)
        assert status == 0
        assert sorted(one.name for one in msgspec.json.decode(out, type=JobsResult).jobs) == ["both", "one", "two"]
        _, states, _ = await _lighter("agent", "status", *target)
        assert len(msgspec.json.decode(states, type=StatusResult).agents) == 2
        api.add("n3")
        status, out, err = await _lighter("agent", "status", *target)
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
    command = (sys.executable, "-c", _MAIN, *arguments)
    return await asyncio.create_subprocess_exec(*command, env={**os.environ, **(env or {})}, **streams)


async def _lighter(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _MAIN, *arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()
