"""The compiled search in sorted index keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent._native import find_key, find_keys

_KEYS = st.binary(min_size=3, max_size=3)


@given(st.sets(_KEYS), st.integers(0, 9), st.integers(0, 5), st.lists(_KEYS))
def test_keys_are_found_where_they_are_and_nowhere_else(
    keys: set[bytes], base: int, gap: int, others: list[bytes]
) -> None:
    table = sorted(keys)
    buffer = bytes(base) + b"".join(key + b"\xff" * gap for key in table)
    wanted = table + others
    positions = {key: at for at, key in enumerate(table)}
    expected = [positions.get(key, -1) for key in wanted]
    assert [find_key(buffer, base, 3 + gap, 3, len(table), key) for key in wanted] == expected
    found = find_keys(buffer, base, 3 + gap, 3, len(table), b"".join(wanted))
    assert memoryview(found).cast("q").tolist() == expected
    assert find_key(buffer, base, 3 + gap, 3, len(table), b"ab") == -1


@given(st.binary(max_size=40), *[st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 41)] * 4, st.binary(max_size=8))
def test_tables_that_lead_out_of_the_buffer_are_refused(
    buffer: bytes, base: int, stride: int, key_size: int, count: int, key: bytes
) -> None:
    inside = 0 <= base <= len(buffer) and 0 < key_size <= stride and 0 <= count <= (len(buffer) - base) // stride
    if inside:
        assert -1 <= find_key(buffer, base, stride, key_size, count, key) < max(count, 1)
    else:
        for function in (find_key, find_keys):
            with pytest.raises(ValueError, match="buffer"):
                function(buffer, base, stride, key_size, count, key)


def test_a_part_of_a_key_is_refused() -> None:
    with pytest.raises(ValueError, match="whole"):
        find_keys(bytes(16), 0, 8, 4, 2, bytes(5))
