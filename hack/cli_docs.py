"""Write docs/cli.md from the commands, their result schemas and the error tree: `python -m hack.cli_docs`.

A test compares the file with what this makes, so the reference cannot fall behind.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import msgspec

from agent.base import errors
from agent.cli.main import lighter

TARGET = Path(__file__).resolve().parent.parent / "docs" / "cli.md"

_INTRO = """\
# The `lighter` command

<!-- Made by `python -m hack.cli_docs` from the commands themselves; edit those. -->

Results go to standard output, progress, warnings and errors to standard error.

**Which repository.** `--repo URL`, else `LIGHTER_REPO` of the environment, else what `lighter connect` remembered.
`URL` is a folder, `file:///abs/path` or `s3://bucket/prefix?endpoint=http://127.0.0.1:8333&region=us-east-1&path_style=true`;
keys for S3 come from the AWS environment, profile or credential file.

**Which password.** `--password-file FILE`, else `LIGHTER_PASSWORD_FILE`, else `LIGHTER_PASSWORD`, else the file that
`lighter connect` remembered, else a prompt on a terminal. White space around it does not count. It is never taken from
the command line, where other users of the machine could read it.

**Which snapshot.** `SNAPSHOT` is an id, the start of one that no other has, or `latest`: the newest complete one, of
`--source` when given. `SNAPSHOT/sub/path` is what lies there.

**Whose snapshot.** A source is `user@host:/path`. By default the user is the OS user, the host is the host name up to
its first dot in lower case, the path is absolute: as kopia has it, so that both continue each other's histories.

**JSON.** With `--json` the last line of standard output is one JSON value of the schema below each command. Fields may
be added, none is renamed or removed. Text that is not UTF-8 shows U+FFFD. Sizes are bytes, times RFC 3339 in UTC.
An error is one JSON value on standard error: `{"error": {"code": …, "message": …, "hint": …}}`. When a command ends
with an error after its work was done (`snapshot.partial`, `snapshot.verification-failed`), its result is printed all
the same.

**Signals.** The first SIGINT or SIGTERM ends the work in order, with exit status 3: an interrupted backup saves what
there is as an incomplete snapshot, and an interrupted restore goes on where it stopped when it is run again. A second
one ends it at once.
"""

_CONNECTION_OPTIONS = (
    "repo",
    "password_file",
    "cache_dir",
    "no_cache",
    "cache_limit",
    "limit_upload",
    "limit_download",
    "parallel_requests",
)


def render() -> str:
    """The whole document."""
    parts = [_INTRO, "## Options of every command that opens a repository\n"]
    some = lighter.get_command(click.Context(lighter), "snapshots")
    assert some is not None
    parts.append(_options([p for p in some.params if p.name in _CONNECTION_OPTIONS]))
    parts.append("## Commands\n")
    for path, command in commands():
        parts.append(_command(path, command))
    parts.append(_exit_statuses())
    return "\n".join(parts)


def commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(lighter)
    for name in lighter.list_commands(context):
        command = lighter.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            for below in sorted(command.commands):
                yield f"{name} {below}", command.commands[below]
        else:
            yield name, command


def _command(path: str, command: click.Command) -> str:
    context = click.Context(command, info_name=f"lighter {path}")
    usage = " ".join(["lighter", path, *command.collect_usage_pieces(context)])
    parts = [f"### `lighter {path}`\n", inspect.cleandoc(command.help or "").replace("\b\n", "") + "\n"]
    parts.append(f"```\n{usage}\n```\n")
    own = [p for p in command.params if isinstance(p, click.Option) and not _is_connection(command, p)]
    if own:
        parts.append(_options(own))
    if len(own) < sum(isinstance(p, click.Option) for p in command.params):
        parts.append("And the options of every command that opens a repository.\n")
    examples = [line.strip() for line in (command.epilog or "").splitlines() if line.strip().startswith("lighter")]
    parts.append("```sh\n" + "\n".join(examples) + "\n```\n")
    schema = getattr(command.callback, "json_schema", None)
    if schema is not None:
        parts.append(_schema(schema))
    return "\n".join(parts)


def _is_connection(command: click.Command, option: click.Parameter) -> bool:
    names = {p.name for p in command.params}
    return option.name in _CONNECTION_OPTIONS and names.issuperset(_CONNECTION_OPTIONS)


def _options(options: Sequence[click.Parameter]) -> str:
    rows = []
    for option in options:
        assert isinstance(option, click.Option)
        record = option.get_help_record(click.Context(lighter))
        if record is not None:
            rows.append(f"| `{_cell(record[0])}` | {_cell(record[1])} |")
    return "\n".join(["| option | |", "|---|---|", *rows, ""])


def _schema(schema: type[msgspec.Struct]) -> str:
    (_,), components = msgspec.json.schema_components([schema], ref_template="{name}")
    ordered = sorted(components, key=lambda name: name != schema.__name__)
    parts = []
    for name in ordered:
        title = "`--json` prints" if name == schema.__name__ else f"`{name}`"
        rows = [
            f"| `{field}` | {_type(spec)} | {_cell(_describe(spec))} |"
            for field, spec in components[name].get("properties", {}).items()
        ]
        parts += [f"{title}:\n", "| field | type | |", "|---|---|---|", *rows, ""]
    return "\n".join(parts)


def _describe(spec: dict[str, object]) -> str:
    return str(spec.get("description", ""))


def _type(spec: dict[str, object]) -> str:
    match spec:
        case {"$ref": str(name)}:
            return f"`{name}`"
        case {"anyOf": list(choices)}:
            return " or ".join(_type(choice) for choice in choices)
        case {"enum": list(values)}:
            return " or ".join(f"`{value}`" for value in values)
        case {"type": "array", "items": dict(items)}:
            return f"list of {_type(items)}"
        case {"type": "object", "additionalProperties": dict(values)}:
            return f"object of {_type(values)}"
        case {"type": str(name)}:
            return name
    raise ValueError(f"no text for the schema {spec}")


def _exit_statuses() -> str:
    rows = ["| status | code | can help to try again | |", "|---|---|---|---|", "| 0 | | | Done. |"]
    for leaf in sorted(leaves(), key=lambda leaf: (leaf.exit_status, leaf.code)):
        again = "yes" if leaf.retryable else ""
        meaning = re.sub(r"\s+", " ", inspect.getdoc(leaf) or "")
        rows.append(f"| {leaf.exit_status} | `{leaf.code}` | {again} | {_cell(meaning)} |")
    rows.append("| 141 | | | Whoever read standard output went away (`lighter ls … \\| head`). |")
    text = "Every error prints its stable code. Status 1 without a code is a defect; please report it."
    return "\n".join(["## Exit statuses\n", text, "", *rows, ""])


def leaves() -> list[type[errors.LighterageError]]:
    """Every error of the tree."""
    found: list[type[errors.LighterageError]] = []
    todo: list[type[errors.LighterageError]] = [errors.LighterageError]
    while todo:
        error = todo.pop()
        if error.__module__ == errors.__name__:
            found.append(error)
            todo.extend(error.__subclasses__())
    return found


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
