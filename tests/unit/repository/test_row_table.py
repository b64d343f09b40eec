"""Where contents that are being written lie, as the native table keeps it."""

import random
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent._native import RowTable

batches_of_contents = st.sampled_from([2, 17, 29, 33, 65]).flatmap(
    lambda size: st.lists(
        st.lists(st.binary(min_size=size, max_size=size) | st.integers(0, 99).map(lambda n: n.to_bytes(size))),
        max_size=10,
    )
)


def contents(count: int, *, size: int = 17, seed: int = 0) -> list[bytes]:
    source = random.Random(seed)
    return [source.randbytes(size) for _ in range(count)]


def place(rows: RowTable, first: int, count: int, pack: int = 0) -> None:
    rows.place(first, pack, 0, [28] * count, [0] * count, [0] * count, [1] * count)


@given(batches_of_contents, st.sets(st.integers(0, 9)))
def test_a_content_is_claimed_once_by_this_table_or_the_others(batches: list[list[bytes]], elsewhere: set[int]) -> None:
    others, rows = [RowTable(), RowTable()], RowTable()
    model: list[set[bytes]] = [set(), set(), set()]
    claimed: list[bytes] = []
    for number, batch in enumerate(batches):
        if number in elsewhere:
            others[number % 2].claim(batch, [])
            model[number % 2] |= set(batch)
            continue
        expected = []
        for position, content in enumerate(batch):
            if not any(content in seen for seen in model):
                expected.append(position)
                model[2].add(content)
                claimed.append(content)
        assert rows.claim(batch, others) == expected
    assert len(rows) == len(claimed)
    assert all((content in rows) == (content in model[2]) for batch in batches for content in batch)
    place(rows, 0, len(claimed))
    assert [rows.row(number)[0] for number in rows.select()] == claimed


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.integers(0, 1 << 30),
            st.lists(
                st.tuples(
                    st.integers(0, (1 << 28) - 1),
                    st.integers(0, (1 << 32) - 1),
                    st.integers(0, (1 << 32) - 1),
                    st.integers(0, (1 << 64) - 1),
                ),
                max_size=4,
            ),
        ),
        max_size=10,
    ),
    st.randoms(use_true_random=False),
)
def test_places_are_kept_whatever_order_they_come_in(
    batches: list[tuple[int, int, list[tuple[int, int, int, int]]]], order: random.Random
) -> None:
    rows, expected = RowTable(), {}
    keys = iter(contents(40))
    claims = []
    for pack, offset, values in batches:
        batch = [next(keys) for _ in values]
        claims.append((len(rows), pack, offset, values))
        starts = accumulate((packed for packed, *_ in values), initial=offset)
        for number, (content, start, value) in enumerate(zip(batch, starts, values, strict=False), len(rows)):
            expected[number] = (content, pack, start, *value)
        rows.claim(batch, [])
    order.shuffle(claims)
    for first, pack, offset, values in claims:
        rows.place(first, pack, offset, *([value[column] for value in values] for column in range(4)))
    assert {number: rows.row(number) for number in rows.select()} == expected
    for pack in range(4):
        assert rows.select(pack) == [number for number, row in expected.items() if row[1] == pack]


@pytest.mark.parametrize(
    "make",
    [
        lambda n: n.to_bytes(17, "big"),
        lambda n: n.to_bytes(17, "little"),
        lambda n: b"k" + (n << 64).to_bytes(32, "big"),
    ],
)
def test_it_grows_with_contents_that_are_no_hashes_too(make) -> None:  # type: ignore[no-untyped-def]
    rows, keys = RowTable(), [make(n) for n in range(20_000)]
    for first in range(0, len(keys), 100):
        assert len(rows.claim(keys[first : first + 150], [])) == (150 if first == 0 else 100 if first < 19_900 else 50)
    assert len(rows) == 20_000
    assert all(key in rows for key in keys)
    assert rows.claim(keys, []) == []


@pytest.mark.parametrize("size", [0, 1, 66, 255])
def test_contents_of_impossible_lengths_are_refused(size: int) -> None:
    rows = RowTable()
    with pytest.raises(ValueError, match="2 to 65 bytes"):
        rows.claim([bytes(size)], [])
    assert len(rows) == 0


def test_contents_of_another_length_are_refused_and_none_of_their_batch_is_added() -> None:
    rows = RowTable()
    with pytest.raises(ValueError, match="all the same"):
        rows.claim([bytes(17), bytes(29)], [])
    assert len(rows) == 0
    assert rows.claim([bytes(29)], []) == [0]
    with pytest.raises(ValueError, match="all the same"):
        rows.claim([b"1" * 29, bytes(17)], [])
    assert len(rows) == 1
    assert b"1" * 29 not in rows
    assert bytes(17) not in rows
    other = RowTable()
    assert other.claim([bytes(17)], [rows]) == [0]


@pytest.mark.parametrize("bad", ["content", bytearray(17), None, 17])
def test_what_is_no_content_is_refused_and_in_no_table(bad: object) -> None:
    rows = RowTable()
    rows.claim([bytes(17)], [])
    with pytest.raises(ValueError, match="contents"):
        rows.claim([b"1" * 17, bad], [])  # type: ignore[list-item]
    assert len(rows) == 1
    assert bad not in rows
    with pytest.raises(TypeError):
        rows.claim([bytes(17)], [{}])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("first", "pack", "offset", "columns"),
    [
        (3, 0, 0, ([1], [1], [0], [1])),
        (1, 0, 0, ([1, 1, 1], [1, 1, 1], [0, 0, 0], [1, 1, 1])),
        (1 << 31, 0, 0, ([1], [1], [0], [1])),
        (1, (1 << 32) - 1, 0, ([1], [1], [0], [1])),
        (1, 1 << 32, 0, ([1], [1], [0], [1])),
        (1, -1, 0, ([1], [1], [0], [1])),
        (1, 0, 1 << 32, ([1], [1], [0], [1])),
        (1, 0, (1 << 32) - 1, ([1, 1], [1, 1], [0, 0], [1, 1])),
        (1, 0, 0, ([1], [1, 1], [0], [1])),
        (1, 0, 0, ([1, 1 << 32], [1, 1], [0, 0], [1, 1])),
        (1, 0, 0, ([1, 1], [1, -1], [0, 0], [1, 1])),
        (1, 0, 0, ([1, 1], [1, 1], [0, 0], [1, 1 << 64])),
        (0, 0, 0, ([1, 1], [1, 1], [0, 0], [1, 1])),
    ],
)
def test_places_of_nothing_or_beyond_their_bits_are_refused_and_none_of_them_is_kept(
    first: int, pack: int, offset: int, columns: tuple[list[int], ...]
) -> None:
    rows = RowTable()
    rows.claim(contents(3), [])
    place(rows, 0, 1, pack=7)
    with pytest.raises(ValueError):
        rows.place(first, pack, offset, *columns)  # type: ignore[call-arg, arg-type]
    assert [number for pack in range(10) for number in rows.select(pack)] == [0]
    place(rows, 1, 2)


def test_a_row_without_a_place_and_one_that_is_not_there_are_refused() -> None:
    rows = RowTable()
    rows.claim(contents(1), [])
    for number in (0, 1, 1 << 32, -1):
        with pytest.raises(ValueError):
            rows.row(number)


@pytest.fixture
def undisturbed() -> Iterator[None]:
    """No other thread runs, and finds no memory, unless this one waits."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("undisturbed")
def test_a_claim_that_finds_no_memory_adds_nothing() -> None:
    testing = pytest.importorskip("_testcapi")
    old, new = contents(100), contents(1100, seed=1)
    rows = RowTable()
    rows.claim(old, [])
    place(rows, 0, len(old))
    before = rows.index()

    def claim(allocations: int) -> bool:
        testing.set_nomemory(allocations, 0)
        try:
            rows.claim(new, [])
        except MemoryError:
            return False
        finally:
            testing.remove_mem_hooks()
        return True

    failures = 0
    while not claim(failures):
        failures += 1
        assert len(rows) == len(old)
        assert not any(content in rows for content in new)
        assert rows.index() == before
    assert failures > 100  # for the table, and for the positions
    assert len(rows) == len(old) + len(new)
    assert all(content in rows for content in old + new)


def test_indexes_of_packs_are_right_while_other_threads_add_rows() -> None:
    rows, lock, wrong = RowTable(), threading.Lock(), []

    def write(pack: int) -> None:
        mine: list[bytes] = []
        for batch in range(50):
            keys = contents(40, seed=pack * 1000 + batch)
            with lock:
                first = len(rows)
                rows.claim(keys, [])
            place(rows, first, len(keys), pack)
            mine += keys
            entries, key_size, value_size, packs, _ = rows.index(pack)
            size = key_size + value_size
            found = [entries[at : at + key_size] for at in range(0, len(entries), size)]
            if found != sorted(mine) or packs != [pack]:
                wrong.append(pack)

    threads = [threading.Thread(target=write, args=(pack,)) for pack in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(rows) == 8000


def test_a_row_takes_less_than_a_hundred_bytes_and_all_of_it_goes_with_the_table() -> None:
    batches = [contents(100, seed=seed) for seed in range(200)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        rows = RowTable()
        for batch in batches:
            assert len(rows.claim(batch, [])) == 100
            place(rows, len(rows) - 100, 100)
        assert tracemalloc.get_traced_memory()[0] - before < 100 * len(rows)
        rows.index()
        del rows
        assert tracemalloc.get_traced_memory()[0] - before < 10_000
    finally:
        tracemalloc.stop()
