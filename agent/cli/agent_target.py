"""Which agents a command of `lighter agent` asks, and as whom."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import click

from agent.base.errors import UsageError
from agent.server.flags import DEFAULT_CONTROL_SOCKET

if TYPE_CHECKING:
    from agent.control.client import ControlClient

_C = TypeVar("_C", bound=Callable[..., object])
_MOST_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class Agents:
    """Those that are asked."""

    addresses: tuple[str, ...]
    """`unix:/path` or `host:port`."""
    token_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    server_name: str = ""

    def client(self, address: str) -> AbstractAsyncContextManager[ControlClient]:
        """A client of one of them. Raises `UsageError`."""
        from agent.control.client import Target, connect

        target = Target(
            address=address,
            token=_read(self.token_file, "token").decode("utf-8", "replace").strip(),
            ca=_read(self.ca_file, "certificates"),
            certificate=_read(self.cert_file, "certificate"),
            key=_read(self.key_file, "key"),
            server_name=self.server_name,
        )
        return connect(target)

    @property
    def only(self) -> str:
        """The address, for commands that are about one agent. Raises `UsageError`."""
        if len(self.addresses) != 1:
            raise UsageError("this command is about one agent", hint="give one --address")
        return self.addresses[0]


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
        **kwargs: object,
    ) -> object:
        addresses = address or (f"unix:{os.path.abspath(socket)}",)
        agents = Agents(addresses, token_file, cacert, cert, key, server_name)
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
    ]
    wrapped: Callable[..., object] = decorated
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]


def _read(path: str, what: str) -> bytes:
    if not path:
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(_MOST_FILE)
    except OSError as error:
        raise UsageError(f"the {what} {path} cannot be read: {error.strerror}") from None
