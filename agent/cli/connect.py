"""`lighter connect` and `lighter disconnect`: remember a repository between commands."""

from __future__ import annotations

import click
import msgspec

from agent.cli.connection import Connection, Remembered, config_file, json_option, repository_options
from agent.cli.console import note, print_json
from agent.cli.run import run


@click.command()
@repository_options
@json_option
def connect(connection: Connection, as_json: bool) -> None:
    """Open the repository once and remember where it is.

    The URL, the path of the password file and the cache folder are kept; the password and store credentials are not.
    """

    async def probe() -> str:
        async with connection.repository(read_only=True) as repository:
            return repository.format.unique_id.hex()

    unique_id = run(probe(), network=connection.network)
    path = config_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    kept = Remembered(connection.url, connection.password_file, str(connection.cache_dir or ""))
    temporary = path.with_suffix(".new")
    temporary.touch(mode=0o600)
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(kept)))
    temporary.replace(path)
    if as_json:
        print_json({"repo": connection.url, "uniqueID": unique_id, "configFile": str(path)})
    else:
        note(f"Connected to {connection.url}; remembered in {path}.")


@click.command()
def disconnect() -> None:
    """Forget the remembered repository. Nothing in the repository changes."""
    path = config_file()
    path.unlink(missing_ok=True)
    note(f"Disconnected; {path} is gone.")
