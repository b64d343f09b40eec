"""`lighter agent watch`: a bar for each running job on a terminal, a line for each change of phase.

Lines of jobs that end stay on the screen above the bars.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import click
import msgspec

from agent.base.errors import ControlJobFailed, LighterageError
from agent.cli.agent_job import FINAL, JobInfo, job_id, job_info
from agent.cli.agent_target import Agent, Agents, agent_options
from agent.cli.console import json_result, note, print_json, printable, size_text
from agent.cli.progress import progress_option
from agent.cli.run import run

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class WatchLine(msgspec.Struct, frozen=True):
    """One change."""

    job: JobInfo
    deleted: Annotated[bool, msgspec.Meta(description="whether the object is gone")]


@click.command(
    epilog="\b\nExamples:\n  lighter agent watch\n  lighter agent watch du/nightly-7x2kq\n"
    "  lighter agent watch --node all\n"
    "  lighter agent watch --until-finished --address 10.0.0.4:8087 --address 10.0.0.5:8087 --token-file token"
)
@json_result(WatchLine)
@click.argument("job", metavar="[KIND/NAME]", required=False)
@click.option("--all-nodes", is_flag=True, help="Also those of other nodes, and of none.")
@click.option("--until-finished", is_flag=True, help="End when everything has ended.")
@progress_option
@agent_options
def watch(
    agents: Agents, as_json: bool, job: str | None, all_nodes: bool, until_finished: bool, progress: bool
) -> None:
    """Show how jobs go: a bar for each that runs, a line for each that ends.

    Of one job, or of all that have not ended; then until it is interrupted, or all have ended. A job that was named and
    does not end well makes the command end with `control.job-failed`. With --json each change is one line.
    """
    from agent.control.v1 import jobs_pb2

    request = jobs_pb2.WatchJobsRequest(until_finished=until_finished)
    if job is not None:
        request.id.CopyFrom(job_id(job))
    else:
        request.filter.CopyFrom(jobs_pb2.JobFilter(all_nodes=all_nodes))
    last: list[JobInfo] = []

    async def follow(agent: Agent, display: Display | None) -> None:
        async with agents.client(agent) as client:
            caught_up = False
            async for message in client.watch(request):
                if message.HasField("job"):
                    info = job_info(message.job)
                    is_old = not caught_up and info.phase in FINAL and job is None
                    if not is_old:
                        _show(info, message.deleted, as_json, display)
                        last[:] = [info]
                caught_up = caught_up or message.caught_up

    async def work() -> None:
        try:
            async with (
                agents.reached() as found,
                shown_as_bars(enabled=progress and not as_json) as display,
                asyncio.TaskGroup() as group,
            ):
                for agent in found:
                    group.create_task(follow(agent, display))
        except* LighterageError as errors:
            raise errors.exceptions[0] from None

    run(work())
    if job is not None and last and last[0].phase in ("Failed", "Canceled"):
        raise ControlJobFailed(f"{job} is {last[0].phase}: {last[0].message or 'it does not say why'}")


def _show(info: JobInfo, deleted: bool, as_json: bool, display: Display | None) -> None:
    if as_json:
        print_json(WatchLine(info, deleted))
    elif display is not None:
        display.update(info, deleted)


class Display:
    """What is on the screen. Without bars it prints lines only."""

    def __init__(self, bars: Progress | None) -> None:
        self._bars = bars
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._phases: dict[tuple[str, str], str] = {}

    def update(self, job: JobInfo, deleted: bool) -> None:
        """Show a job as it is now."""
        key = job.kind, job.name
        ended = deleted or job.phase in FINAL
        state = "deleted" if deleted else job.phase
        if self._phases.get(key) != state and (ended or self._bars is None):
            self._say(job, state)
        self._phases[key] = state
        if self._bars is None:
            return
        if ended:
            task = self._tasks.pop(key, None)
            if task is not None:
                self._bars.remove_task(task)
            return
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(_name(job), total=None, amount="")
        self._bars.update(
            self._tasks[key], completed=job.bytes_done, total=job.bytes_total, amount=printable(_amount(job))
        )

    def _say(self, job: JobInfo, state: str) -> None:
        why = job.message if job.phase in FINAL else job.waiting_for
        text = f"{_name(job)}: {state}, {_amount(job)}" + (f": {printable(why)}" if why else "")
        if self._bars is None:
            note(text)
        else:
            self._bars.console.print(text, markup=False, highlight=False)


@asynccontextmanager
async def shown_as_bars(*, enabled: bool) -> AsyncIterator[Display | None]:
    """A display for the time of the block, None when nothing is to be shown."""
    if not enabled:
        yield None
        return
    if not sys.stderr.isatty():
        yield Display(None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=5) as bars:
        yield Display(bars)


def _name(job: JobInfo) -> str:
    where = f" on {job.node}" if job.node else ""
    return printable(f"{job.kind}/{job.name}{where}")


def _amount(job: JobInfo) -> str:
    if job.phase != "InProgress" and not job.bytes_done:
        return job.waiting_for or job.state()
    total = f" of {size_text(job.bytes_total)}" if job.bytes_total else ""
    return (
        f"{size_text(job.bytes_done)}{total}"
        + (f", {job.errors} errors" if job.errors else "")
        + (", paused" if job.paused else "")
    )
