"""The layout of packs: postamble, padding, copies of the format blob."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.base.errors import CorruptBlob, CorruptFormat
from agent.repository.pack import (
    Postamble,
    encode_postamble,
    encode_recovery_block,
    find_postamble,
    find_recovery_block,
    new_pack_id,
    pack_prefix,
    padding_length,
)
from agent.repository.session import SessionId


def test_golden_postambles_are_read_and_written_to_the_byte(golden: Path) -> None:
    for vector in json.loads((golden / "vectors.json").read_text())["packs"]:
        expected = Postamble(
            bytes.fromhex(vector["local_index_iv"]), vector["local_index_offset"], vector["local_index_length"]
        )
        raw = bytes.fromhex(vector["postamble"])
        assert find_postamble(b"anything before" + raw) == expected
        assert encode_postamble(expected) == raw


def test_golden_recovery_blocks_are_read_and_written_to_the_byte(golden: Path) -> None:
    vectors = json.loads((golden / "vectors.json").read_text())
    blobs = {vector["repository"]: vector["blob"].encode() for vector in vectors["format_blob"]}
    blocks = [vector for vector in vectors["packs"] if "recovery_block" in vector]
    assert blocks
    for vector in blocks:
        block = bytes.fromhex(vector["recovery_block"])
        found = find_recovery_block(block + b"rest of the pack", b"")
        assert found is not None
        assert found == find_recovery_block(b"start of a pack", b"x" * 50 + block)
        assert encode_recovery_block(found) == block
        assert found == blobs.get(vector["repository"], found)


def test_the_reference_postamble() -> None:
    raw = encode_postamble(Postamble(bytes(range(16)), 4096, 420))
    assert raw.hex() == "0110000102030405060708090a0b0c0d0e0f8020a403f72cd4bc1a"


def test_padding_is_never_empty() -> None:
    assert [padding_length(n) for n in (0, 1, 4095, 4096, 4097)] == [4096, 4095, 1, 4096, 4095]


def test_packs_are_named_by_what_they_hold_and_who_wrote_them() -> None:
    assert new_pack_id(pack_prefix(0), SessionId("s1"), bytes) == "p" + "00" * 16 + "-s1"
    assert new_pack_id(pack_prefix(ord("k")), SessionId("s1"), bytes) == "q" + "00" * 16 + "-s1"


@given(st.binary(max_size=33), st.integers(0, 2**63), st.integers(0, 2**63), st.binary(max_size=40))
def test_any_postamble_survives_the_round_trip(iv: bytes, offset: int, length: int, before: bytes) -> None:
    postamble = Postamble(iv, offset, length)
    assert find_postamble(before + encode_postamble(postamble)) == postamble


def test_too_long_a_vector_is_refused() -> None:
    with pytest.raises(CorruptBlob):
        encode_postamble(Postamble(bytes(250), 1, 1))


@given(st.binary(max_size=300))
def test_arbitrary_tails_hold_no_postamble_and_no_format_blob(tail: bytes) -> None:
    assert find_postamble(tail) is None
    assert find_recovery_block(tail, tail) is None


@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_damaged_copy_of_the_format_blob_is_not_taken(body: bytes, data: st.DataObject) -> None:
    block = bytearray(encode_recovery_block(body))
    assert find_recovery_block(block, b"") == body
    block[data.draw(st.integers(2, len(block) - 3))] ^= 1
    assert find_recovery_block(bytes(block), bytes(block)) is None


def test_a_format_blob_too_long_for_a_copy_is_refused() -> None:
    with pytest.raises(CorruptFormat):
        encode_recovery_block(bytes(65_000))
