"""Which agents a command of `lighter agent` asks, and as whom."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

import click
import msgspec

from agent.base.errors import ControlUnreachable, LighterageError, UsageError
from agent.cli.console import note
from agent.server.flags import DEFAULT_CONTROL_SOCKET, DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from agent.control.client import ControlClient
    from agent.control.nodes import Cluster

_T = TypeVar("_T")
_C = TypeVar("_C", bound=Callable[..., object])
_MOST_FILE = 1 << 20


class Agent(msgspec.Struct, frozen=True):
    """One that is asked."""

    address: str
    """`unix:/path` or `host:port`."""
    node: str = ""
    """Empty when only its address is known."""
    token: str = ""
    trouble: Callable[[], str] = lambda: ""
    """Why it cannot be reached, if that is known."""


class Agents(msgspec.Struct, frozen=True, kw_only=True):
    """Those that are asked."""

    addresses: tuple[str, ...] = ()
    """`unix:/path` or `host:port`."""
    cluster: Cluster | None = None
    """Where to look for them, when they are given by the names of their nodes."""
    token_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    server_name: str = ""

    @asynccontextmanager
    async def reached(self) -> AsyncIterator[tuple[Agent, ...]]:
        """All of them, for the time of the block. Raises what finding them raises."""
        if self.cluster is None:
            yield tuple(map(Agent, self.addresses))
            return
        from agent.control.nodes import reached

        async with reached(self.cluster) as found:
            yield tuple(Agent(one.address, one.node, one.token, one.trouble) for one in found)

    @asynccontextmanager
    async def client(self, agent: Agent) -> AsyncIterator[ControlClient]:
        """A client of one of them. Raises `UsageError`."""
        from agent.control.client import Target, connect

        target = Target(
            address=agent.address,
            token=_read(self.token_file, "token").decode("utf-8", "replace").strip() or agent.token,
            ca=_read(self.ca_file, "certificates"),
            certificate=_read(self.cert_file, "certificate"),
            key=_read(self.key_file, "key"),
            server_name=self.server_name,
        )
        try:
            async with connect(target) as client:
                yield client
        except ControlUnreachable as error:
            if not agent.node:
                raise
            why = agent.trouble() or error.message
            raise ControlUnreachable(
                f"the agent of the node {agent.node} cannot be reached: {why}", hint=error.hint
            ) from None

    @asynccontextmanager
    async def only(self) -> AsyncIterator[ControlClient]:
        """A client, for commands that are about one agent. Raises `UsageError`."""
        async with self.reached() as agents:
            if len(agents) != 1:
                raise UsageError("this command is about one agent", hint="give one --node or one --address")
            async with self.client(agents[0]) as client:
                yield client

    async def each(self, ask: Callable[[ControlClient], Awaitable[_T]]) -> Answers[_T]:
        """What all of them say, asked at the same time, in their order; and what kept others from saying it."""
        async with self.reached() as agents:
            answers = await asyncio.gather(*(self._one(agent, ask) for agent in agents))
        errors = [answer for answer in answers if isinstance(answer, LighterageError)]
        return Answers([answer for answer in answers if not isinstance(answer, LighterageError)], errors)

    async def _one(self, agent: Agent, ask: Callable[[ControlClient], Awaitable[_T]]) -> _T | LighterageError:
        try:
            async with self.client(agent) as client:
                return await ask(client)
        except LighterageError as error:
            return error


class Answers(msgspec.Struct, Generic[_T], frozen=True):
    """Of several agents."""

    given: list[_T]
    errors: list[LighterageError]

    def end(self) -> None:
        """Name what went wrong, once the rest was printed: raise the first, and say the others."""
        for error in self.errors[1:]:
            note(str(error))
        if self.errors:
            raise self.errors[0]


def agent_options(command: _C) -> _C:
    """Options of every command that asks agents; passes `agents`."""

    @functools.wraps(command)
    def decorated(
        *args: object,
        socket: str,
        address: tuple[str, ...],
        token_file: str,
        cacert: str,
        cert: str,
        key: str,
        server_name: str,
        node: tuple[str, ...],
        namespace: str,
        kubeconfig: str,
        context: str,
        control_port: int,
        **kwargs: object,
    ) -> object:
        if node and address:
            raise UsageError("--node finds the addresses itself", hint="give --node or --address")
        agents = Agents(
            addresses=() if node else address or (f"unix:{os.path.abspath(socket)}",),
            cluster=_cluster(node, namespace, kubeconfig, context, control_port) if node else None,
            token_file=token_file,
            ca_file=cacert,
            cert_file=cert,
            key_file=key,
            server_name=server_name,
        )
        return command(*args, agents=agents, **kwargs)

    options = [
        click.option(
            "--socket",
            envvar="LIGHTER_CONTROL_SOCKET",
            default=DEFAULT_CONTROL_SOCKET,
            show_default=True,
            metavar="PATH",
            help="Unix socket of the agent of this pod.  [env: LIGHTER_CONTROL_SOCKET]",
        ),
        click.option(
            "--address", multiple=True, metavar="HOST:PORT", help="An agent elsewhere, over TLS; may be repeated."
        ),
        click.option(
            "--token-file",
            envvar="LIGHTER_CONTROL_TOKEN_FILE",
            default="",
            metavar="FILE",
            help="Bearer token of Kubernetes to show there.  [env: LIGHTER_CONTROL_TOKEN_FILE]",
        ),
        click.option("--cacert", default="", metavar="FILE", help="Who may have signed the agent's certificate."),
        click.option("--cert", default="", metavar="FILE", help="Certificate to show there."),
        click.option("--key", default="", metavar="FILE", help="Its key."),
        click.option("--server-name", default="", metavar="NAME", help="Name in the agent's certificate."),
        click.option(
            "--node",
            multiple=True,
            metavar="NAME",
            help="The agent of this node, or all, through the API server of the cluster; may be repeated.",
        ),
        click.option(
            "-n",
            "--namespace",
            envvar="VELERO_NAMESPACE",
            default=DEFAULT_NAMESPACE,
            show_default=True,
            help="Velero's namespace, for --node.  [env: VELERO_NAMESPACE]",
        ),
        click.option(
            "--kubeconfig",
            envvar="KUBECONFIG",
            default="",
            metavar="FILE",
            help="For --node; else ~/.kube/config, else the pod's service account.  [env: KUBECONFIG]",
        ),
        click.option("--context", default="", metavar="NAME", help="Of the kubeconfig; else its current one."),
        click.option(
            "--control-port",
            type=click.IntRange(0, 65_535),
            default=0,
            metavar="PORT",
            help="With --node: connect to the address of the pod at this port, by TLS, with the kubeconfig's token.",
        ),
    ]
    wrapped: Callable[..., object] = decorated
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]


def _cluster(nodes: tuple[str, ...], namespace: str, kubeconfig: str, context: str, port: int) -> Cluster:
    from agent.control.nodes import Cluster

    return Cluster(nodes=nodes, namespace=namespace, kubeconfig=kubeconfig, context=context, port=port)


def _read(path: str, what: str) -> bytes:
    if not path:
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(_MOST_FILE)
    except OSError as error:
        raise UsageError(f"the {what} {path} cannot be read: {error.strerror}") from None
