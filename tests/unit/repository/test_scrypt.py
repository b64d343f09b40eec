"""scrypt in an eighth of its memory gives the same keys."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import _native
from agent.repository.kdf import scrypt


def test_the_vector_of_the_standard_with_p_1() -> None:
    key = scrypt(b"pleaseletmein", b"SodiumChloride", n=16384, r=8, length=64)
    # RFC 7914 §12
    assert key.hex().startswith("7023bdcb3afd7348461c06cd81fd38eb")
    assert key == hashlib.scrypt(b"pleaseletmein", salt=b"SodiumChloride", n=16384, r=8, p=1, dklen=64)


@settings(max_examples=60, deadline=None)
@given(
    secret=st.binary(min_size=1, max_size=80),
    salt=st.binary(min_size=16, max_size=64),
    log_n=st.integers(1, 10),
    r=st.integers(1, 12),
)
def test_every_key_is_what_the_interpreter_computes(secret: bytes, salt: bytes, log_n: int, r: int) -> None:
    assert scrypt(secret, salt, n=1 << log_n, r=r, length=32) == hashlib.scrypt(
        secret, salt=salt, n=1 << log_n, r=r, p=1, dklen=32
    )


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 7, 64])
def test_the_stride_changes_memory_only(stride: int) -> None:
    block = bytes(range(256)) * 4
    assert _native.scrypt_romix(block, 64, stride) == _native.scrypt_romix(block, 64, 1)


@pytest.mark.parametrize("r", [1, 8, 9])
def test_every_processor_computes_the_same(r: int) -> None:
    block = bytes(range(128)) * r
    assert _native.scrypt_romix(block, 256, 8, True) == _native.scrypt_romix(block, 256, 8)


@pytest.mark.parametrize(
    ("size", "n", "stride"), [(0, 16, 1), (100, 16, 1), (128 * 65, 16, 1), (128, 15, 1), (128, 1, 1), (128, 16, 0)]
)
def test_nonsense_is_refused(size: int, n: int, stride: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        _native.scrypt_romix(bytes(size), n, stride)
