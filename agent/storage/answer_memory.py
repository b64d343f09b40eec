"""Where the bytes of an answer go: memory that was used before when there is much of it.

Fresh memory costs a page fault for every 4 KiB, more than reading a file or a socket into it.
"""

from __future__ import annotations

import asyncio

from agent import _native
from agent.base.scratch import scratch

_LARGE = 1 << 20
_WHOLE = 4 << 20
_KEPT = 8 << 20


class AnswerMemory:
    """Memory for the answers of one store; at most 8 MiB that nobody uses are kept. Any thread may call it."""

    def __init__(self) -> None:
        self._blocks = _native.BlockPool(_KEPT)

    def take(self, length: int, *, whole: bool) -> memoryview:
        """Writable room for `length` bytes with whatever is in it; it comes back when the last view of it is gone.

        Parts of blobs are asked for piece by piece, by callers who bound how many they hold. Of `whole` blobs that
        cannot be said, a compacted index may have hundreds of megabytes: large ones stay off the heap.
        """
        if _needs_file(length, whole=whole):
            return memoryview(scratch(length))
        return self._blocks.take(length) if length >= _LARGE else memoryview(bytearray(length))

    async def take_on_loop(self, length: int, *, whole: bool) -> memoryview:
        """As `take`, for the event loop: making a file may have to wait for a disk."""
        if _needs_file(length, whole=whole):
            return await asyncio.to_thread(self.take, length, whole=True)
        return self.take(length, whole=whole)


def _needs_file(length: int, *, whole: bool) -> bool:
    return whole and length >= _WHOLE
