"""Index blobs from entries: byte for byte what kopia wrote."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.base.errors import CorruptIndex, UsageError
from agent.repository.ids import ContentId, content_id, parse_content_id
from agent.repository.index_build import build_index, build_shards
from agent.repository.index_entry import IndexEntry, next_time, winner
from agent.repository.index_read import MappedIndex
from agent.storage.base import BlobId

PACK = "p00112233445566778899aabbccddeeff-s0011223344556677123"
V2 = (
    "0211001100000002000000020200000000000123456789abcdef0123456789abcdef6553f100000000200000640000800000006b0123456789abcdef"
    "0123456789abcdef6553f101800000a00000c800005a000101360000006b36000000a10000000003000000110103007030303131323233333434353536"
    "363737383839396161626263636464656566662d73303031313232333334343535363637373132337130303131323233333434353536363737383839396161"
    "626263636464656566662d7330303131323233333434353536363737313233"
)
V1 = (
    "0111001400000002000123456789abcdef0123456789abcdef00006553f10003360000005200000020000000806b0123456789abcdef0123456789ab"
    "cdef00006553f101033600000088800000a00000005a7030303131323233333434353536363737383839396161626263636464656566662d73303031313232"
    "333334343535363637373132337130303131323233333434353536363737383839396161626263636464656566662d7330303131323233333434353536363737"
    "313233"
)


def entry_of(row: dict) -> IndexEntry:  # type: ignore[type-arg]
    return IndexEntry(
        parse_content_id(row["content"]),
        BlobId(row["pack"]),
        row["offset"],
        row["packed_length"],
        row["original_length"],
        row["time"],
        row["deleted"],
        row["compression"],
        row["format_version"],
        row["key_id"],
    )


def make(number: int = 0, **changes: object) -> IndexEntry:
    values: dict[str, object] = {
        "content": content_id(0, number.to_bytes(16)),
        "pack": BlobId(PACK),
        "offset": 32,
        "packed_length": 128,
        "original_length": 100,
        "time_s": 1_700_000_000,
    }
    return IndexEntry(**(values | changes))  # type: ignore[arg-type]


def test_every_golden_index_is_rebuilt_to_the_byte(golden: Path) -> None:
    vectors = json.loads((golden / "vectors.json").read_text())
    for vector in vectors["index"]:
        plaintext = bytes.fromhex(vector["plaintext"])
        entries = [entry_of(row) for row in vector["entries"]]
        suffix = plaintext[-32:] if vector["repository"] == "legacy-v1" and "-" not in vector["blob"] else b""
        assert build_index(reversed(entries), plaintext[0], suffix=suffix) == plaintext, vector["blob"]
    for vector in vectors["packs"]:
        plaintext = bytes.fromhex(vector["local_index_plaintext"])
        entries = [entry_of(row) for row in vector["entries"]]
        assert build_index(entries, plaintext[0], suffix=plaintext[-32:]) == plaintext, vector["pack"]


def test_both_versions_match_the_reference_bytes() -> None:
    key = "0123456789abcdef0123456789abcdef"
    first = IndexEntry(parse_content_id(key), BlobId(PACK), 32, 128, 100, 1_700_000_000)
    second = IndexEntry(
        parse_content_id("k" + key),
        BlobId("q" + PACK[1:]),
        160,
        90,
        200,
        1_700_000_001,
        deleted=True,
        compression=0x1101,
    )
    assert build_index([second, first], 2).hex() == V2
    assert build_index([second, first], 1).hex() == V1


def test_an_empty_index_of_version_1_says_so_and_version_2_has_none() -> None:
    assert build_index([], 1).hex() == "01ff001400000000"
    with pytest.raises(CorruptIndex):
        build_index([], 2)
    with pytest.raises(UsageError):
        build_index([make()], 3)


def test_long_contents_and_many_packs_widen_the_entries() -> None:
    assert build_index([make(packed_length=1 << 24)], 2)[3] == 19
    assert build_index([make(n, pack=BlobId(f"p{n}")) for n in range(65_537)], 2)[3] == 18
    assert build_index([make(1), make(2, compression=0x1101)], 2)[3] == 17


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": 1 << 31},
        {"offset": -1},
        {"packed_length": 1 << 32},
        {"time_s": 1 << 48},
        {"time_s": -1},
        {"pack": "p" * 256},
        {"format_version": 256},
        {"content": ContentId(b"\0")},
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes: dict[str, object]) -> None:
    for version in (1, 2):
        with pytest.raises(CorruptIndex):
            build_index([make(**changes)], version)


rows = st.builds(
    IndexEntry,
    st.integers(0, 50).map(lambda number: content_id(number % 2 * ord("k"), number.to_bytes(16))),
    st.sampled_from([BlobId("p1"), BlobId("q2-s1"), BlobId("p3")]),
    st.integers(0, 2**30 - 1),
    st.integers(28, 2**28 - 1),
    st.integers(0, 2**28 - 1),
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.sampled_from([0, 0x1101, 2**32 - 1]),
    st.integers(1, 3),
    st.integers(0, 255),
)


@given(st.lists(rows, min_size=1))
def test_what_was_built_reads_back_as_the_winners(entries: list[IndexEntry]) -> None:
    best: dict[ContentId, IndexEntry] = {}
    for entry in entries:
        best[entry.content] = winner(best.get(entry.content, entry), entry)
    expected = [best[content] for content in sorted(best)]
    assert list(MappedIndex(build_index(entries, 2)).entries()) == expected
    assert list(MappedIndex(build_index(entries, 1)).entries()) == [
        replace(entry, original_length=entry.packed_length - 28, compression=0, key_id=0) for entry in expected
    ]


def test_contents_of_different_hash_lengths_are_refused() -> None:
    with pytest.raises(CorruptIndex, match="different hash lengths"):
        build_index([make(), make(content=content_id(0, bytes(32)))], 2)


def test_shards_hold_every_entry_once_and_none_for_none() -> None:
    entries = [make(n) for n in range(100)]
    shards = build_shards(entries, 2, max_entries=30)
    assert len(shards) == 4
    assert sum(int.from_bytes(shard[4:8]) for shard in shards) == 100
    assert build_shards(entries, 2) == [build_index(entries, 2)]
    assert build_shards([], 2) == []


def test_later_wins_then_not_deleted_then_the_greater_pack_name() -> None:
    old, new = make(time_s=1, pack="pz"), make(time_s=2, pack="pa", deleted=True)
    assert winner(old, new) is new and winner(new, old) is new
    dead, live = make(pack="pz", deleted=True), make(pack="pa")
    assert winner(dead, live) is live and winner(live, dead) is live
    small, great = make(pack="pa"), make(pack="pb")
    assert winner(small, great) is great and winner(great, small) is great


@given(st.integers(0, 2**32), st.integers(0, 2**32), st.booleans())
def test_a_new_entry_always_wins_over_the_one_it_replaces(now: int, old_time: int, deleted: bool) -> None:
    old = make(time_s=old_time, deleted=deleted, pack="pz")
    new = make(time_s=next_time(now, old), pack="pa", deleted=not deleted)
    assert winner(old, new) is new
    assert next_time(now, None) == now
