"""Which index blobs are in force in a repository with epochs."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.repository.epochs import (
    fresh_enough_to_write,
    index_blob_prefix,
    index_blob_suffix,
    select_index_blobs,
    still_valid,
    write_epoch,
    write_was_too_slow,
)
from agent.repository.session import SessionId
from agent.storage.base import BlobId, BlobMetadata


def listing(*names: str) -> list[BlobMetadata]:
    return [BlobMetadata(BlobId(name), 1, 0) for name in names]


def chosen(*names: str) -> list[str]:
    return [blob.blob_id for blob in select_index_blobs(listing(*names)).blobs]


def test_the_golden_listings_give_the_blobs_that_kopia_loads(golden: Path) -> None:
    vectors = [v for v in json.loads((golden / "vectors.json").read_text())["active_index"] if v["epochs"]]
    assert vectors
    for vector in vectors:
        selection = select_index_blobs(listing(*reversed(vector["blobs"])))
        assert sorted(blob.blob_id for blob in selection.blobs) == vector["active"], vector["repository"]
        assert selection.watermark_s == vector["watermark"]


def test_nothing_listed_is_epoch_0() -> None:
    selection = select_index_blobs([])
    assert (selection.write_epoch, selection.watermark_s, list(selection.blobs)) == (0, 0, [])


def test_the_write_epoch_and_the_watermark_are_the_largest_and_garbage_is_ignored() -> None:
    selection = select_index_blobs(
        listing("xe2", "xe10", "xeFOO", "xe", "xe99999999999999999999", "xw5", "xw17", "xwFOO", "xw", "xw٣", "x", "xz1")
    )
    assert (selection.write_epoch, selection.watermark_s) == (10, 17)
    assert write_epoch(listing("xe2", "xe10", "xeFOO")) == 10
    assert write_epoch([]) == 0


def test_the_two_latest_epochs_and_the_next_come_uncompacted() -> None:
    names = [f"xn{epoch}_a-s1-c1" for epoch in range(6)] + [f"xs{epoch}_b-s2-c1" for epoch in range(6)] + ["xe3"]
    assert chosen(*names) == ["xs0_b-s2-c1", "xs1_b-s2-c1", "xn2_a-s1-c1", "xn3_a-s1-c1", "xn4_a-s1-c1"]


def test_an_incomplete_compaction_is_as_good_as_none() -> None:
    assert chosen("xn0_a-s1-c1", "xs0_b-s2-c2", "xe5") == ["xn0_a-s1-c1"]
    assert chosen("xn0_a-s1-c1", "xs0_b-s2-c2", "xs0_c-s2-c2", "xe5") == ["xs0_b-s2-c2", "xs0_c-s2-c2"]
    assert chosen("xn0_a-s1-c1", "xs0_b-s2-c1", "xs0_c-s3-c1", "xe5") == ["xs0_b-s2-c1"]


def test_completeness_is_not_asked_of_uncompacted_sets() -> None:
    assert chosen("xn0_a-s1-c3") == ["xn0_a-s1-c3"]


def test_a_name_without_a_pattern_is_a_set_by_itself() -> None:
    assert chosen("xn0_a-s1-c1", "xs0_odd", "xe5") == ["xs0_odd"]
    assert chosen("xn0_a-s1-c1", "xs0_odd-s1-cX", "xe5") == ["xs0_odd-s1-cX"]


def test_the_furthest_chain_of_ranges_wins_and_among_equals_the_shortest() -> None:
    names = ["xe12", "xr0_3_a-s1-c1", "xr4_7_b-s2-c1", "xr0_7_c-s3-c1", "xr9_10_d-s4-c1", "xs8_e-s5-c1", "xs7_f-s6-c1"]
    assert chosen(*names) == ["xr0_7_c-s3-c1", "xs8_e-s5-c1"]
    assert chosen(*names, "xr4_8_g-s7-c1") == ["xr0_3_a-s1-c1", "xr4_8_g-s7-c1", "xr9_10_d-s4-c1"]


def test_a_range_of_epoch_0_alone_is_ignored() -> None:
    assert chosen("xe5", "xr0_0_a-s1-c1", "xs0_b-s2-c1") == ["xs0_b-s2-c1"]


def test_hostile_numbers_cost_nothing() -> None:
    huge = str(2**62)
    names = [f"xe{huge}", f"xr0_{huge}_a-s1-c1", "xr5_4_b-s1-c1", "xr0_-1_c-s1-c1", "xn007_d", f"xn{huge}9_e"]
    assert chosen(*names) == [f"xr0_{huge}_a-s1-c1"]
    chain = [f"xr{n}_{n + 1}_a-s{n}-c1" for n in range(0, 6000, 2)]
    assert len(chosen(*chain)) == 3000


@settings(max_examples=50)
@given(
    st.lists(
        st.from_regex(r"x[nsrew]?[0-9FO+-]{0,3}(_[0-9a-]{0,3}){0,2}(-s[0-9]{0,2}(-c[0-9x-]{0,2})?)?", fullmatch=True)
    )
)
def test_any_listing_gives_a_subset_of_it_whatever_its_order(names: list[str]) -> None:
    selection = select_index_blobs(listing(*names))
    assert {blob.blob_id for blob in selection.blobs} <= set(names)
    assert selection == select_index_blobs(listing(*reversed(names)))


def test_an_index_blob_is_named_by_epoch_session_and_shards() -> None:
    assert index_blob_prefix(7) == "xn7_"
    assert index_blob_suffix(SessionId("s12"), 3) == "s12-c3"


@pytest.mark.parametrize(
    ("age", "read", "write"),
    [(0, True, True), (5, True, True), (6, True, False), (20, False, False), (-1, False, False)],
)
def test_a_state_may_be_read_for_its_validity_and_written_with_for_a_quarter_of_it(
    age: int, read: bool, write: bool
) -> None:
    assert still_valid(100, 100 + age, 20) is read
    assert fresh_enough_to_write(100, 100 + age, 20) is write


def test_an_index_written_two_epochs_ago_is_lost() -> None:
    assert [write_was_too_slow(3, current) for current in (3, 4, 5, 6)] == [False, False, True, True]
