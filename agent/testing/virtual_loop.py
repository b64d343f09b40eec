"""An event loop in virtual time, for tests that run many schedules: deterministic, and as fast as its callbacks.

    with VirtualLoop() as loop:
        loop.run_until_complete(main(loop.clock))

The loop has no sockets, no threads and no signals: when no callback is ready, time jumps to the next timer, and when
there is none either, everything waits for what can never come and `Deadlock` is raised. The order of callbacks depends
on nothing but the program, so that a seed repeats a run exactly, as long as the program takes order from nothing else
(sets of objects, hashes of strings, the machine's clock). `agent.testing.clock` is for tests on an ordinary loop.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from agent.testing.clock import START_NS

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike


class Deadlock(Exception):
    """Every task waits, and none of them for time."""


class LoopClock:
    """A `Clock` of one virtual loop, whose wall clock can be set as an administrator would."""

    def __init__(self, loop: VirtualLoop, start_ns: int) -> None:
        self._loop = loop
        self._start_ns = start_ns

    def now_ns(self) -> int:
        """Virtual unix time in nanoseconds, with all steps."""
        return self._start_ns + round(self._loop.time() * 1e9)

    def monotonic(self) -> float:
        """Virtual seconds since the loop was made; steps do not change it."""
        return self._loop.time()

    def step(self, seconds: float) -> None:
        """Set the wall clock forward, or back."""
        self._start_ns += round(seconds * 1e9)

    async def sleep(self, seconds: float) -> None:
        """Wait until virtual time has gone on by `seconds`."""
        await asyncio.sleep(max(0.0, seconds))


class _TimeSelector(selectors.BaseSelector):
    """What a loop asks to wait for input or time: there is no input, and time comes at once."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        self._jump = jump
        self._keys: dict[object, selectors.SelectorKey] = {}

    def register(self, fileobj: FileDescriptorLike, events: int, data: object = None) -> selectors.SelectorKey:
        """Remember it; nothing ever happens to it."""
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, number, events, data)
        return key

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        """Forget it."""
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Let `timeout` go by."""
        if timeout is None:
            raise Deadlock("every task waits, and none of them for time")
        if timeout > 0:
            self._jump(timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """What was registered."""
        return self._keys


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop. As a context manager it ends what still runs, and closes."""

    def __init__(self, start_ns: int = START_NS) -> None:
        self._virtual_now = 0.0
        self._start_ns = start_ns
        super().__init__(_TimeSelector(self._jump))
        self.clock = LoopClock(self, start_ns)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual_now

    def new_clock(self) -> LoopClock:
        """Another machine's clock: the same time, but steps of its own."""
        return LoopClock(self, self._start_ns)

    def _jump(self, seconds: float) -> None:
        self._virtual_now += seconds

    def __enter__(self) -> VirtualLoop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = sorted(asyncio.all_tasks(self), key=lambda task: task.get_name())
        for task in tasks:
            task.cancel()
        if tasks:
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.run_until_complete(self.shutdown_asyncgens())
        self.close()
