"""SIGTERM and SIGINT: the first one ends the agent in order, the second one at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_log = structlog.stdlib.get_logger(__name__)


class Stopping:
    """Whether the agent is to end, and how fast."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.at_once = False
        """Whether it was told twice."""

    @property
    def is_asked(self) -> bool:
        """Whether it was told to end."""
        return self._asked.is_set()

    def cancels(self, task: asyncio.Task[None] | None) -> None:
        """Cancel `task` when it is told twice."""
        self._task = task

    async def wait(self) -> None:
        """Until it is told to end."""
        await self._asked.wait()

    def ask(self) -> None:
        """End: in order the first time, at once the second."""
        if not self._asked.is_set():
            self._asked.set()
        elif not self.at_once and self._task is not None:
            self.at_once = True
            self._task.cancel()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """For the time of the block signals ask."""
        loop = asyncio.get_running_loop()

        def on_signal(number: signal.Signals) -> None:
            _log.info("told to end", signal=number.name, at_once=self.is_asked)
            self.ask()

        for number in _SIGNALS:
            loop.add_signal_handler(number, on_signal, number)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
