"""Session ids and markers."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.base.errors import CorruptBlob
from agent.repository.session import (
    SessionId,
    encode_marker,
    new_session_id,
    parse_marker,
    session_epoch,
    session_of_blob,
)
from agent.storage.base import BlobId


def test_the_epoch_of_an_id_is_that_of_kopia(golden: Path) -> None:
    for example in json.loads((golden / "vectors.json").read_text())["session_epoch_examples"]:
        assert session_epoch(example["unix"]) == example["suffix"]


def test_an_id_is_made_of_random_bytes_and_the_epoch() -> None:
    assert new_session_id(1_795_288_536 * 10**9, lambda n: bytes(range(n))) == "s0001020304050607147"


def test_golden_markers_are_read_and_written_to_the_byte(golden: Path) -> None:
    for vector in json.loads((golden / "vectors.json").read_text())["session_markers"]:
        marker = parse_marker(vector["plaintext"].encode(), BlobId(vector["blob"]))
        assert marker.id == session_of_blob(BlobId(vector["blob"]))
        assert (marker.username, marker.hostname) == ("default", "default")
        assert encode_marker(marker).decode() == vector["plaintext"]


@pytest.mark.parametrize(
    ("blob", "session"),
    [
        ("p00-s12", "s12"),
        ("xn0_ab-s12-c1", "s12"),
        ("n00-repository_unreadable-s1", "s1"),
        ("s12", None),
        ("n00", None),
        ("xn0_ab-c1", None),
    ],
)
def test_the_session_of_a_blob_is_in_its_name(blob: str, session: str | None) -> None:
    assert session_of_blob(BlobId(blob)) == (None if session is None else SessionId(session))


@pytest.mark.parametrize(
    "plaintext", [b"", b"[]", b'{"id":"s1"}', b'{"id":"s1","startTime":"x","checkpointTime":"y"}', b'{"id":5}']
)
def test_a_marker_that_cannot_be_understood_is_named(plaintext: bytes) -> None:
    with pytest.raises(CorruptBlob, match="s12-s34"):
        parse_marker(plaintext, BlobId("s12-s34"))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_named_errors(plaintext: bytes) -> None:
    with pytest.raises(CorruptBlob):
        parse_marker(plaintext, BlobId("s12-s34"))
