"""Waiting for an event or for a time, or for either of two ways, on a clock that may be virtual."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

from agent.base.clock import Clock

_SHORTEST = 1e-6
"""Seconds; a rest of a wait that rounds to no time at all would be waited for again and again."""


async def either(*ways: Coroutine[object, object, object]) -> None:
    """Until one way has ended; then both have."""
    tasks = [asyncio.create_task(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def wait_for_event(clock: Clock, event: asyncio.Event, seconds: float) -> bool:
    """Whether `event` was set within `seconds`. Both inner tasks are ended before this returns or is canceled."""
    if event.is_set() or seconds <= 0:
        return event.is_set()
    await either(event.wait(), clock.sleep(max(seconds, _SHORTEST)))
    return event.is_set()


async def within(clock: Clock, seconds: float, work: Coroutine[object, object, None]) -> bool:
    """Do `work`, unless it takes longer than `seconds`: then it is canceled. Whether it came to its end.

    Raises what `work` raises. Both inner tasks are ended before this returns or is canceled.
    """
    task, patience = asyncio.ensure_future(work), asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait((task, patience), return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended = task.done()
        for each in (task, patience):
            each.cancel()
        await asyncio.gather(task, patience, return_exceptions=True)
    if ended:
        task.result()
    return ended
