"""Agents found by the names of their nodes and reached through an API server, or at the addresses of their pods."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import WSMsgType, web

from agent.base.errors import ControlUnreachable
from agent.cli.agent_jobs import JobsResult
from agent.cli.agent_state import StatusResult
from agent.control.client import Target, connect
from agent.control.nodes import ALL, RELAY_COMMAND, Cluster, Reached, reached
from agent.control.serve import serve_socket
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
    for name in jobs:
        world.jobs.put(job(name))
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


async def _lighter(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _MAIN, *arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()
