"""Agents on the nodes of a cluster whose API server lists their pods and runs relays in them, and the command."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import WSMsgType, web

from agent.control.serve import serve_socket
from tests.unit.control.control_kit import World, job

TOKEN = "token-of-the-kubeconfig"
MAIN = "import sys; from agent.cli.main import main; sys.argv[0] = 'lighter'; main()"


class ApiServer:
    """Lists pods, and runs relays in them as a kubelet would: as processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pods: list[dict[str, object]] = []
        self.refuses = False
        """To run anything in pods."""
        self.hides = False
        """The pods from whoever asks."""
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
        if self.hides:
            return _forbidden()
        return web.json_response({"kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": self.pods})

    async def execute(self, request: web.Request) -> web.StreamResponse:
        if self.refuses:
            return _forbidden()
        self.commands.append(tuple(request.query.getall("command")))
        assert request.query["container"] == "node-agent"
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        path = self.folder / request.match_info["name"] / "control.sock"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", MAIN, "agent", "relay", "--socket", str(path)),
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


def _forbidden() -> web.Response:
    return web.json_response({"kind": "Status", "reason": "Forbidden", "message": "no"}, status=403)


async def _in(socket: web.WebSocketResponse, process: asyncio.subprocess.Process) -> None:
    async for message in socket:
        if message.type is WSMsgType.BINARY and message.data[0] == 0 and process.stdin is not None:
            process.stdin.write(message.data[1:])
            await process.stdin.drain()


async def _out(socket: web.WebSocketResponse, stream: asyncio.StreamReader | None, channel: int) -> None:
    while stream is not None and (data := await stream.read(1 << 15)):
        await socket.send_bytes(bytes((channel,)) + data)


@asynccontextmanager
async def api_server() -> AsyncIterator[ApiServer]:
    """One that listens, and a kubeconfig for it in its folder whose context is called `a`."""
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
    try:
        yield server
    finally:
        await runner.cleanup()
        shutil.rmtree(folder)


@asynccontextmanager
async def agent_of(api: ApiServer, node: str, *jobs: str) -> AsyncIterator[World]:
    world = World()
    world.node.name = node
    for name in jobs:
        world.jobs.put(job(name, node=node))
    async with serve_socket(world.parts, world.clock, api.add(node)):
        yield world


async def lighter(*arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error of the real command."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MAIN, *arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()
