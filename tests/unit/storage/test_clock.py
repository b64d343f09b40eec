import asyncio

from agent.testing.clock import START_NS, VirtualClock


async def test_sleepers_wake_in_order_at_their_time_without_real_time() -> None:
    clock = VirtualClock()
    woken: list[tuple[str, float]] = []

    async def sleep(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic()))

    await asyncio.gather(sleep("late", 3600), sleep("early", 60), sleep("middle", 600))
    assert woken == [("early", 60), ("middle", 600), ("late", 3600)]
    assert clock.now_ns() == START_NS + 3600 * 10**9


async def test_a_clock_that_does_not_jump_moves_only_when_told() -> None:
    clock = VirtualClock(jump=False)
    task = asyncio.ensure_future(clock.sleep(5))
    await asyncio.sleep(0)
    clock.advance(4)
    await asyncio.sleep(0)
    assert not task.done()
    clock.advance(1)
    await task


async def test_a_canceled_sleeper_moves_nothing() -> None:
    clock = VirtualClock()
    task = asyncio.ensure_future(clock.sleep(1000))
    await asyncio.sleep(0)
    task.cancel()
    await clock.sleep(1)
    assert clock.monotonic() == 1
