"""Hostile text for every parser of the snapshots and of storage URLs: a result or a named error, nothing else."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import _native
from agent.base.errors import CorruptDirectory, CorruptManifest, InvalidPolicy, LighterageError, UsageError
from agent.repository.ids import ContentId, ManifestId
from agent.repository.index_entry import IndexEntry
from agent.repository.maintenance import parse_parameters, parse_schedule
from agent.repository.range_plan import RangeLimits, plan_ranges
from agent.repository.session import parse_marker
from agent.snapshots.directory import DirectoryParser
from agent.snapshots.model import Source, decode_entry, decode_snapshot
from agent.snapshots.policy import policy_tree
from agent.snapshots.wildcard import PatternError, compile_pattern, go_text
from agent.storage.base import BlobId
from agent.storage.open import open_storage
from agent.storage.s3_config import parse_s3_url
from tests.unit.fuzz.mutation import mutate

OID = "k" + "0" * 32
SUMMARY = {"size": 5, "files": 1, "symlinks": 0, "dirs": 2, "maxTime": "2020-01-02T03:04:05.678Z", "numFailed": 1,
           "errors": [{"path": "a/b", "error": "denied"}], "incomplete": "checkpoint"}  # fmt: skip
ENTRY = {"name": "na\u00efve \"x\"", "type": "f", "mode": "0644", "size": 12, "mtime": "2020-01-02T03:04:05.678901234Z",
         "uid": 1, "gid": 2, "obj": OID, "summ": SUMMARY}  # fmt: skip
DIRECTORY = {"stream": "kopia:directory", "entries": [ENTRY, {**ENTRY, "type": "d"}, {**ENTRY, "x": [1, {}]}],
             "summary": SUMMARY}  # fmt: skip
SNAPSHOT = {"id": "", "source": {"host": "h", "userName": "u", "path": "/p"}, "description": "d", "startTime":
            "2020-01-02T03:04:05Z", "endTime": "2020-01-02T03:04:06Z", "stats": {"totalSize": 5, "errorCount": 0},
            "incomplete": "canceled", "rootEntry": ENTRY, "tags": {"a": "b"}, "pins": ["x"]}  # fmt: skip
POLICY = {"retention": {"keepLatest": 3, "keepDaily": None}, "files": {"ignore": ["*.tmp", "!x"], "maxFileSize": 9,
          "ignoreDotFiles": [".ig"], "oneFileSystem": True}, "errorHandling": {"ignoreFileErrors": True}, "compression":
          {"compressorName": "zstd", "onlyCompress": [".x"], "minSize": 3}, "splitter": {"algorithm": "FIXED"},
          "upload": {"maxParallelFileReads": 4}, "metadataCompression": {"compressorName": "s2"}}  # fmt: skip
MARKER = {"id": "s0011-1", "startTime": "2020-01-02T03:04:05Z", "checkpointTime": "2020-01-02T03:04:06Z", "username":
          "u", "hostname": "h"}  # fmt: skip
PARAMETERS = {"owner": "a@b", "quick": {"enabled": True, "interval": 3600000000000}, "full": {"enabled": False,
              "interval": 1}, "logRetention": {"maxCount": 1}, "listParallelism": 0}  # fmt: skip
SCHEDULE = {"nextFullMaintenance": "2020-01-02T03:04:05Z", "nextQuickMaintenance": "2020-01-02T03:04:05Z", "runs":
            {"task": [{"start": "2020-01-02T03:04:05Z", "end": "2020-01-02T03:04:06Z", "success": True}]}}  # fmt: skip
RULES = b"# rules\n*.tmp\n!keep.tmp\n/top\ndir/\n**/deep/[a-z]?\n\\#x\n  \n[!a-]x\n{a,b}\n"


def directory(data: bytes, rng: random.Random) -> None:
    parser = DirectoryParser()
    at = 0
    while at < len(data):
        step = rng.choice((1, 7, 64, len(data)))
        for raw in parser.feed(data[at : at + step]):
            decode_entry(raw)
        at += step
    parser.close()


def policy(data: bytes, _rng: random.Random) -> None:
    source = Source("h", "u", "/p")
    labels = {"type": "policy", "policyType": "path", "hostname": "h", "username": "u", "path": "/p"}
    tree = policy_tree([(labels, data)], source)
    assert tree.child("x").effective


PARSERS: dict[str, tuple[Callable[[bytes, random.Random], object], object, type[LighterageError]]] = {
    "directory": (directory, DIRECTORY, CorruptDirectory),
    "entry": (lambda data, _: decode_entry(data), ENTRY, CorruptDirectory),
    "snapshot": (lambda data, _: decode_snapshot(ManifestId("0" * 32), data), SNAPSHOT, CorruptManifest),
    "policy": (policy, POLICY, InvalidPolicy),
    "marker": (lambda data, _: parse_marker(data, BlobId("s0")), MARKER, LighterageError),
    "maintenance parameters": (lambda data, _: parse_parameters(data), PARAMETERS, LighterageError),
    "maintenance schedule": (lambda data, _: parse_schedule(data), SCHEDULE, LighterageError),
}


@pytest.mark.parametrize("name", PARSERS)
def test_damaged_json_is_understood_or_refused_by_name(name: str) -> None:
    parse, value, refusal = PARSERS[name]
    whole = json.dumps(value).encode()
    parse(whole, random.Random(0))
    for seed in range(1500):
        rng = random.Random(seed)
        try:
            parse(mutate(rng, whole), rng)
        except refusal:
            pass
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize(
    "hostile",
    [b"[" * 1_000_000, b'{"a":' * 300_000, b'{"entries":' + b"[" * 500_000, b'{"size":' + b"9" * 300_000 + b"}"],
    ids=["lists", "objects", "entries", "number"],
)
def test_deep_nesting_and_huge_numbers_are_skipped_or_refused_by_name(name: str, hostile: bytes) -> None:
    parse, _, refusal = PARSERS[name]
    with contextlib.suppress(refusal):
        parse(hostile, random.Random(3))


def test_keys_that_stand_twice_count_once() -> None:
    raw = b'{"name":"a","name":"b","type":"f","type":"d","obj":"' + OID.encode() + b'"}'
    try:
        entry = decode_entry(raw)
    except CorruptDirectory:
        return
    assert (entry.name, entry.type) == ("b", "d")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=4), below, max_size=4),
    max_leaves=12,
)


@given(st.lists(json_values, max_size=6), st.sampled_from([None, 1, "\t"]), st.data())
@settings(max_examples=50)
def test_elements_of_a_list_come_out_whole_however_it_is_cut(
    values: list[object], indent: str | int | None, data: st.DataObject
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=False).encode()[1:]
    found: list[bytes] = []
    rest, state, at = b"", 0, 0
    while at < len(text) and state != 3:
        step = data.draw(st.integers(1, len(text)))
        rest += text[at : at + step]
        at += step
        elements, end, state = _native.split_elements(rest, 0, state)
        found += elements
        rest = rest[end:]
    assert state == 3
    assert [json.loads(element) for element in found] == values


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(-1, 5))
def test_any_bytes_are_split_or_refused(data: bytes, start: int, state: int) -> None:
    for split in (partial(_native.split_elements, data, start, state), partial(_native.scan_value, data, start)):
        with contextlib.suppress(ValueError, IndexError):
            split()


def test_damaged_ignore_rules_are_compiled_or_refused_and_can_be_asked() -> None:
    for seed in range(100):
        data = mutate(random.Random(seed), RULES)
        for line in data.split(b"\n"):
            try:
                pattern = compile_pattern(go_text(line), "/base")
            except PatternError:
                continue
            pattern.matches("/base/deep/aa/x.tmp", is_directory=False)


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 60), st.integers(0, 90)), max_size=30),
    st.integers(0, 40),
    st.integers(1, 100),
)
def test_ranges_cover_each_content_once_whatever_an_index_says(
    rows: list[tuple[int, int, int]], gap: int, longest: int
) -> None:
    entries = [
        IndexEntry(ContentId(b"\0%016d" % n), BlobId(f"p{offset % 2}"), offset, packed, plain, 0)
        for n, (offset, packed, plain) in enumerate(rows)
    ]
    plan = plan_ranges(entries, RangeLimits(gap, longest, length_of_few=longest))
    assert sorted(e.content for r in plan for e in r.entries) == sorted(e.content for e in entries)
    for piece in plan:
        for entry in piece.entries:
            assert entry.pack == piece.pack
            assert piece.offset <= entry.offset
            assert entry.offset + entry.packed_length <= piece.offset + piece.length
        assert len(piece.entries) == 1 or piece.length <= longest


_URLS = [
    "file:///abs/path",
    "s3://bucket/prefix?endpoint=http://127.0.0.1:8333&region=us-east-1&path_style=true",
    "s3://[::1]:99999/x?y=%zz",
    "file://host/\0",
    "s3://",
    "://",
    "s3://[",
    "s3://b?endpoint=http://[::&region=",
]


async def test_damaged_urls_are_read_or_refused_by_name() -> None:
    for seed in range(1500):
        rng = random.Random(seed)
        url = rng.choice(_URLS)
        url = mutate(rng, url.encode()).decode("utf-8", "surrogateescape") if seed >= len(_URLS) else _URLS[seed]
        if url.startswith("s3:"):
            with contextlib.suppress(UsageError):
                parse_s3_url(url, {})
            continue
        with contextlib.suppress(LighterageError):
            await (await open_storage(url)).close()
