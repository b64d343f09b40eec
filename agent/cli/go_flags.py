"""Options as Go's flag packages take them, for commands that replace a Go program.

`--flag=value` and `--flag value` are click's own; Go has durations (`10m0s`), lists in one value (`a,b`, repeatable)
and switches that may have a value (`--logtostderr`, `--logtostderr=true`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import click

_C = TypeVar("_C", bound=Callable[..., object])
_NS = 1e9
_GIVEN = "agent.cli.go_flags.ignored"


class GoDuration(click.ParamType[float]):
    """`10m0s`; the value is seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds, not negative."""
        from agent.kube.durations import parse_duration

        if isinstance(value, float):
            return value
        try:
            seconds = parse_duration(str(value)) / _NS
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if seconds < 0:
            self.fail(f"{value!r} is negative", param, ctx)
        return seconds


def comma_list(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Callback of a repeatable option whose values are lists: `--features a,b --features c`."""
    return tuple(part for value in values for one in value.split(",") if (part := one.strip()))


def ignored_flags(names: Iterable[str]) -> Callable[[_C], _C]:
    """Hidden options that are taken, with a value or without one, and left alone; see `ignored_given`."""

    def decorate(command: _C) -> _C:
        for name in names:
            declarations = [f"-{name}", "--v"] if len(name) == 1 else [f"--{name}"]
            command = click.option(
                *declarations,
                is_flag=False,
                flag_value="true",
                hidden=True,
                expose_value=False,
                multiple=True,
                callback=_remember,
            )(command)
        return command

    return decorate


def ignored_given(context: click.Context) -> tuple[str, ...]:
    """Those of `ignored_flags` that are on the command line."""
    given: list[str] = context.meta.get(_GIVEN, [])
    return tuple(sorted(given))


def _remember(context: click.Context, param: click.Parameter, values: tuple[str, ...]) -> None:
    if values:
        context.meta.setdefault(_GIVEN, []).append(max(param.opts, key=len))
