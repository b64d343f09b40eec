"""A switch that makes work stand still where it asks, on the event loop and in threads, until it is opened again."""

from __future__ import annotations

import asyncio
import threading


class Hold:
    """Open at first. It is closed and opened on the event loop; anybody may ask."""

    def __init__(self) -> None:
        self._threads = threading.Event()
        self._loop = asyncio.Event()
        self.set(closed=False)

    @property
    def is_closed(self) -> bool:
        """Whether work is to stand still. Either side."""
        return not self._threads.is_set()

    def set(self, *, closed: bool) -> None:
        """From now on; who waits goes on at once when it is opened."""
        for side in (self._threads, self._loop):
            if closed:
                side.clear()
            else:
                side.set()

    async def passed(self) -> None:
        """Wait until it is open."""
        if self.is_closed:
            await self._loop.wait()

    def wait(self, seconds: float) -> bool:
        """Thread side: wait until it is open, for at most so long; whether it is."""
        return self._threads.wait(seconds)
