"""`lighter agent relay`: what `--node` runs in the pod of an agent to get to its socket."""

from __future__ import annotations

import click

from agent.cli.run import run
from agent.server.flags import DEFAULT_CONTROL_SOCKET


@click.command(hidden=True, epilog="\b\nExample:\n  lighter agent relay --socket /run/lighterage/control.sock")
@click.option("--socket", envvar="LIGHTER_CONTROL_SOCKET", default=DEFAULT_CONTROL_SOCKET, metavar="PATH")
def relay(socket: str) -> None:
    """Carry bytes between standard input and output and the control socket of this pod's agent."""
    from agent.control.relay import relay

    run(relay(socket))
