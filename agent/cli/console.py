"""What a person or a script sees: lines, tables, JSON, errors.

Results go to standard output, everything else to standard error. With `--json` the last line of standard output is one
JSON value; errors are then one JSON object on standard error. Names come from volumes and repositories, so whatever is
printed for people goes through `printable`: no name can move the cursor. A reader that goes away (`lighter ls | head`)
ends the command quietly, as it ends any other.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import click
import msgspec

from agent.base.errors import LighterageError

_C = TypeVar("_C", bound=Callable[..., object])

SIGPIPE_STATUS = 141
"""What a shell reports of a program whose reader went away."""
_LOCAL_TIME = "%Y-%m-%d %H:%M:%S"


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """Around writing to standard output: exits quietly when nobody reads it any more."""
    try:
        yield
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise SystemExit(SIGPIPE_STATUS) from None


def say(text: str = "") -> None:
    """A line of the result, on standard output."""
    with reader_may_leave():
        click.echo(text)


def note(text: str) -> None:
    """A line for the person, on standard error."""
    click.echo(text, err=True)


def warn(text: str) -> None:
    """Something worth saying that is no error, on standard error."""
    note(f"warning: {printable(text)}")


def print_json(value: object) -> None:
    """One compact JSON value on a line of its own. Dataclasses, Structs and plain values are accepted."""
    say(msgspec.json.encode(_valid(msgspec.to_builtins(value))).decode())


def _valid(value: object) -> object:
    """The same, with U+FFFD for what has no place in JSON: halves of surrogates, which stand for bytes not UTF-8."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_valid(key): _valid(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_valid(item) for item in value]
    return value


def print_error(error: LighterageError, as_json: bool) -> None:
    """`lighter: [code] sentence` on standard error, with the hint on a line of its own."""
    if as_json:
        body = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
        note(msgspec.json.encode(_valid(body)).decode())
        return
    note(f"lighter: [{error.code}] {printable(error.message)}")
    if error.hint:
        note(f"  {printable(error.hint)}")


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """An aligned table, as wide as its cells; columns whose index is in `right` hold numbers.

    Rows are never cut or wrapped: ids must stay whole to be copied, and pipes have no width.
    """
    from rich.cells import cell_len

    widths = [max(cell_len(row[i]) for row in (headers, *rows)) for i in range(len(headers))]

    def line(cells: Sequence[str]) -> str:
        padded = []
        for index, cell in enumerate(cells):
            space = " " * (widths[index] - cell_len(cell))
            padded.append(space + cell if index in right else cell + space)
        return "  ".join(padded).rstrip()

    say(click.style(line(headers), bold=True))
    for row in rows:
        say(line([printable(cell) for cell in row]))


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Names and values, one a line, values aligned."""
    width = max(len(name) for name, _ in facts) + 1
    for name, value in facts:
        say(f"{name + ':':<{width}}  {printable(value)}")


def size_text(count: float) -> str:
    """Bytes for people: `12.5 MiB`."""
    from humanfriendly import format_size

    return str(format_size(round(count), binary=True))


def duration_text(seconds: float) -> str:
    """Seconds for people: `1 minute and 3.5 seconds`."""
    from humanfriendly import format_timespan

    return str(format_timespan(seconds, max_units=2))


def time_text(ns: int) -> str:
    """A time for people, in their own time zone; a time that cannot be shown is left as text of its number."""
    from datetime import datetime

    try:
        return datetime.fromtimestamp(ns // 1_000_000_000).astimezone().strftime(_LOCAL_TIME)
    except (OverflowError, ValueError, OSError):
        return f"@{ns // 1_000_000_000}"


def plural(count: int, one: str, many: str = "") -> str:
    """`1 file`, `3 files`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def printable(name: bytes | str) -> str:
    """A file name that is safe to print: control characters and bad bytes are escaped."""
    text = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def json_result(schema: type[msgspec.Struct]) -> Callable[[_C], _C]:
    """The option `--json` of a command that then prints one value of this schema; docs/cli.md describes it."""

    def decorate(command: _C) -> _C:
        option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON value.")
        decorated = option(command)
        decorated.json_schema = schema  # type: ignore[attr-defined]
        return decorated

    return decorate
