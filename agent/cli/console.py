"""What a person or a script sees: lines, tables, JSON, errors.

Results go to standard output, everything else to standard error. With `--json` the last line of standard output is one
JSON value; errors are then one JSON object on standard error.
"""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from agent.base.errors import LighterageError


def print_json(value: object) -> None:
    """One compact JSON value on a line of its own. Dataclasses, Structs and plain values are accepted."""
    click.echo(msgspec.json.encode(value).decode())


def print_error(error: LighterageError, as_json: bool) -> None:
    """`lighter: [code] sentence` on standard error, with the hint on a line of its own."""
    if as_json:
        body = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
        click.echo(msgspec.json.encode(body).decode(), err=True)
        return
    click.echo(f"lighter: [{error.code}] {error.message}", err=True)
    if error.hint:
        click.echo(f"  {error.hint}", err=True)


def note(text: str) -> None:
    """A line for the person, on standard error."""
    click.echo(text, err=True)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """An aligned table; columns whose index is in `right` hold numbers."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, header in enumerate(headers):
        table.add_column(header, justify="right" if index in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console()
    if not console.is_terminal:
        console = Console(
            width=max(200, 2 + sum(max(len(r[i]) for r in [headers, *rows]) + 1 for i in range(len(headers))))
        )
    console.print(table)


def size_text(count: float) -> str:
    """Bytes for people: `12.5 MiB`."""
    from humanfriendly import format_size

    return str(format_size(count, binary=True))


def printable(name: bytes | str) -> str:
    """A file name that is safe to print: control characters and bad bytes are escaped."""
    text = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
