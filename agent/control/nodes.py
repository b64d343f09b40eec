"""Agents of a cluster by the names of their nodes, reached from outside of it.

Either through the API server, which runs a relay in the agent's pod that leads to its Unix socket (whoever may do that
is let in by the agent as its own user), or at the address of the pod, over TLS, where an agent listens there.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
from kubernetes.aio.client.configuration import Configuration

from agent import __version__
from agent.base.errors import ControlUnreachable, KubeError
from agent.control.relay import CHUNK
from agent.kube.aio_api import AioKubeApi
from agent.kube.aio_exec import ExecStream, execute
from agent.kube.aio_transport import Transport, load_configuration
from agent.kube.pods import Pod, PodPhase
from agent.kube.resource import PODS
from agent.kube.selector import Selector
from agent.kube.wait import either

ALL: Final = "all"
RELAY_COMMAND: Final = ("lighter", "agent", "relay")
_AGENT_LABELS: Final = {"role": "node-agent"}
_USER_AGENT: Final = f"lighter/{__version__}"
_HOME_CONFIG: Final = "~/.kube/config"


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """Where to look for agents, and as whom."""

    nodes: tuple[str, ...]
    """Names, or `ALL`."""
    namespace: str
    """Velero's."""
    kubeconfig: str = ""
    """Empty: the one in the home folder, else the service account of this pod."""
    context: str = ""
    port: int = 0
    """Where agents listen with TLS at the address of their pod; 0: through the API server."""


class Reached(msgspec.Struct, frozen=True):
    """One agent of those that were asked for."""

    node: str
    address: str
    """`unix:/path` of the tunnel, or `host:port`."""
    token: str = ""
    """That of the kubeconfig, for agents that are reached by TLS."""
    trouble: Callable[[], str] = lambda: ""
    """Why it cannot be reached, when gRPC only knows that it cannot."""


@asynccontextmanager
async def reached(cluster: Cluster) -> AsyncIterator[tuple[Reached, ...]]:
    """The agents of these nodes for the time of the block, by node.

    Raises `ConfigurationError`, leaves of `KubeError`, and `ControlUnreachable` when there is no agent on a node.
    """
    configuration = await load_configuration(_kubeconfig(cluster.kubeconfig), cluster.context)
    pods = await _pods(configuration, cluster)
    if cluster.port:
        async with Transport(configuration, user_agent=_USER_AGENT) as transport:
            token = await transport.token()
        yield tuple(Reached(pod.spec.node_name, _address(pod, cluster.port), token) for pod in pods)
        return
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lighter-")))  # for its owner only
        found = []
        for number, pod in enumerate(pods):
            tunnel = Tunnel(configuration, pod, folder / f"{number}.sock")
            address = await stack.enter_async_context(tunnel.open())
            found.append(Reached(pod.spec.node_name, address, trouble=tunnel.why))
        yield tuple(found)


class Tunnel:
    """From a Unix socket here to that of an agent, by a relay in its pod for each connection."""

    def __init__(self, configuration: Configuration, pod: Pod, path: Path) -> None:
        self._configuration = configuration
        self._pod = pod
        self._path = path
        self._open: set[asyncio.Task[None]] = set()
        self._trouble = ""

    def why(self) -> str:
        """How the last connection ended, if that was not well."""
        return self._trouble

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Its address, for the time of the block."""
        server = await asyncio.start_unix_server(self._accept, self._path)
        try:
            yield f"unix:{self._path}"
        finally:
            server.close()
            for task in list(self._open):
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A task of our own: asyncio complains, on standard error, of tasks of its own that are canceled."""
        task = asyncio.ensure_future(self._welcome(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        container = self._pod.spec.containers[0].name
        try:
            async with execute(
                self._configuration, self._pod.key, container, RELAY_COMMAND, user_agent=_USER_AGENT
            ) as stream:
                await either(_sent(reader, stream), _received(stream, writer))
                self._trouble = stream.failure
        except (KubeError, OSError) as error:
            self._trouble = str(error)  # gRPC only finds the connection closed
        finally:
            writer.close()


async def _sent(reader: asyncio.StreamReader, stream: ExecStream) -> None:
    while data := await reader.read(CHUNK):
        await stream.write(data)


async def _received(stream: ExecStream, writer: asyncio.StreamWriter) -> None:
    while data := await stream.read():
        writer.write(data)
        await writer.drain()


async def _pods(configuration: Configuration, cluster: Cluster) -> Sequence[Pod]:
    async with AioKubeApi(configuration, user_agent=_USER_AGENT) as api:
        found: dict[str, Pod] = {}
        token = ""
        while True:
            page = await api.list(
                PODS, cluster.namespace, selector=Selector(labels=_AGENT_LABELS), continue_token=token
            )
            for pod in page.items:
                if pod.status.phase is PodPhase.RUNNING and pod.metadata.deletion_timestamp is None:
                    found[pod.spec.node_name] = pod
            token = page.continue_token
            if not token:
                break
    wanted = sorted(found) if ALL in cluster.nodes else list(dict.fromkeys(cluster.nodes))
    missing = [node for node in wanted if node not in found or not found[node].spec.containers]
    if missing or not wanted:
        where = f"on the node {missing[0]}" if missing else "on any node"
        raise ControlUnreachable(
            f"no agent runs {where} in the namespace {cluster.namespace}",
            hint=f"kubectl -n {cluster.namespace} get pods -l role=node-agent -o wide",
        )
    return [found[node] for node in wanted]


def _address(pod: Pod, port: int) -> str:
    ip = pod.status.pod_ip
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _kubeconfig(given: str) -> str:
    home = os.path.expanduser(_HOME_CONFIG)
    return given or (home if os.path.exists(home) else "")
