"""`lighter completion SHELL`: the script that teaches a shell to complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(epilog="\b\nExample:\n  lighter completion bash | sudo tee /etc/bash_completion.d/lighter")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL; evaluate it in the shell's start-up file."""
    from agent.cli.main import lighter

    implementation = get_completion_class(shell)
    if implementation is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(implementation(lighter, {}, "lighter", "_LIGHTER_COMPLETE").source())
