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
from dataclasses import dataclass

from agent.cli.console import note, printable, size_text

TERMINAL_INTERVAL_S = 0.2
LOG_INTERVAL_S = 5.0


@dataclass(frozen=True, slots=True)
class Frame:
    """The state of the work at one moment."""

    bytes_done: int
    files_done: int
    current: bytes | str = ""
    bytes_total: int | None = None
    errors: int = 0

    def line(self, verb: str, elapsed_s: float) -> str:
        """One plain line for a log."""
        rate = size_text(self.bytes_done / elapsed_s) if elapsed_s > 0 else "0 bytes"
        total = f" of {size_text(self.bytes_total)}" if self.bytes_total else ""
        failed = f", {self.errors} errors" if self.errors else ""
        return f"{verb}: {self.files_done} files, {size_text(self.bytes_done)}{total}, {rate}/s{failed}"


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
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.text import Text

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TextColumn("{task.fields[files]} files"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[current]}", markup=False),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, refresh_per_second=5) as progress:
        task = progress.add_task(verb, total=None, files=0, current="")
        while True:
            now = frame()
            name = Text(printable(now.current))
            name.truncate(max(10, console.width - 90), overflow="ellipsis")
            progress.update(
                task, completed=now.bytes_done, total=now.bytes_total, files=now.files_done, current=name.plain
            )
            await asyncio.sleep(TERMINAL_INTERVAL_S)
