"""Signals end the agent in order, and at once when they come twice."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from agent.server.stopping import Stopping


async def test_the_first_signal_asks_and_the_second_cancels() -> None:
    stopping = Stopping()
    stopping.cancels(asyncio.current_task())

    async def agent() -> None:
        with stopping.on_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            await stopping.wait()
            assert not stopping.at_once
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        await agent()
    assert stopping.at_once


async def test_after_the_block_signals_are_as_before() -> None:
    stopping = Stopping()
    with stopping.on_signals():
        pass
    assert signal.getsignal(signal.SIGTERM) is not None
    assert not asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
