"""Progress of long work: a bar on a terminal, one plain line every few seconds elsewhere.

Whoever works keeps counters; this module reads them from the event loop through a `frame` function, so the work never
waits for its display.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import click
import msgspec

from agent.cli.console import note, plural, printable, size_text

TERMINAL_INTERVAL_S = 0.2
LOG_INTERVAL_S = 5.0
_NARROW = 70
_WIDE = 100

progress_option = click.option(
    "--progress/--no-progress", default=True, help="Show progress on standard error.  [default: progress]"
)


class Frame(msgspec.Struct, frozen=True):
    """The state of the work at one moment."""

    bytes_done: int
    files_done: int
    current: bytes | str = ""
    bytes_total: int | None = None
    files_total: int | None = None
    errors: int = 0
    unit: str = "file"
    """What `files_done` counts."""

    @property
    def share(self) -> float | None:
        """How much of the work is done, 0 to 1: by bytes and files, since empty files take their time too."""
        shares = [
            done / total
            for done, total in ((self.bytes_done, self.bytes_total), (self.files_done, self.files_total))
            if total
        ]
        return min(sum(shares) / len(shares), 1.0) if shares else None

    def line(self, verb: str, elapsed_s: float) -> str:
        """One plain line for a log."""
        rate = size_text(self.bytes_done / elapsed_s) if elapsed_s > 0 else "0 bytes"
        total = f" of {size_text(self.bytes_total)}" if self.bytes_total else ""
        failed = f", {plural(self.errors, 'error')}" if self.errors else ""
        share = f"{self.share:.0%}, " if self.share is not None else ""
        done = f"{plural(self.files_done, self.unit)}, {size_text(self.bytes_done)}{total}"
        return f"{verb}: {share}{done}, {rate}/s{failed}"


@asynccontextmanager
async def shown(verb: str, frame: Callable[[], Frame], *, enabled: bool) -> AsyncIterator[None]:
    """Show `frame()` while the body runs; `verb` says what is being done. Nothing is shown unless `enabled`."""
    if not enabled:
        yield
        return
    show = _bar if sys.stderr.isatty() else _lines
    task = asyncio.create_task(show(verb, frame))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _lines(verb: str, frame: Callable[[], Frame]) -> None:
    started = time.monotonic()
    while True:
        await asyncio.sleep(LOG_INTERVAL_S)
        note(frame().line(verb, time.monotonic() - started))


async def _bar(verb: str, frame: Callable[[], Frame]) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    width = console.width
    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False)]
    columns.append(BarColumn(bar_width=max(8, min(40, width // 5))))
    columns.append(TextColumn("{task.fields[amount]}", markup=False))
    if width >= _NARROW:
        columns.append(TextColumn("{task.fields[rate]}", markup=False))
        columns.append(TimeRemainingColumn(compact=True))
    if width >= _WIDE:
        columns.append(TextColumn("{task.fields[current]}", markup=False))
    rate = _Rate()
    with Progress(*columns, console=console, transient=True, refresh_per_second=5, expand=False) as progress:
        task = progress.add_task(verb, total=None, amount=_amount(frame()), rate="", current="")
        while True:
            now = frame()
            progress.update(
                task,
                completed=(now.share or 0) * 1000,
                total=None if now.share is None else 1000,
                amount=_amount(now),
                rate=f"{size_text(rate.update(now.bytes_done))}/s",
                current=_shortened(now.current, width // 3),
            )
            await asyncio.sleep(TERMINAL_INTERVAL_S)


def _amount(now: Frame) -> str:
    errors = f", {plural(now.errors, 'error')}" if now.errors else ""
    return f"{plural(now.files_done, now.unit)}, {size_text(now.bytes_done)}{errors}"


def _shortened(name: bytes | str, width: int) -> str:
    """A path that fits: its end, which tells most."""
    from rich.cells import cell_len, set_cell_size

    text = printable(name)
    if cell_len(text) <= width:
        return text
    while cell_len(text) > width - 1:
        text = text[max(1, cell_len(text) - width + 1) // 2 or 1 :]
    return set_cell_size("…" + text, width).rstrip()


class _Rate:
    """Bytes per second over the last seconds."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def update(self, done: int) -> float:
        now = time.monotonic()
        self._seen = [(at, count) for at, count in self._seen if now - at < 5] + [(now, done)]
        first_at, first = self._seen[0]
        return (done - first) / (now - first_at) if now > first_at else 0.0
