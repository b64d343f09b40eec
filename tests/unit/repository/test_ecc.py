"""Error correction: kopia's layout, repair, and its limits."""

import contextlib
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.base.errors import AlgorithmUnsupported, CorruptContent, CorruptFormat
from agent.repository.ecc import REED_SOLOMON, ErrorCorrection, new_cipher
from agent.repository.encryption import ContentCipher

_AES = "AES256-GCM-HMAC-SHA256"
_KEY = bytes(range(32))
_PERCENTS = [1, 2, 3, 4, 5, 7, 25, 100]


def _noise(length: int) -> bytes:
    return hashlib.shake_128(b"ecc").digest(length)


def test_wrapped_bytes_of_kopia_are_read_and_written(golden: Path) -> None:
    for vector in json.loads((golden / "vectors.json").read_text())["ecc"]:
        correction = ErrorCorrection(vector["overhead_percent"])
        wrapped, sealed = bytes.fromhex(vector["wrapped"]), bytes.fromhex(vector["sealed"])
        assert correction.unwrap(wrapped) == sealed
        assert correction.wrap(sealed) == wrapped


@pytest.mark.parametrize("percent", _PERCENTS)
def test_every_layout_reads_back_and_its_length_is_known_before(percent: int) -> None:
    correction = ErrorCorrection(percent)
    for length in (0, 1, 2, 7, 20, 500, 1100, 2100, 9000, 20_000, 50_000):
        data = _noise(length)
        wrapped = correction.wrap(data)
        assert len(wrapped) == correction.wrapped_length(length)
        assert correction.unwrap(wrapped) == data


@settings(max_examples=40)
@given(st.sampled_from([1, 5, 7]), st.integers(0, 30_000), st.data())
def test_two_damaged_spots_are_repaired_anywhere(percent: int, length: int, data: st.DataObject) -> None:
    correction = ErrorCorrection(percent)
    plaintext = _noise(length)
    damaged = bytearray(correction.wrap(plaintext))
    for _ in range(2):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    assert correction.unwrap(damaged) == plaintext


def test_a_stretch_of_a_quarter_is_repaired_when_the_overhead_allows_it() -> None:
    correction = ErrorCorrection(100)
    plaintext = _noise(6000)
    damaged = bytearray(correction.wrap(plaintext))
    start = len(damaged) * 6 // 10
    damaged[start : start + len(damaged) // 4] = bytes(len(damaged) // 4)
    assert correction.unwrap(damaged) == plaintext


def test_more_damage_than_parity_is_a_named_error() -> None:
    correction = ErrorCorrection(5)
    damaged = bytearray(correction.wrap(_noise(9000)))
    damaged[1000:2000] = bytes(1000)
    with pytest.raises(CorruptContent, match="damaged"):
        correction.unwrap(damaged)


@settings(max_examples=60)
@given(st.binary(max_size=3000), st.sampled_from(_PERCENTS))
def test_garbage_ends_in_a_named_error(garbage: bytes, percent: int) -> None:
    with contextlib.suppress(CorruptContent):
        ErrorCorrection(percent).unwrap(garbage)


@given(st.integers(0, 40_000))
@settings(max_examples=20)
def test_a_cipher_with_correction_is_used_like_one_without(length: int) -> None:
    cipher = new_cipher(_AES, _KEY, ecc=REED_SOLOMON, overhead_percent=5)
    data = _noise(length)
    out = memoryview(bytearray(cipher.sealed_length(length) + 3))
    written = cipher.seal_into(data, _KEY[:16], out)
    assert written == cipher.sealed_length(length)
    damaged = bytearray(out[:written])
    damaged[written // 2] ^= 1
    assert cipher.open(damaged, _KEY[:16]) == data
    with pytest.raises(CorruptContent):
        cipher.open(out[:written], _KEY[1:17])


def test_the_format_chooses_the_cipher() -> None:
    assert isinstance(new_cipher(_AES, _KEY), ContentCipher)
    assert isinstance(new_cipher(_AES, _KEY, ecc=REED_SOLOMON, overhead_percent=0), ContentCipher)
    with pytest.raises(AlgorithmUnsupported, match="RAID"):
        new_cipher(_AES, _KEY, ecc="RAID", overhead_percent=5)
    for percent in (-1, 101):
        with pytest.raises(CorruptFormat):
            new_cipher(_AES, _KEY, ecc=REED_SOLOMON, overhead_percent=percent)
