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


def test_a_pack_that_fills_slowly_gets_memory_of_its_own_that_no_other_pack_gets() -> None:
    buffers = PackBuffers(USUAL, LARGEST, 2)
    buffer = used(buffers)
    slow = buffers.acquire(1, slow=True)
    assert slow is not buffer
    assert slow[:] == bytes(SIZE)
    assert len(buffers.acquire(SIZE + 1, slow=True)) == SIZE + 1
    buffers.release(slow)
    assert buffers.acquire(1) is buffer
    assert buffers.acquire(1) is not slow


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
