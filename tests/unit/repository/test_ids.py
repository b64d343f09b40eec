"""Content and object ids: text to key and back."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.base.errors import CorruptObject
from agent.repository.ids import content_id, content_text, parse_content_id, parse_object_id

prefixes = st.sampled_from([0, *range(ord("g"), ord("z") + 1)])


@given(prefixes, st.binary(min_size=16, max_size=32))
def test_a_content_id_survives_the_round_trip(prefix: int, digest: bytes) -> None:
    cid = content_id(prefix, digest)
    assert parse_content_id(content_text(cid)) == cid
    assert (
        parse_content_id(content_text(cid).upper().replace(chr(prefix).upper(), chr(prefix), 1 if prefix else 0)) == cid
    )


def test_an_indirect_object_names_its_list() -> None:
    parsed = parse_object_id("IIx" + "ab" * 16)
    assert (parsed.indirection, parsed.compressed, content_text(parsed.content)) == (
        2,
        False,
        "x" + "ab" * 16,
    )


def test_ids_are_accepted_and_refused_as_kopia_does(golden: Path) -> None:
    for vector in json.loads((golden / "vectors.json").read_text())["object_ids"]:
        if not vector["valid"]:
            with pytest.raises(CorruptObject):
                parse_object_id(vector["id"])
            continue
        parsed = parse_object_id(vector["id"])
        assert (parsed.indirection, parsed.compressed, content_text(parsed.content)) == (
            vector["indirection"],
            vector["compressed"],
            vector["content_id"],
        ), vector["id"]
