"""`lighter maintenance info`: who maintains the repository, when, and what is due. It runs nothing."""

from __future__ import annotations

import time
from typing import Annotated

import click
import msgspec

from agent.base.times import format_rfc3339
from agent.cli.connection import Connection, repository_options
from agent.cli.console import duration_text, json_result, print_facts, print_json, print_table, say, time_text

_NANOSECONDS = 1_000_000_000


class CycleInfo(msgspec.Struct, frozen=True, rename="camel"):
    """One kind of maintenance."""

    enabled: bool
    interval_seconds: int
    next_time: Annotated[str | None, msgspec.Meta(description="when it is due, RFC 3339; null: as soon as possible")]


class TaskInfo(msgspec.Struct, frozen=True, rename="camel"):
    """The last run of one task."""

    task: str
    start_time: str
    end_time: str
    success: bool
    error: str
    runs: Annotated[int, msgspec.Meta(description="how many runs are remembered")]


class MaintenanceResult(msgspec.Struct, frozen=True, rename="camel"):
    """How maintenance stands."""

    owner: Annotated[str, msgspec.Meta(description="`user@host` of the client that runs it, empty for nobody")]
    quick: CycleInfo
    full: CycleInfo
    due: Annotated[str, msgspec.Meta(description="what the owner would run now: `nothing`, `quick` or `full`")]
    tasks: Annotated[list[TaskInfo], msgspec.Meta(description="by name")]


@click.group(epilog="\b\nExample:\n  lighter maintenance info")
def maintenance() -> None:
    """Show who maintains the repository and what is due."""


@maintenance.command(epilog="\b\nExamples:\n  lighter maintenance info\n  lighter maintenance info --json")
@json_result(MaintenanceResult)
@repository_options
def info(connection: Connection, as_json: bool) -> None:
    """Show owner, schedule, last runs and what is due.

    Maintenance gives back the space of what was forgotten. Its owner runs it: Velero's maintenance jobs, or kopia.
    """

    async def work() -> MaintenanceResult:
        from agent.repository.maintenance import MANIFEST_LABELS, due, parse_parameters, read_schedule

        async with connection.repository(ignore_damaged=True) as repository:
            found = repository.manifests.find(MANIFEST_LABELS)
            parameters = parse_parameters(found[-1].data if found else b"{}")
            schedule = await read_schedule(repository.storage, repository.format)
        tasks = [
            TaskInfo(
                name, format_rfc3339(runs[0].start_ns), format_rfc3339(runs[0].end_ns), runs[0].success, runs[0].error,
                len(runs),
            )
            for name, runs in sorted(schedule.runs.items())
            if runs
        ]  # fmt: skip
        return MaintenanceResult(
            parameters.owner,
            _cycle(parameters.quick.enabled, parameters.quick.interval, schedule.next_quick_ns),
            _cycle(parameters.full.enabled, parameters.full.interval, schedule.next_full_ns),
            due(parameters, schedule, time.time_ns()).value,
            tasks,
        )

    result = connection.run(work())
    if as_json:
        print_json(result)
        return
    print_facts(
        [
            ("Owner", result.owner or "nobody: maintenance never runs"),
            ("Quick", _cycle_text(result.quick)),
            ("Full", _cycle_text(result.full)),
            ("Due now", result.due),
        ]
    )
    if result.tasks:
        say()
        rows = [
            (task.task, _local(task.end_time), "ok" if task.success else f"failed: {task.error}", str(task.runs))
            for task in result.tasks
        ]
        print_table(("TASK", "LAST RUN", "RESULT", "RUNS"), rows, right=(3,))


def _cycle(enabled: bool, interval_ns: int, next_ns: int | None) -> CycleInfo:
    return CycleInfo(enabled, interval_ns // _NANOSECONDS, None if next_ns is None else format_rfc3339(next_ns))


def _cycle_text(cycle: CycleInfo) -> str:
    if not cycle.enabled:
        return "never"
    when = "as soon as possible" if cycle.next_time is None else f"at {_local(cycle.next_time)}"
    return f"every {duration_text(cycle.interval_seconds)}, next {when}"


def _local(text: str) -> str:
    from agent.base.times import parse_rfc3339

    return time_text(parse_rfc3339(text))
