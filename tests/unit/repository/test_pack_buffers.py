"""The mappings that packs are filled in, and what of them takes memory."""

import mmap

from agent.repository.pack_writer import PackBuffers

USUAL = 4 * mmap.PAGESIZE
LARGEST = 2 * mmap.PAGESIZE
SIZE = USUAL + LARGEST


def used(buffers: PackBuffers) -> mmap.mmap:
    """A mapping that was filled and given back."""
    buffer = buffers.acquire(SIZE)
    buffer[:] = b"x" * SIZE
    buffers.release(buffer)
    return buffer


def test_a_used_mapping_is_kept_for_the_next_pack_without_what_few_packs_need() -> None:
    buffers = PackBuffers(USUAL, LARGEST, 1)
    buffer = used(buffers)
    assert buffers.acquire(1) is buffer
    assert buffer[:USUAL] == b"x" * USUAL
    assert buffer[USUAL:] == bytes(LARGEST)


def test_a_pack_that_may_stay_small_gets_a_mapping_that_nobody_has_touched() -> None:
    buffers = PackBuffers(USUAL, LARGEST, 1)
    buffer = used(buffers)
    fresh = buffers.acquire(1, fresh=True)
    assert fresh is not buffer
    assert fresh[:] == bytes(SIZE)
    assert buffers.acquire(1) is buffer


def test_no_more_mappings_are_kept_than_asked_for_and_none_of_another_size() -> None:
    buffers = PackBuffers(USUAL, LARGEST, 1)
    kept, other, large = buffers.acquire(1), buffers.acquire(1), buffers.acquire(SIZE + 1)
    assert len(large) == SIZE + 1
    for buffer in (large, kept, other):
        buffers.release(buffer)
    assert buffers.acquire(1) is kept
    assert buffers.acquire(1) not in (kept, other, large)


def test_a_cleared_pool_gives_fresh_mappings() -> None:
    buffers = PackBuffers(USUAL, LARGEST, 1)
    buffer = used(buffers)
    buffers.clear()
    assert buffers.acquire(1) is not buffer
