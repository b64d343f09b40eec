import sys
import threading

import pytest

from agent._native import BlockPool

MIB = 1 << 20


def test_memory_comes_back_when_its_last_view_is_gone() -> None:
    pool = BlockPool(16 * MIB)
    view = pool.take(3 * MIB + 1)
    assert (len(view), view.readonly, view.contiguous, pool.kept) == (3 * MIB + 1, False, True, 0)
    part = view[MIB : 2 * MIB]
    part[:] = b"x" * MIB
    del view
    assert pool.kept == 0
    assert part == b"x" * MIB
    del part
    assert pool.kept == 4 * MIB


def test_kept_memory_is_used_again_smallest_first() -> None:
    pool = BlockPool(16 * MIB)
    large, small = pool.take(5 * MIB), pool.take(2 * MIB)
    small[:4] = b"mark"
    del large, small
    again = pool.take(MIB)
    assert again[:4] == b"mark"
    assert pool.kept == 5 * MIB
    assert len(pool.take(5 * MIB)) == 5 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="memory that is kept is made larger by mremap")
def test_kept_memory_is_made_larger_rather_than_left_beside_fresh() -> None:
    pool = BlockPool(16 * MIB)
    view = pool.take(2 * MIB)
    view[:4] = b"mark"
    del view
    larger = pool.take(7 * MIB)
    assert (len(larger), bytes(larger[:4]), pool.kept) == (7 * MIB, b"mark", 0)
    larger[-4:] = b"last"
    del larger
    assert pool.kept == 7 * MIB


def test_no_more_is_kept_than_may_be() -> None:
    pool = BlockPool(4 * MIB)
    for length in (3 * MIB, 2 * MIB, 5 * MIB):
        del (views := [pool.take(length) for _ in range(4)])[:]
        assert views == []
        assert pool.kept <= 4 * MIB
    none = BlockPool(0)
    none.take(MIB)
    assert none.kept == 0


def test_a_view_outlives_its_pool() -> None:
    view = BlockPool(MIB).take(100)
    view[:] = bytes(range(100))
    assert bytes(view) == bytes(range(100))


@pytest.mark.parametrize("length", [0, -1, (1 << 63) - 1])
def test_impossible_lengths_are_refused(length: int) -> None:
    with pytest.raises((ValueError, MemoryError)):
        BlockPool(MIB).take(length)


def test_threads_never_get_the_same_memory() -> None:
    pool = BlockPool(8 * MIB)
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(200):
            view = pool.take(64)
            view[:] = bytes([number]) * 64
            if view != bytes([number]) * 64:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
