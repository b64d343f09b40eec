"""From a click command into the event loop and back.

The first SIGINT or SIGTERM ends the work in order: it cancels the command's task, or the command's own `interrupt` says
that it ends by itself (an interrupted backup is saved as incomplete, once it has begun). A second one cancels the task
in any case, a third kills as usual. The process exits with the status of `CanceledError`.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TypeVar

from agent import _native
from agent.base.errors import CanceledError

_T = TypeVar("_T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


async def _until_signal(work: Coroutine[object, object, _T], interrupt: Callable[[], bool] | None) -> _T:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    signaled = False
    gentle = interrupt

    def on_signal() -> None:
        nonlocal signaled, gentle
        signaled = True
        if gentle is not None:
            ends_itself, gentle = gentle(), None
            if ends_itself:
                return
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
        if task is not None:
            task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        return await work
    except asyncio.CancelledError:
        if signaled:
            raise CanceledError("canceled by a signal") from None
        raise


def run(
    work: Coroutine[object, object, _T], *, network: bool = False, interrupt: Callable[[], bool] | None = None
) -> _T:
    """Run one command's work to its end; `network` picks the faster loop for sockets (it costs start-up time)."""
    _native.return_large_blocks()
    gc.freeze()  # what has been imported stays: collections need not look at it
    if network:
        import uvloop

        return uvloop.run(_until_signal(work, interrupt))
    return asyncio.run(_until_signal(work, interrupt))


@contextmanager
def importing() -> Iterator[None]:
    """While much is imported: that makes many objects and no garbage, and what it makes stays.

    Nothing is collected meanwhile, and no later collection looks at what is there at the end.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
