"""Compressed bodies: kopia's are read, ours read back, and hostile ones end in a named error."""

import contextlib
import gzip
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import lz4.frame
import pytest
import pyzstd
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.base.errors import AlgorithmUnsupported, CorruptContent
from agent.repository import s2
from agent.repository.compression import (
    compress,
    compress_if_smaller,
    compressor_name,
    decompress,
    decompress_into,
    header_id_of,
)

_WRITTEN = [0x1000, 0x1001, 0x1002, 0x1100, 0x1101, 0x1102, 0x1103, 0x1300, 0x1301, 0x1302, 0x1500, 0x1501, 0x1502]
_READ_ONLY = [0x1200, 0x1201, 0x1202, 0x1203, 0x1400]


def _body(header_id: int, stream: bytes) -> bytes:
    return header_id.to_bytes(4, "big") + stream


@pytest.fixture(scope="module")
def vectors(golden: Path) -> Any:
    return json.loads((golden / "vectors.json").read_text())["compressed"]


def test_a_body_of_each_compressor_of_kopia_is_read(vectors: Any) -> None:
    seen = set()
    for vector in vectors:
        header_id = int(vector["header_id"], 16)
        seen.add(header_id)
        plaintext = decompress(bytes.fromhex(vector["body"]), vector["plaintext_length"], header_id=header_id)
        assert hashlib.sha256(plaintext).hexdigest() == vector["plaintext_sha256"]
        room = memoryview(bytearray(len(plaintext) + 1))
        assert room[: decompress_into(room, bytes.fromhex(vector["body"]), header_id=header_id)] == plaintext
        with pytest.raises(CorruptContent):
            decompress_into(room[: len(plaintext) - 1], bytes.fromhex(vector["body"]))
        with pytest.raises(CorruptContent):
            decompress(bytes.fromhex(vector["body"]), vector["plaintext_length"] - 1)
    assert seen == {*_WRITTEN, *_READ_ONLY} - {0x1400}


def test_every_cut_of_a_body_is_noticed(vectors: Any) -> None:
    for vector in vectors:
        body = bytes.fromhex(vector["body"])
        for length in range(5, len(body) - 1, 7):
            with contextlib.suppress(CorruptContent):
                assert len(decompress(body[:length], vector["plaintext_length"])) < vector["plaintext_length"]


@given(st.sampled_from(_WRITTEN), st.binary(max_size=2000), st.integers(1, 50))
def test_what_is_compressed_reads_back(header_id: int, seed: bytes, times: int) -> None:
    data = seed * times
    assert decompress(compress(header_id, data), len(data), header_id=header_id) == data
    body, recorded = compress_if_smaller(header_id, memoryview(data))
    assert bytes(body) == data if recorded == 0 else len(body) < len(data)


def test_a_content_is_stored_raw_when_compressing_saves_nothing() -> None:
    for data in (b"", b"x", hashlib.shake_128(b"noise").digest(10_000)):
        assert compress_if_smaller(0x1101, data) == (data, 0)
    assert compress_if_smaller(0, bytes(1000)) == (bytes(1000), 0)
    body, recorded = compress_if_smaller(0x1101, bytes(1000))
    assert recorded == 0x1101
    assert len(body) < 100


def test_lz4_and_streams_of_several_frames_are_read() -> None:
    data = hashlib.shake_128(b"frames").digest(5000) * 3
    assert decompress(_body(0x1400, lz4.frame.compress(data)), len(data)) == data
    for header_id, frames in (
        (0x1400, lz4.frame.compress),
        (0x1000, gzip.compress),
        (0x1100, pyzstd.compress),
    ):
        stream = frames(data) + frames(b"") + frames(b"tail")
        assert decompress(_body(header_id, stream), 20_000) == data + b"tail"


def test_tens_of_thousands_of_empty_frames_end_in_time() -> None:
    for header_id, frame in ((0x1000, gzip.compress(b"")), (0x1100, pyzstd.compress(b""))):
        assert decompress(_body(header_id, frame * 20_000), 10) == b""


def test_a_bomb_stops_at_the_expected_length() -> None:
    bomb = bytes(50_000_000)
    for header_id in (0x1000, 0x1101, 0x1500):
        with pytest.raises(CorruptContent, match="more than"):
            decompress(compress(header_id, bomb), 1000)
    with pytest.raises(CorruptContent, match="more than"):
        decompress(_body(0x1400, lz4.frame.compress(bomb)), 1000)


def test_headers_that_are_missing_wrong_or_unknown_are_refused() -> None:
    body = compress(0x1101, b"x" * 100)
    for bad in (b"", body[:3]):
        with pytest.raises(CorruptContent):
            decompress(bad, 100)
    with pytest.raises(CorruptContent):
        decompress(body, 100, header_id=0x1100)
    with pytest.raises(AlgorithmUnsupported):
        decompress(_body(0x1600, b"x"), 100)


def test_names_and_ids_go_both_ways_and_what_is_only_read_is_refused_by_name() -> None:
    for header_id in _WRITTEN + _READ_ONLY:
        assert header_id_of(compressor_name(header_id)) == header_id
    assert header_id_of("none") == header_id_of("") == 0
    assert compressor_name(0) == "none"
    for header_id in _READ_ONLY:
        with pytest.raises(AlgorithmUnsupported, match=compressor_name(header_id)):
            compress(header_id, b"")
    with pytest.raises(AlgorithmUnsupported, match="brotli"):
        header_id_of("brotli")


@settings(max_examples=300)
@given(st.sampled_from(_WRITTEN + _READ_ONLY), st.binary(max_size=400), st.binary(max_size=60), st.integers(0, 200))
def test_garbage_ends_in_a_named_error_or_within_the_limit(
    header_id: int, garbage: bytes, seed: bytes, at: int
) -> None:
    damaged = bytearray(compress(0x1100 if header_id in _READ_ONLY else header_id, seed * 20)[4:])
    if damaged:
        damaged[at % len(damaged)] ^= 0x41
    for stream in (garbage, bytes(damaged), b"\xff\x06\x00\x00S2sTwO" + garbage):
        with contextlib.suppress(CorruptContent):
            assert len(decompress(_body(header_id, stream), 1000)) <= 1000


def _chunk(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3, "little") + body


_START = _chunk(0xFF, b"S2sTwO")


def _s2(size: int, tags: bytes) -> bytes:
    assert size < 1 << 14
    varint = bytes([size]) if size < 0x80 else bytes([size & 0x7F | 0x80, size >> 7])
    return _START + _chunk(0x00, bytes(4) + varint + tags)


_LITERAL = st.tuples(st.just("literal"), st.binary(min_size=1, max_size=70), st.just(0))
_COPY = st.tuples(st.sampled_from(["copy1", "copy2", "copy4"]), st.integers(1, 2000), st.integers(1, 64))
_REPEAT = st.tuples(st.just("repeat"), st.just(0), st.integers(4, 600))


def _encode(operation: str, value: Any, length: int) -> bytes:  # noqa: PLR0911
    if operation == "literal":
        size = len(value) - 1
        return (bytes([size << 2]) if size < 60 else bytes([60 << 2, size])) + value
    if operation == "copy1":
        return bytes([1 | (length - 4) << 2 | value >> 8 << 5, value & 0xFF])
    if operation == "copy2":
        return bytes([2 | (length - 1) << 2]) + value.to_bytes(2, "little")
    if operation == "copy4":
        return bytes([3 | (length - 1) << 2]) + value.to_bytes(4, "little")
    if length < 9:
        return bytes([1 | (length - 4) << 2, 0])
    if length < 8 + 256:
        return bytes([1 | 5 << 2, 0, length - 8])
    return bytes([1 | 6 << 2, 0]) + (length - 260).to_bytes(2, "little")


@given(st.lists(_LITERAL | _COPY | _REPEAT, max_size=30))
def test_s2_blocks_read_as_a_plain_byte_by_byte_model_says(operations: list[tuple[str, Any, int]]) -> None:
    expected, tags, offset = bytearray(), b"", 0
    for operation, value, length in operations:
        if operation == "literal":
            expected += value
        else:
            wanted = offset if operation == "repeat" else value
            if wanted == 0 or wanted > len(expected) or (operation == "copy1" and not 4 <= length <= 11):
                continue
            offset = wanted
            for _ in range(length):
                expected.append(expected[-offset])
        tags += _encode(operation, value, length)
    assert s2.decompress(_s2(len(expected), tags), 16_000) == expected


def test_s2_long_literals_and_repeats_and_framing_are_read() -> None:
    data = bytes(range(256)) * 300
    literal = bytes([61 << 2]) + (0xFFFF).to_bytes(2, "little") + data[:65_536]
    size = bytes([0x80 | 0, 0x80 | 0, 0x04])
    assert s2.decompress(_START + _chunk(0, bytes(4) + size + literal), 70_000) == data[:65_536]
    repeat = bytes([0, 7]) + bytes([2, 1, 0]) + bytes([1 | 7 << 2, 0]) + (0).to_bytes(3, "little")
    total = 2 + 65_540
    varint = bytes([total & 0x7F | 0x80, total >> 7 & 0x7F | 0x80, total >> 14])
    assert s2.decompress(_START + _chunk(0, bytes(4) + varint + repeat), 70_000) == bytes([7]) * total
    framed = _START + _chunk(0xFE, b"pad") + _chunk(0x99, b"index") + _chunk(1, b"crc!plain") + _START + _s2(1, b"\0x")
    assert s2.decompress(framed, 100) == b"plainx"
    assert s2.decompress(b"", 0) == b""


@pytest.mark.parametrize(
    "stream",
    [
        b"\xff",
        _chunk(0xFF, b"S2sTwo"),
        _chunk(1, b"crc!x"),
        _START[:-1],
        _START + b"\x00\x01",
        _START + _chunk(2, b""),
        _START + _chunk(0, b"cr"),
        _START + _chunk(0, b"crc!"),
        _START + _chunk(0, b"crc!" + b"\xff" * 9),
        _START + _chunk(1, b"crc!" + b"x" * 101),
        _s2(101, b""),
        _s2(5, b"\x00x"),
        _s2(1, b"\x04xy"),
        _s2(9, b"\x08xy"),
        _s2(9, b"\x00x\x01\x00"),
        _s2(9, b"\x00x\x02\x00\x00"),
        _s2(9, b"\x00x\x02\x02\x00"),
        _s2(9, b"\x00x\x02"),
        _s2(9, b"\x00x\xfe\x01\x00"),
        _s2(9, b"\xf4"),
    ],
)
def test_s2_streams_that_are_malformed_are_refused(stream: bytes) -> None:
    with pytest.raises(CorruptContent):
        s2.decompress(stream, 100)


def test_raw_deflate_has_no_header() -> None:
    assert zlib.decompress(compress(0x1500, b"abc")[4:], -15) == b"abc"
