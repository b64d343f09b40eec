"""docs/cli.md, the help texts and the JSON that commands print agree."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from agent.cli.main import lighter as root
from hack import cli_docs
from tests.unit.cli.conftest import Lighter, Place

_WITHOUT_RESULT = {"agent relay", "completion", "disconnect", "mover hold", "mover run"}
"""Commands that print none; that of a mover pod is its termination message."""


def _commands() -> Iterator[tuple[str, click.Command]]:
    return cli_docs.commands()


def _schema(path: str) -> type[msgspec.Struct]:
    schema: type[msgspec.Struct] = dict(_commands())[path].callback.json_schema  # type: ignore[union-attr]
    return schema


def _examples(command: click.Command) -> list[str]:
    lines = [line.strip() for line in (command.epilog or "").splitlines()]
    return [line for line in lines if line.startswith("lighter ")]


def _parse(words: list[str]) -> None:
    """Have click parse a command line without running it."""
    context = click.Context(root, info_name="lighter")
    command: click.Command = root
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, words
        command, words = found, words[1:]
        context = click.Context(command, parent=context)
    command.make_context(command.name, words)


def test_the_reference_is_current() -> None:
    assert cli_docs.TARGET.read_text(encoding="utf-8") == cli_docs.render(), "run `python -m hack.cli_docs`"


def test_every_error_of_the_tree_is_in_the_table() -> None:
    text = cli_docs.TARGET.read_text(encoding="utf-8")
    for leaf in cli_docs.leaves():
        assert f"| {leaf.exit_status} | `{leaf.code}` |" in text


@pytest.mark.parametrize("path", [path for path, _ in _commands()])
def test_every_command_has_examples_that_parse(path: str) -> None:
    command = dict(_commands())[path]
    examples = _examples(command)
    assert examples, "no example"
    for example in examples:
        words = shlex.split(example.split("|")[0], comments=True)
        _parse(words[1:])


@pytest.mark.parametrize("path", [path for path, _ in _commands()])
def test_every_command_that_has_a_result_gives_it_as_json(path: str) -> None:
    options = {option for param in dict(_commands())[path].params for option in param.opts}
    assert ("--json" in options) == (path not in _WITHOUT_RESULT)


def test_the_epilog_of_lighter_itself_parses() -> None:
    for example in _examples(root):
        _parse(shlex.split(example)[1:])


def test_every_result_is_of_its_documented_schema(lighter: Lighter, place: Place, tmp_path: Path) -> None:
    at = (*place.options, "--json")
    new = ("--repo", f"file://{tmp_path}/new", "--password-file", place.password_file, "--json")
    (tmp_path / "new-password").write_text("secret")
    runs: dict[str, tuple[Any, ...]] = {
        "repository create": new,
        "connect": at,
        "backup": (place.tree, "--tag", "a:b", "--pin", "p", *at),
        "snapshots": at,
        "restore": ("latest", tmp_path / "out", *at),
        "ls": ("-R", "latest", *at),
        "cat": ("latest/etc/motd", *at),
        "find": ("*", *at),
        "diff": ("latest/etc", "latest", *at),
        "verify": at,
        "repository verify": at,
        "repository status": ("--blobs", *at),
        "repository repair-index": at,
        "repository change-password": ("--new-password-file", tmp_path / "new-password", *at),
        "maintenance info": at,
        "forget": ("latest", *at),
        "benchmark": ("--seconds", "0.01", "hashes", "ciphers", "store", *new[:2], "--store-bytes", "10kB", "--json"),
    }
    of_agents = {path for path, _ in _commands() if path.startswith("agent ")}
    elsewhere = _WITHOUT_RESULT | of_agents  # these are held to their schemas by test_agent and test_control_api
    assert set(runs) == {path for path, command in _commands()} - elsewhere
    for path, args in runs.items():
        outcome = lighter(*path.split(), *args)
        assert outcome.status == 0, (path, outcome.stderr)
        last = outcome.stdout.splitlines()[-1].encode()
        result = msgspec.json.decode(last, type=_schema(path), strict=True)
        assert msgspec.json.decode(msgspec.json.encode(result)) == msgspec.json.decode(last), path


def test_help_loads_nothing_heavy() -> None:
    heavy = "{'asyncio', 'rich', 'cryptography', 'aiobotocore', 'humanfriendly', 'agent.repository', 'agent.snapshots'}"
    script = f"""
import sys
sys.argv = ["lighter", "--help"]
from agent.cli.main import main
try:
    main()
except SystemExit:
    pass
loaded = {heavy} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "backup" in done.stdout


def test_a_backup_to_a_folder_loads_only_what_it_needs(place: Place, tmp_path: Path) -> None:
    heavy = {"aiohttp", "aiobotocore", "grpc", "kubernetes", "lz4", "rich", "structlog", "uvloop"}
    heavy |= {f"agent.{name}" for name in ("control", "jobs", "kube", "movers", "server", "storage.s3")}
    heavy |= {"agent.repository.create", "agent.repository.repair", "agent.snapshots.upload_device"}
    command = ["lighter", "backup", str(place.tree), "--cache-dir", str(tmp_path), *place.options]
    script = f"""
import sys
sys.argv = {command!r}
from agent.cli.main import main
try:
    main()
except SystemExit as done:
    assert not done.code, done.code
loaded = {heavy} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
