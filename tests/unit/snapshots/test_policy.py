"""Policies: parsing as tolerant as kopia's, and what holds where several say something."""

import json

import pytest

from agent.base.errors import InvalidPolicy
from agent.snapshots.model import Source
from agent.snapshots.policy import (
    DEFAULT_POLICY,
    CompressionPolicy,
    SchedulingPolicy,
    TimeOfDay,
    effective_policy,
    parse_policy,
    policy_labels,
    policy_tree,
)

_SOURCE = Source("host", "user", "/data/app")


def _manifest(source: Source, **data: object) -> tuple[dict[str, str], bytes]:
    return policy_labels(source), json.dumps(data).encode()


def test_without_policies_the_built_in_one_holds() -> None:
    assert effective_policy([], _SOURCE) == DEFAULT_POLICY
    assert parse_policy(b"{}") != DEFAULT_POLICY


def test_keys_match_in_any_case_unknown_ones_and_null_are_ignored() -> None:
    policy = parse_policy(
        b'{"Retention":{"KEEPLATEST":3,"keepDaily":null,"x":[]},"files":null,"actions":{"y":1},'
        b'"scheduling":{"timeOfDay":[{"Hour":1,"MIN":2,"z":0}]},"later":true}'
    )
    assert (policy.retention.keep_latest, policy.retention.keep_daily) == (3, None)
    assert policy.scheduling.time_of_day == (TimeOfDay(1, 2),)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b'"x"',
        b'{"retention":[]}',
        b'{"retention":{"keepLatest":"3"}}',
        b'{"retention":{"keepLatest":99999999999999999999}}',
        b'{"files":{"ignore":"x"}}',
        b'{"files":{"ignore":[1]}}',
        b'{"noParent":1}',
        b'{"scheduling":{"timeOfDay":[1]}}',
        b"\xff",
        b'{"files":' * 2000,
    ],
)
def test_values_of_wrong_types_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidPolicy):
        parse_policy(data)


def test_each_value_comes_from_the_most_specific_policy_that_has_it() -> None:
    manifests = [
        _manifest(Source("", "", ""), retention={"keepLatest": 1, "keepDaily": 1, "keepWeekly": 1, "keepAnnual": 0}),
        _manifest(Source("host", "", ""), retention={"keepLatest": 2, "keepDaily": 2, "keepWeekly": 2}),
        _manifest(Source("host", "user", ""), retention={"keepLatest": 3, "keepDaily": 3}),
        _manifest(Source("host", "user", "/"), compression={"compressorName": "gzip"}),
        _manifest(Source("host", "user", "/data"), retention={"keepLatest": 4}, compression={"minSize": 7}),
        _manifest(_SOURCE, files={"oneFileSystem": False}),
        _manifest(Source("host", "other", "/data/app"), retention={"keepLatest": 99}),
        _manifest(Source("host", "user", "/data/ap"), retention={"keepLatest": 98}),
        ({"type": "snapshot", "path": "/data/app"}, b"not even JSON"),
    ]
    policy = effective_policy(manifests, _SOURCE)
    retention = policy.retention
    assert (retention.keep_latest, retention.keep_daily, retention.keep_weekly) == (4, 3, 2)
    assert (retention.keep_annual, retention.keep_monthly) == (0, 24)
    assert (policy.compression.compressor_name, policy.compression.min_size) == ("gzip", 7)
    assert policy.files.one_file_system is False


def test_lists_are_replaced_or_united_as_their_kind_wants() -> None:
    manifests = [
        _manifest(
            Source("", "", ""),
            files={"ignore": ["global"], "ignoreDotFiles": [".g"]},
            compression={"onlyCompress": [".g"], "neverCompress": [".zip"]},
            scheduling={"timeOfDay": [{"hour": 1, "min": 0}], "cron": ["g"]},
        ),
        _manifest(
            Source("host", "user", "/data"),
            files={"ignore": ["parent"]},
            compression={"onlyCompress": [".p"], "neverCompress": [".a"], "noParentNeverCompress": True},
            scheduling={"timeOfDay": [{"hour": 3, "min": 0}]},
        ),
        _manifest(_SOURCE, compression={"onlyCompress": [".z", ".a"]}, scheduling={"timeOfDay": [{"hour": 2}]}),
    ]
    policy = effective_policy(manifests, _SOURCE)
    assert (policy.files.ignore, policy.files.ignore_dot_files) == (("parent",), (".g",))
    assert policy.compression.only_compress == (".a", ".g", ".p", ".z")
    assert policy.compression.never_compress == (".a",)
    assert [time.hour for time in policy.scheduling.time_of_day] == [1, 2, 3]
    assert policy.scheduling.cron == ("g",)


def test_no_parent_ends_the_chain_before_the_defaults() -> None:
    manifests = [_manifest(Source("", "", ""), retention={"keepLatest": 5}), _manifest(_SOURCE, noParent=True)]
    policy = effective_policy(manifests, _SOURCE)
    assert (policy.retention.keep_latest, policy.metadata_compression.compressor) == (None, "")
    assert policy.scheduling == SchedulingPolicy()


def test_a_relative_source_path_has_its_parents_too() -> None:
    source = Source("default", "default", "snapshot-pod-volume/kopia/ns/pod/volume")
    above = Source("default", "default", "snapshot-pod-volume/kopia")
    policy = effective_policy([_manifest(above, splitter={"algorithm": "FIXED-1M"})], source)
    assert policy.splitter.algorithm == "FIXED-1M"


def test_a_policy_below_the_source_applies_raw_from_there_down() -> None:
    tree = policy_tree(
        [
            _manifest(Source("", "", ""), compression={"compressorName": "zstd"}),
            _manifest(Source("host", "user", "/data/app/logs/old"), files={"ignore": ["*.gz"]}),
            _manifest(Source("host", "user", "/data/application"), files={"ignore": ["x"]}),
            _manifest(Source("host", "user", "/data/app/"), files={"ignore": ["y"]}),
        ],
        _SOURCE,
    )
    assert tree.defined is tree.effective
    logs = tree.child("logs")
    assert (logs.defined, logs.effective.compression.compressor_name) == (None, "zstd")
    old = logs.child("old")
    assert old.defined is not None
    assert old.effective.files.ignore == ("*.gz",)
    assert (old.effective.compression.compressor_name, old.effective.files.ignore_dot_files) == ("", ())
    assert old.effective.metadata_compression.compressor == ""
    x = old.child("x")
    assert x.effective is old.effective and x.defined is None
    assert x.child("y") is x, "nodes are shared where nothing changes"
    assert logs.child("new").effective is tree.effective


@pytest.mark.parametrize(
    ("name", "size", "compressor"),
    [(b"a.log", 50, "zstd"), (b"a.log", 5, ""), (b"a.log", 5000, ""), (b"a.zip", 50, ""), (b"x", 50, "zstd")],
)
def test_the_compressor_of_a_file_depends_on_extension_and_size(name: bytes, size: int, compressor: str) -> None:
    policy = CompressionPolicy("zstd", only_compress=(".log",), never_compress=(".zip",), min_size=10, max_size=1000)
    assert policy.compressor_for(name, size) == compressor
    assert CompressionPolicy("none").compressor_for(name, size) == ""
