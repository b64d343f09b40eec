"""How `lighter agent watch` looks: a bar for each running job on a terminal, a line for each change of phase.

Lines of jobs that end stay on the screen above the bars.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from agent.cli.console import note, printable, size_text

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from agent.cli.agent_jobs import JobInfo

_FINAL = ("Completed", "Failed", "Canceled")


class Display:
    """What is on the screen. Without bars it prints lines only."""

    def __init__(self, bars: Progress | None) -> None:
        self._bars = bars
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._phases: dict[tuple[str, str], str] = {}

    def update(self, job: JobInfo, deleted: bool) -> None:
        """Show a job as it is now."""
        key = job.kind, job.name
        ended = deleted or job.phase in _FINAL
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
        why = job.message if job.phase in _FINAL else job.waiting_for
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
        return job.waiting_for or job.phase
    total = f" of {size_text(job.bytes_total)}" if job.bytes_total else ""
    return f"{size_text(job.bytes_done)}{total}" + (f", {job.errors} errors" if job.errors else "")
