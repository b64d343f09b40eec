"""Which index blobs are in force in a repository without epochs."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.base.errors import CorruptIndex, NewerFormat
from agent.repository.legacy_index import POISON_BLOB, CompactionLog, parse_compaction_log, select_legacy_index_blobs
from agent.storage.base import BlobId, BlobMetadata


def listing(*names: str) -> list[BlobMetadata]:
    return [BlobMetadata(BlobId(name), 1, 0) for name in names]


def log(inputs: list[str], outputs: list[str]) -> CompactionLog:
    return CompactionLog([BlobId(n) for n in inputs], [BlobId(n) for n in outputs])


def chosen(names: list[str], *logs: CompactionLog) -> list[str]:
    return [blob.blob_id for blob in select_legacy_index_blobs(listing(*names), logs)]


def test_the_golden_logs_leave_the_blobs_that_kopia_loads(golden: Path) -> None:
    vectors = json.loads((golden / "vectors.json").read_text())
    logs = [
        parse_compaction_log(vector["plaintext"].encode(), BlobId(vector["blob"]))
        for vector in vectors["legacy_logs"]
        if vector["blob"].startswith("m")
    ]
    (vector,) = [v for v in vectors["active_index"] if not v["epochs"]]
    names = [name for name in vector["blobs"] if name.startswith("n")]
    assert chosen(names, *logs) == sorted(vector["active"])


def test_a_compaction_counts_only_when_all_its_outputs_are_there() -> None:
    assert chosen(["n1", "n2", "n3"], log(["n1", "n2"], ["n3"])) == ["n3"]
    assert chosen(["n1", "n2", "n3"], log(["n1", "n2"], ["n3", "n4"])) == ["n1", "n2", "n3"]


def test_an_output_that_was_compacted_again_is_gone_and_its_inputs_stay_gone() -> None:
    logs = log(["n1"], ["n2"]), log(["n2"], ["n3"])
    assert chosen(["n1", "n2", "n3"], *logs) == chosen(["n1", "n2", "n3"], *reversed(logs)) == ["n3"]


def test_an_upgraded_repository_is_not_read_the_old_way() -> None:
    with pytest.raises(NewerFormat):
        chosen(["n1", POISON_BLOB])


def test_null_lists_are_empty() -> None:
    assert parse_compaction_log(b'{"inputMetadata":null}', BlobId("m1")) == CompactionLog((), ())


@pytest.mark.parametrize("plaintext", [b"", b"[]", b'{"inputMetadata":[{}]}', b'{"outputMetadata":7}'])
def test_a_log_that_cannot_be_understood_is_named(plaintext: bytes) -> None:
    with pytest.raises(CorruptIndex, match="m12"):
        parse_compaction_log(plaintext, BlobId("m12"))


@given(st.binary(max_size=100))
def test_arbitrary_bytes_raise_only_named_errors(plaintext: bytes) -> None:
    with contextlib.suppress(CorruptIndex):
        parse_compaction_log(plaintext, BlobId("m12"))
