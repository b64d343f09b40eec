"""Cuts: against kopia's on a fixed stream, and against a plain rendering of the two rolling hashes."""

import hashlib
import json
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import _native
from agent.base.errors import AlgorithmUnsupported
from agent.repository.splitter import new_splitter

_TABLE = struct.unpack(
    ">256I",
    bytes.fromhex("""
07fcfd52 5f3f164f 6695721d 7b4d7c03 49c6e2d1 0d1d68d8 7916001e 22c4d294
392907a0 189deb99 f3875d04 95e94627 ba517936 83c471d4 7cb3ad0b a42655d9
7c4e0b68 d4491d1b 25632186 a9d78d73 169c1121 bb158644 b68e6a3f 759805f5
2cdf5b8a 57d29245 c5d6d268 6b83d0e2 7674cb74 b068d9db bb9457d8 a15d523b
794209ff 9da1d7eb 5a25e0cb f840ec4b 36d4ff9b f4a5ee3b 5ad145f4 f6740304
3f71f8cb 91018d7c fccae224 b186b51f 7d9e8fbc 93f93f33 f63a5b6f 19476c36
bc897d06 169873f5 724c7af1 581eeb39 2257bb7d 6f269a28 be8e9981 7039374b
25416fed ded7e411 6678e7aa 244fcd36 56aa6b86 de4561ad 3e99b0a8 bed80a3a
e58348b0 af63e58d 406aec9d c233f007 a5ead0bd 050143a6 738b6829 3699caf3
967cd710 06f665a6 25fd3d7f 0fd6e479 26fbf29b 16de4c35 2bf3394b 4af864ba
1cb9e6c6 41439089 69a39144 c34f182d 421657ff f9fc6568 8b02c917 6c9c64b7
83d17909 ea3d4ca5 af635d47 7fc78769 be14186f 3539b1ea e9174548 c051e18a
07b73658 29ec300c a250bf34 a7ed5d97 fe3dea79 b8b352f7 c9b344e9 8e5f0475
1941e52a 2694763d 6b40eabc 8485d68b 336eacca 4399a363 67149b9c ae10a901
5a5ffefb 563b26de 6f00f02b 9f06397d 545836c4 31d6416b 12f4128d 752f33ff
4a305605 0c8dc214 72521a90 8eb3e4a1 83efc6c6 090ec04f c1540864 ec2c8aaa
70ab53ba 38d3b494 878d4063 a317ae3f 3cb62f07 f360412c 4ffbf3a9 22d554b4
3f190476 0796a710 f5c353cf 04f59bb7 2d230176 e2d6a9ce 3f1d7427 afd915bb
b01aa47d cde2c269 7417bf38 1e094f9a 55ece0ea cb94539b 13d346b5 54e0c0c1
6db30e37 dc02b390 a6e222f5 e2f8c1fe 2e166bdf 67588a74 21898f34 4c330f1d
19af53ba 70658b94 133c9673 4efeeadd 0f212551 070f0914 6f241c57 f13e41b7
3be70cb0 f4b6f47f 20f31127 6551cb89 289cbd2c 8946f23d 40a79c3b 03c6d982
0365790c 0cf52517 0bb131e8 3da5475c 139efcca bcd44eb4 a54af747 b73c32ed
9f6c47ac e8ba8f22 54043a66 3b0a7f20 b4926431 e17c02d5 8f0d2558 014fbff2
7f803594 79b76fbe 33fe2656 792c8ee8 6b41292d fdff9c32 82093298 59483870
b2d5a113 2dd96e5a 5b8e56a9 ebd9dda9 04f9ce92 cb440950 a67e52b1 49f6d261
92417fc3 1c3b6bd9 b027b7e0 1f765a41 44c9ab40 45d99121 fd7a84af 99b75788
e3abff4a a88aa67f 736e41cc 9cbcbe5e 7b3ccebc e1b7fa93 315ae6af 9cced2e2
19ea0f2f a9770722 84a6bfdc 88f03f07 a44a03a4 27a6b885 b580c8ba 018153da
b648e604 51180278 893a310f 728f5f4c 37f5198b 3cc0ea9b e39d02db 13883142
ca599392 c12d154e c176163d 5c92e2b8 f9f95ede b802bdfc 8a928585 dca6e10b
887953e8 48b9e962 e533e9a3 5e0ce6e5 1dba77ae c8214b8a 53b428d7 4cf20a65
"""),
)
_POLYNOMIAL = 0x2E3E3E4A305605


def _buzhash(window: bytes) -> int:
    value = 0
    for byte in window:
        value = (value << 1 | value >> 31) & 0xFFFFFFFF ^ _TABLE[byte]
    return value


def _rabin_karp(window: bytes) -> int:
    value = int.from_bytes(window, "big")
    while (excess := value.bit_length() - _POLYNOMIAL.bit_length()) >= 0:
        value ^= _POLYNOMIAL << excess
    return value


def _plain_cut(function: Any, data: bytes, arguments: tuple[int, int, int, int, int]) -> int:
    length, scanned, minimum, maximum, mask = arguments
    for at in range(max(minimum, scanned + 1), min(length, maximum) + 1):
        if function(data[at - 64 : at]) & mask == 0:
            return at
    return maximum if length >= maximum else 0


def test_the_reference_hash_gives_the_documented_values() -> None:
    assert _buzhash(bytes(range(64))) == 0xD9B0C9CF
    assert _buzhash(bytes(64)) == _buzhash(b"x" * 64) == 0


def _portable_buzhash_cut(*arguments: Any) -> int:
    """What processors without wide look-ups do."""
    return _native.buzhash_cut(*arguments, True)


_CASES = [
    (_native.buzhash_cut, _buzhash),
    (_portable_buzhash_cut, _buzhash),
    (_native.rabin_karp_cut, _rabin_karp),
]


@settings(max_examples=60)
@given(
    st.sampled_from(_CASES),
    st.binary(min_size=1, max_size=64),
    st.integers(0, 3000),
    st.integers(0, 1000),
    st.integers(64, 700),
    st.integers(0, 3000),
    st.sampled_from([0, 1, 0x3F, 0x3FF, 0xFFFF]),
)
def test_the_compiled_search_finds_what_the_plain_one_finds(
    case: Any, seed: bytes, length: int, scanned: int, minimum: int, room: int, mask: int
) -> None:
    native, plain = case
    data = hashlib.shake_128(seed).digest(3000)
    data = data[:1500] + bytes(200) + data[1700:]
    arguments = (length, scanned, minimum, minimum + room, mask)
    assert native(data, *arguments) == _plain_cut(plain, data, arguments)


@pytest.mark.parametrize("seed", [b"a", b"b", b"c"])
def test_the_search_does_not_depend_on_the_processor(seed: bytes) -> None:
    data = hashlib.shake_128(seed).digest(3 << 20) + bytes(100_000) + hashlib.shake_128(seed * 2).digest(1 << 20)
    sizes = (1 << 14, 1 << 16, 1 << 19)
    assert _cuts(_native.buzhash_cut, data, sizes) == _cuts(_portable_buzhash_cut, data, sizes)


def _cuts(cut: Any, data: bytes, sizes: tuple[int, ...]) -> list[list[int]]:
    """All cuts by average size."""
    found = []
    for size in sizes:
        at, ends = 0, []
        while length := cut(memoryview(data)[at:], len(data) - at, 0, size // 2, size * 2, size - 1):
            at += length
            ends.append(at)
        found.append(ends)
    return found


@pytest.mark.parametrize(("native", "plain"), _CASES)
def test_a_cut_is_found_wherever_it_lies_in_a_block_of_lanes(native: Any, plain: Any) -> None:
    """Long enough for whole blocks; each found cut becomes the next search's start, so every position is looked at."""
    data = hashlib.shake_128(b"lanes").digest(40_000)
    mask = 0x7FF
    expected = [at for at in range(64, len(data) + 1) if plain(data[at - 64 : at]) & mask == 0]
    found = []
    scanned = 0
    while (at := native(data, len(data), scanned, 64, 100_000, mask)) != 0:
        found.append(at)
        scanned = at
    assert found == expected


@pytest.mark.parametrize("native", [_native.buzhash_cut, _native.rabin_karp_cut])
def test_lengths_that_lead_out_of_the_buffer_are_refused(native: Any) -> None:
    contradictions = ((101, 0, 64, 99), (-1, 0, 64, 99), (9, -1, 64, 99), (9, 0, 63, 99), (9, 0, 64, 63))
    for arguments in contradictions:
        with pytest.raises(ValueError, match="fit"):
            native(bytes(100), *arguments, 1)


def _stream(kind: str, seed: str, offset: int, length: int) -> bytes:
    """One segment of the golden streams, from offset 0."""
    assert offset == 0
    if kind == "z":
        return bytes(length)
    prefix = hashlib.sha256(_TAG + seed.encode() + b"\0")
    pieces = []
    have = 0
    while have < length:
        state = prefix.copy()
        state.update(len(pieces).to_bytes(8, "big"))
        block = state.digest()
        pieces.append(block if kind == "b" else _line(len(pieces), block))
        have += len(pieces[-1])
    return b"".join(pieces)[:length]


def _word(i: int) -> bytes:
    digest = hashlib.sha256(_TAG + b"word\0" + bytes([i])).digest()
    return bytes(97 + code % 26 for code in digest[1 : 4 + digest[0] % 8])


_TAG = b"lighterage-golden-1\0"
_WORDS = [_word(i) for i in range(64)]


def _line(i: int, block: bytes) -> bytes:
    text = b"%08d " % i + b" ".join(_WORDS[code & 63] for code in block[2 : 6 + block[0] % 9]) + b"\n"
    return text * (1 + (block[1] & 3))


def test_every_splitter_cuts_where_kopia_cuts(golden: Path) -> None:
    expected = json.loads((golden / "splitters.json").read_text())
    stream = b"".join(_stream(*segment) for segment in expected["stream"])
    assert hashlib.sha256(stream).hexdigest() == expected["sha256"]
    view = memoryview(stream)
    assert len(expected["splitters"]) == 23
    for name, cuts in expected["splitters"].items():
        splitter = new_splitter(name)
        ends = [0]
        while ends[-1] < len(stream):
            rest = view[ends[-1] :]
            ends.append(ends[-1] + (splitter.find_cut(rest, len(rest), 0) or len(rest)))
        assert ends[1:] == cuts["ends"], name
        assert all(splitter.min_chunk <= end - start <= splitter.max_chunk for start, end in pairwise(ends[:-1]))


@pytest.mark.parametrize("name", ["DYNAMIC-128K-BUZHASH", "DYNAMIC-128K-RABINKARP", "FIXED-128K"])
def test_data_that_comes_piece_by_piece_is_cut_as_if_it_came_at_once(name: str) -> None:
    splitter = new_splitter(name)
    data = hashlib.shake_128(b"pieces").digest(600_000)
    at_once = splitter.find_cut(data, len(data), 0)
    for step in (1000, 65_536, 70_001):
        scanned = 0
        cut = 0
        while cut == 0:
            length = min(scanned + step, len(data))
            cut = splitter.find_cut(data, length, scanned)
            scanned = length
        assert cut == at_once


@pytest.mark.parametrize("name", ["DYNAMIC-128K-BUZHASH", "DYNAMIC-128K-RABINKARP", "FIXED-128K"])
def test_zeros_are_cut_as_told_without_reading(name: str) -> None:
    splitter = new_splitter(name)
    zeros = memoryview(bytes(500_000))
    count, rest = splitter.zero_run_chunks(len(zeros))
    position = 0
    for _ in range(count):
        cut = splitter.find_cut(zeros[position:], len(zeros) - position, 0)
        assert cut == splitter.min_chunk
        position += cut
    assert len(zeros) - position == rest
    assert splitter.find_cut(zeros[position:], rest, 0) == 0


@pytest.mark.parametrize("name", ["DYNAMIC-3M-BUZHASH", "FIXED-4M-BUZHASH", "DYNAMIC-4M", "dynamic", "FIXED-", "X-4M"])
def test_unknown_splitters_are_refused_by_name(name: str) -> None:
    with pytest.raises(AlgorithmUnsupported, match=name):
        new_splitter(name)
