"""From a click command into the event loop and back.

SIGINT and SIGTERM cancel the command's task once: the work ends in order (an interrupted backup is saved as incomplete)
and the process exits with the status of `CanceledError`. A second signal kills as usual.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import TypeVar

from agent.base.errors import CanceledError

_T = TypeVar("_T")


async def _until_signal(work: Coroutine[object, object, _T]) -> _T:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    signaled = False

    def cancel() -> None:
        nonlocal signaled
        signaled = True
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, cancel)
    try:
        return await task
    except asyncio.CancelledError:
        if signaled:
            raise CanceledError("canceled by a signal") from None
        raise


def run(work: Coroutine[object, object, _T], *, network: bool = False) -> _T:
    """Run one command's work to its end; `network` picks the faster loop for sockets (it costs start-up time)."""
    if network:
        import uvloop

        return uvloop.run(_until_signal(work))
    return asyncio.run(_until_signal(work))
