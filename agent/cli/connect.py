"""`lighter connect` and `lighter disconnect`: remember a repository between commands."""

from __future__ import annotations

import os
from typing import Annotated

import click
import msgspec

from agent.cli.connection import Connection, Remembered, config_file, repository_options
from agent.cli.console import json_result, note, print_json


class ConnectResult(msgspec.Struct, frozen=True, rename={"unique_id": "uniqueID", "config_file": "configFile"}):
    """What is remembered now."""

    repo: Annotated[str, msgspec.Meta(description="URL of the repository")]
    unique_id: Annotated[str, msgspec.Meta(description="what tells this repository from others, hex")]
    config_file: Annotated[str, msgspec.Meta(description="where the connection is remembered")]


@click.command(
    epilog="\b\nExamples:\n  lighter connect --repo file:///backup --password-file ~/.pw\n"
    "  lighter connect --repo 's3://bucket/prefix/?region=eu-central-1' -p ~/.pw"
)
@json_result(ConnectResult)
@repository_options
def connect(connection: Connection, as_json: bool) -> None:
    """Open the repository once and remember where it is.

    The URL, the path of the password file and the cache folder are kept; the password and store credentials are not.
    """

    async def probe() -> str:
        async with connection.repository() as repository:
            return repository.format.unique_id.hex()

    unique_id = connection.run(probe())
    path = config_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    kept = Remembered(
        connection.url,
        os.path.abspath(connection.password_file) if connection.password_file else "",
        str(connection.cache_dir.absolute()) if connection.cache_dir else "",
    )
    temporary = path.with_suffix(".new")
    temporary.touch(mode=0o600)
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(kept)))
    temporary.replace(path)
    if as_json:
        print_json(ConnectResult(connection.url, unique_id, str(path)))
    else:
        note(f"Connected to {connection.url}; remembered in {path}.")


@click.command(epilog="\b\nExample:\n  lighter disconnect")
def disconnect() -> None:
    """Forget the remembered repository. Nothing in the repository changes."""
    path = config_file()
    path.unlink(missing_ok=True)
    note(f"Disconnected; {path} is gone.")
