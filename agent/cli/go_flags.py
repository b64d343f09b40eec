"""Options as Go's flag packages take them, for commands that replace a Go program.

`--flag=value` and `--flag value` are click's own; Go has durations (`10m0s`), lists in one value (`a,b`, repeatable)
and switches that may have a value (`--logtostderr`, `--logtostderr=true`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import click
from click.core import ParameterSource

_C = TypeVar("_C", bound=Callable[..., object])
_NS = 1e9


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
    """Hidden options that are taken, with a value or without one, and left alone."""

    def decorate(command: _C) -> _C:
        for name in names:
            declarations = [f"-{name}", "--v"] if len(name) == 1 else [f"--{name}"]
            command = click.option(
                *declarations, is_flag=False, flag_value="true", hidden=True, expose_value=False, multiple=True
            )(command)
        return command

    return decorate


def given_in_vain(context: click.Context) -> tuple[str, ...]:
    """Options on the command line whose values the command does not get."""
    return tuple(
        sorted(
            max(param.opts, key=len)
            for param in context.command.params
            if not param.expose_value and context.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
        )
    )
