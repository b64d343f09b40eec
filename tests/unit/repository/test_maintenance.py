"""Maintenance: parameters, schedule, what is due."""

import contextlib
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.base.errors import CorruptBlob, CorruptManifest
from agent.repository.kdf import open_maintenance_schedule
from agent.repository.maintenance import (
    Cycle,
    Due,
    MaintenanceParameters,
    Schedule,
    default_parameters,
    due,
    encode_parameters,
    parse_parameters,
    parse_schedule,
)

DEFAULT = (
    '{"owner":"default@default","quick":{"enabled":true,"interval":3600000000000},'
    '"full":{"enabled":true,"interval":86400000000000},'
    '"logRetention":{"maxTotalSize":1073741824,"maxCount":10000,"maxAge":2592000000000000},'
    '"extendObjectLocks":false,"listParallelism":0}'
)


def test_the_manifest_of_a_new_repository_is_that_of_kopia() -> None:
    assert encode_parameters(default_parameters("default@default")).decode() == DEFAULT
    assert parse_parameters(DEFAULT.encode()) == default_parameters("default@default")


def test_unknown_keys_do_not_matter_and_missing_ones_are_zero() -> None:
    assert parse_parameters(b'{"later":1}') == MaintenanceParameters()


def test_the_golden_schedules_are_opened_to_what_they_hold(golden: Path) -> None:
    for vector in json.loads((golden / "vectors.json").read_text())["maintenance_schedule"]:
        plaintext = open_maintenance_schedule(bytes.fromhex(vector["key"]), bytes.fromhex(vector["sealed"]))
        assert plaintext.decode() == vector["plaintext"]
        schedule = parse_schedule(plaintext)
        assert schedule.next_full_ns is None
        assert schedule.next_quick_ns is not None
        expected = json.loads(plaintext)["runs"]
        assert {task: len(runs) for task, runs in schedule.runs.items()} == {t: len(r) for t, r in expected.items()}
        assert all(run.success and run.start_ns <= run.end_ns for runs in schedule.runs.values() for run in runs)


@pytest.mark.parametrize(
    ("next_quick", "next_full", "expected"),
    [
        (None, None, Due.FULL),
        (5, 100, Due.QUICK),
        (5, 10, Due.FULL),
        (11, 11, Due.NOTHING),
        (None, 11, Due.QUICK),
    ],
)
def test_full_maintenance_comes_before_quick(next_quick: int | None, next_full: int | None, expected: Due) -> None:
    assert due(default_parameters("a@b"), Schedule(next_quick, next_full), 10) is expected


def test_what_is_disabled_is_never_due() -> None:
    parameters = msgspec.structs.replace(default_parameters("a@b"), full=Cycle())
    assert due(parameters, Schedule(), 10) is Due.QUICK
    assert due(MaintenanceParameters(), Schedule(), 10) is Due.NOTHING


@pytest.mark.parametrize("plaintext", [b'{"runs":{"x":[{"start":"","end":""}]}}', b'{"nextFullMaintenance":"soon"}'])
def test_a_schedule_with_a_time_that_is_none_is_named(plaintext: bytes) -> None:
    with pytest.raises(CorruptBlob, match=r"kopia\.maintenance"):
        parse_schedule(plaintext)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_named_errors(data: bytes) -> None:
    with contextlib.suppress(CorruptBlob):
        parse_schedule(data)
    with contextlib.suppress(CorruptManifest):
        parse_parameters(data)
    with pytest.raises(CorruptBlob):
        open_maintenance_schedule(bytes(32), data)
