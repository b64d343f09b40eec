"""The work queue: each key once, one worker a key, delays in virtual time, an orderly end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agent.kube.backoff import Backoff
from agent.kube.meta import Key
from agent.kube.workqueue import WorkQueue
from agent.testing.clock import VirtualClock

A, B = Key("n", "a"), Key("n", "b")


@asynccontextmanager
async def _queue() -> AsyncIterator[tuple[WorkQueue, VirtualClock]]:
    clock = VirtualClock()
    queue = WorkQueue(clock, random.Random(1), Backoff(1.0, 60.0, jitter=0.0))
    task = asyncio.ensure_future(queue.run())
    yield queue, clock
    queue.close()
    await task


async def test_a_key_added_often_is_taken_once() -> None:
    async with _queue() as (queue, _):
        for key in (A, B, A, A):
            queue.add(key)
        assert [await queue.get(), await queue.get()] == [A, B]
        assert len(queue) == 0


async def test_a_key_added_while_in_work_comes_back_afterwards_and_only_then() -> None:
    async with _queue() as (queue, _):
        queue.add(A)
        await queue.get()
        queue.add(A)
        queue.add(A)
        assert len(queue) == 0
        queue.done(A)
        assert await queue.get() == A
        queue.done(A)
        assert len(queue) == 0


async def test_failures_wait_longer_each_time_until_forgotten() -> None:
    async with _queue() as (queue, clock):
        taken = []
        for _ in range(8):
            queue.retry(A)
            assert await queue.get() == A
            taken.append(clock.monotonic())
            queue.done(A)
        assert [b - a for a, b in zip([0.0, *taken], taken, strict=False)] == [1, 2, 4, 8, 16, 32, 60, 60]
        queue.forget(A)
        queue.retry(A)
        await queue.get()
        assert clock.monotonic() - taken[-1] == 1


async def test_of_several_delays_the_earliest_counts_once() -> None:
    async with _queue() as (queue, clock):
        queue.add_after(A, 50)
        queue.add_after(A, 10)
        queue.add_after(A, 20)
        assert await queue.get() == A
        assert clock.monotonic() == 10
        queue.done(A)
        await clock.sleep(100)
        assert len(queue) == 0


async def test_a_server_that_asks_for_a_longer_pause_gets_it() -> None:
    async with _queue() as (queue, clock):
        queue.retry(A, at_least=30)
        await queue.get()
        assert clock.monotonic() == 30


async def test_closing_drains_what_is_ready_and_drops_what_is_delayed() -> None:
    async with _queue() as (queue, _):
        queue.add(A)
        queue.add_after(B, 10)
        queue.close()
        queue.add(B)
        assert await queue.get() == A
        queue.done(A)
        assert await queue.get() is None


async def test_every_waiting_worker_ends_when_the_queue_closes() -> None:
    async with _queue() as (queue, _):
        workers = [asyncio.ensure_future(queue.get()) for _ in range(3)]
        await asyncio.sleep(0)
        queue.close()
        assert await asyncio.gather(*workers) == [None] * 3


async def test_a_canceled_worker_loses_no_key() -> None:
    async with _queue() as (queue, _):
        first, second = asyncio.ensure_future(queue.get()), asyncio.ensure_future(queue.get())
        await asyncio.sleep(0)
        queue.add(A)
        first.cancel()
        assert await second == A


def test_a_back_off_is_capped_and_never_below_its_share() -> None:
    backoff, rng = Backoff(0.5, 30.0), random.Random(3)
    assert all(15 <= backoff.delay(failures, rng) <= 30 for failures in (7, 100, 10_000))
    assert 0.25 <= backoff.delay(1, rng) <= 0.5
