"""The compiled BLAKE2b gives what the standard library's gives."""

import hashlib
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import _native

pytestmark = pytest.mark.skipif(not _native.blake2b_supported(), reason="this processor has no AVX2")


@given(st.binary(max_size=1200), st.binary(max_size=64), st.integers(1, 64))
def test_any_data_and_key(data: bytes, key: bytes, size: int) -> None:
    assert _native.blake2b(data, key, size) == hashlib.blake2b(data, key=key, digest_size=size).digest()


@pytest.mark.parametrize("length", [0, 1, 127, 128, 129, 255, 256, 257, 4095, 4096, 4097, 1 << 20])
def test_lengths_around_blocks(length: int) -> None:
    data = bytes(range(251)) * (length // 251 + 1)
    view = memoryview(data)[:length]
    assert _native.blake2b(view, b"k" * 32, 32) == hashlib.blake2b(view, key=b"k" * 32, digest_size=32).digest()


_LENGTHS = st.one_of(st.integers(0, 700), st.sampled_from([127, 128, 129, 4096, 65536, 70_001]))


@given(st.lists(_LENGTHS, max_size=11), st.binary(max_size=64), st.integers(1, 64), st.randoms(use_true_random=False))
def test_several_at_once_are_what_each_is_alone(lengths: list[int], key: bytes, size: int, random: Random) -> None:
    data = [random.randbytes(length) for length in lengths]
    expected = [hashlib.blake2b(item, key=key, digest_size=size).digest() for item in data]
    assert _native.blake2b_many(data, key, size) == expected
    assert _native.blake2b_many(tuple(map(memoryview, data)), key, size) == expected


def test_what_is_no_buffer_is_refused_and_the_others_are_let_go() -> None:
    data = bytearray(10)
    with pytest.raises(TypeError):
        _native.blake2b_many([data, "text"], b"", 32)  # type: ignore[list-item]
    data.append(1)  # a buffer that is still held could not grow


@pytest.mark.parametrize(("key", "size"), [(b"k" * 65, 32), (b"", 0), (b"", 65)])
def test_what_blake2b_cannot_be_is_refused(key: bytes, size: int) -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        _native.blake2b(b"", key, size)
    with pytest.raises(ValueError, match="64 bytes"):
        _native.blake2b_many([b""], key, size)
