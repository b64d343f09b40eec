"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import click

from agent.base.errors import UsageError

_C = TypeVar("_C", bound=Callable[..., object])
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w|y)?\Z")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}
_TAG_PREFIX = "tag:"


def size_value(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int:
    """Callback of an option that takes bytes (`64MiB`, `10GB`, `1000`); 0 when it is not given."""
    if not value or value.isdecimal():  # the library is only worth its import for a unit
        return int(value or 0)
    from humanfriendly import InvalidSize, parse_size

    try:
        return int(parse_size(value, binary=False))
    except InvalidSize as error:
        raise click.BadParameter(str(error)) from error


def duration_value(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    """Callback of an option that takes a time span (`45m`, `36h`, `30d`); seconds."""
    if value is None:
        return None
    match = _DURATION.match(value.strip())
    if match is None:
        raise click.BadParameter(f"{value!r} is no time span; 90s, 45m, 36h, 30d and 1y are some")
    return float(match[1]) * _SECONDS[match[2] or "s"]


def path_argument(name: str) -> Callable[[_C], _C]:
    """A place in the file system. What is wrong with it is found out, and said, when it is opened."""
    return click.argument(name, type=click.Path(readable=False), callback=_some_path)


def _some_path(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """An empty one, such as a variable that is not set, would mean the current folder."""
    if not value:
        raise click.BadParameter("the path is empty")
    return value


def log_options(command: _C) -> _C:
    """`--log-level` and `--log-format`, of what runs in pods: named and meant as Velero's."""
    level = click.option(
        "--log-level",
        default="info",
        show_default=True,
        metavar="LEVEL",
        help="trace, debug, info, warning, error, fatal, panic.",
    )
    form = click.option(
        "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How lines look."
    )
    return level(form(command))


def source_filter(command: _C) -> _C:
    """`--source`: one source only."""
    return click.option("--source", metavar="USER@HOST:/PATH", help="Only snapshots of this source.")(command)


def tag_option(text: str) -> Callable[[_C], _C]:
    """`--tag`, repeatable; see `parse_tags`."""
    return click.option("--tag", "tags", multiple=True, metavar="KEY:VALUE", help=text)


def parse_tags(tags: tuple[str, ...]) -> dict[str, str]:
    """`key:value` pairs as they are stored: kopia puts `tag:` before the key. Raises `UsageError`."""
    parsed: dict[str, str] = {}
    for tag in tags:
        key, colon, value = tag.partition(":")
        if not (key and colon):
            raise UsageError(f"the tag {tag!r} is not of the form key:value")
        name = _TAG_PREFIX + key
        if name in parsed:
            raise UsageError(f"the tag {key!r} is given twice")
        parsed[name] = value
    return parsed
