"""What a mover pod says, written and read."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.base.errors import CanceledError, LighterageError
from agent.movers.pod_counters import MAX_COUNTERS, LastCounters, read_counters
from agent.movers.pod_messages import (
    CANCELED_ENDING,
    MAX_TERMINATION_MESSAGE,
    read_outcome,
    read_progress,
    told_counters,
    write_error,
    write_progress,
    write_result,
)
from agent.movers.protocol import Metric
from agent.movers.spec import BackupResult, JobError, Progress, RestoreResult
from tests.unit.movers.pod_kit import BACKUP, RESTORE

_COUNT = st.integers(0, 2**63 - 1)
_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=1_024)
_BACKUPS = st.builds(
    BackupResult,
    snapshot=st.text("0123456789abcdef", min_size=1, max_size=32),
    incomplete=st.sampled_from(["", "canceled"]),
    total_bytes=_COUNT,
    incremental_bytes=_COUNT,
    uploaded_bytes=_COUNT,
    files=_COUNT,
    errors=_COUNT,
    warnings=st.lists(_TEXT, max_size=20).map(tuple),
)
_RESTORES = st.builds(
    RestoreResult, bytes=_COUNT, files=_COUNT, directories=_COUNT, downloaded_bytes=_COUNT, denied=_COUNT
)


@given(_BACKUPS | _RESTORES)
def test_a_result_comes_back_whole_but_for_warnings_that_do_not_fit(result):
    spec = BACKUP if isinstance(result, BackupResult) else RESTORE
    message = write_result(spec, result)
    assert len(message.encode()) <= MAX_TERMINATION_MESSAGE
    back = read_outcome(message, spec.work)
    bare = msgspec.structs.replace
    assert bare(back, warnings=()) == bare(result, warnings=())
    assert back.warnings == result.warnings or back.warnings[-1].startswith("and ")


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=5_000), _TEXT)
def test_an_error_fits_in_a_message_and_comes_back_as_the_same_leaf(message, hint):
    text = write_error(JobError(code="storage.out-of-space", message=message, hint=hint))
    assert len(text.encode()) <= MAX_TERMINATION_MESSAGE
    with pytest.raises(LighterageError) as caught:
        read_outcome(text, BACKUP.work)
    assert caught.value.code == "storage.out-of-space"
    assert caught.value.message == message or message.startswith(caught.value.message[:-1])


@given(st.text(max_size=300) | st.text('{}[]":,0123456789snapshotIDtargeterror', max_size=60))
def test_no_message_is_anything_but_a_result_or_an_error_of_ours(message):
    try:
        read_outcome(message, BACKUP.work)
    except LighterageError as error:
        assert error.code


@given(
    st.builds(
        Progress,
        bytes_done=_COUNT,
        bytes_total=st.none() | st.integers(1, 2**63 - 1),
        files_done=_COUNT,
        files_total=st.none() | _COUNT,
        bytes_cached=_COUNT,
        errors=_COUNT,
    )
)
def test_progress_comes_back(progress):
    assert read_progress(write_progress(progress)) == progress


def test_a_stock_agent_finds_its_own_members_in_our_messages():
    result = BackupResult(
        snapshot="5abf", total_bytes=10, incremental_bytes=4, uploaded_bytes=2, files=1, errors=0, incomplete=""
    )
    said = msgspec.json.decode(write_result(BACKUP, result))
    assert (said["snapshotID"], said["totalBytes"], said["incrementalBytes"]) == ("5abf", 10, 4)
    assert said["source"]["byPath"] == "/0f3c"


def test_a_stock_agent_knows_our_cancel_by_its_ending():
    text = write_error(JobError(code=CanceledError.code, message="the job was canceled: because"))
    assert text.endswith(CANCELED_ENDING)
    with pytest.raises(CanceledError, match="because"):
        read_outcome(text, BACKUP.work)


def test_an_empty_snapshot_of_a_stock_mover_is_a_result():
    message = '{"snapshotID":"","emptySnapshot":true,"source":{"byPath":"/x"},"totalBytes":0}'
    assert read_outcome(message, BACKUP.work).snapshot == ""


# What the worker counted

_RESULT = BackupResult(snapshot="5abf", total_bytes=10, incremental_bytes=4, uploaded_bytes=2, files=1, errors=0)
_OPERATIONS = ("get", "put", "stat", "list", "delete")
_CODES = ("ok", "canceled", *(f"storage.code-{number}" for number in range(40)))


def metric(name, value, **labels):
    return Metric(name=name, labels=labels, value=value)


def everything(codes=2):
    """More than an execution has: each operation with so many outcomes, each bucket used."""
    bounds = ("0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "30.0", "+Inf")
    found = [metric("memory_bytes", 210_000_000), metric("deduplicated_bytes", 7)]
    for operation in _OPERATIONS:
        found += [metric("storage_latency", 123_456, operation=operation, le=le) for le in bounds]
        for code in _CODES[:codes]:
            found.append(metric("storage_requests", 123_456, operation=operation, outcome=code))
            found.append(metric("storage_seconds", 1_234.5678, operation=operation, outcome=code))
        found.append(metric("storage_retries", 3, operation=operation, code="storage.throttled"))
    found.append(metric("storage_bytes", 1 << 40, operation="put", outcome="ok"))
    found += [metric("cache_lookups", 5, cache=c, outcome=o) for c in ("indexes", "packs") for o in ("hit", "miss")]
    return found


def told(metrics):
    return {(one.name, *sorted(one.labels.items())): one.value for one in metrics}


def test_counters_go_with_a_result_but_for_those_that_are_zero():
    counters = [metric("storage_bytes", 2, operation="put", outcome="ok"), metric("deduplicated_bytes", 0)]
    message = write_result(BACKUP, _RESULT, counters=counters)
    assert told(told_counters(message)) == told(counters[:1])
    assert read_outcome(message, BACKUP.work) == _RESULT


def test_counters_go_with_an_error_and_with_what_a_canceled_job_saved():
    counters = [metric("storage_requests", 4, operation="get", outcome="storage.timeout")]
    for message in (
        write_error(JobError(code="storage.timeout", message="no answer"), counters=counters),
        write_error(JobError(code=CanceledError.code, message="canceled"), counters=counters),
        write_result(BACKUP, msgspec.structs.replace(_RESULT, incomplete="canceled"), counters=counters),
    ):
        assert told(told_counters(message)) == told(counters)
    assert message.endswith(CANCELED_ENDING)


@given(_BACKUPS | _RESTORES, st.sampled_from([1, 3, len(_CODES)]))
def test_no_counters_push_a_result_out_of_its_message(result, codes):
    spec = BACKUP if isinstance(result, BackupResult) else RESTORE
    message = write_result(spec, result, counters=everything(codes))
    assert len(message.encode()) <= MAX_TERMINATION_MESSAGE
    back = read_outcome(message, spec.work)
    assert msgspec.structs.replace(back, warnings=()) == msgspec.structs.replace(result, warnings=())
    kept = {one.name for one in told_counters(message)}
    assert {"memory_bytes", "storage_bytes", "cache_lookups", "storage_retries"} <= kept
    assert ("storage_seconds" in kept) == ("storage_latency" in kept)


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=5_000))
def test_an_error_is_not_cut_for_counters(text):
    error = JobError(code="storage.out-of-space", message=text)
    message = write_error(error, counters=everything())
    assert len(message.encode()) <= MAX_TERMINATION_MESSAGE
    with_and_without = [msgspec.json.decode(one)["error"] for one in (message, write_error(error))]
    assert with_and_without[0] == with_and_without[1]


def test_what_a_job_usually_counts_fits_as_a_whole():
    counters = everything(codes=1)
    assert len(told_counters(write_result(BACKUP, _RESULT, counters=counters))) > 50
    busy = {one.name for one in told_counters(write_result(BACKUP, _RESULT, counters=everything(codes=40)))}
    assert "storage_requests" not in busy and "storage_bytes" in busy


def test_of_a_counter_the_last_word_counts_of_memory_the_most_and_unknown_names_not():
    last = LastCounters()
    for memory, uploaded in ((50, 1), (90, 2), (60, 3)):
        last.take(metric("memory_bytes", memory))
        last.take(metric("storage_bytes", uploaded, operation="put", outcome="ok"))
    last.take(metric("something_else", 1))
    assert [(one.name, one.value) for one in last.metrics()] == [("memory_bytes", 90), ("storage_bytes", 3)]


def test_a_worker_with_outcomes_without_end_is_counted_up_to_a_bound():
    last = LastCounters()
    for number in range(1_000):
        last.take(metric("storage_requests", 1, operation="get", outcome=f"code-{number}"))
    assert len(last.metrics()) == MAX_COUNTERS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "[]",
        '{"storage_bytes": 7}',
        '{"storage_bytes": [7]}',
        '{"storage_bytes": [[]]}',
        '{"storage_bytes": [[5]]}',
        '{"storage_bytes": [["put", "ok"]]}',
        '{"storage_bytes": [["put", "ok", -1]]}',
        '{"storage_bytes": [["put", "ok", 1e300]]}',
        '{"storage_bytes": [["put", "ok", 1e999]]}',
        '{"storage_bytes": [["put", "ok", NaN]]}',
        '{"storage_bytes": [["put", "ok", true]]}',
        '{"storage_bytes": [["put", "ok", "5"]]}',
        '{"storage_bytes": [["put", 5, "ok"]]}',
        '{"storage_bytes": [["put", "ok", 5, 5]]}',
        '{"storage_bytes": [["put", "a label\\nwith lines", 5]]}',
        '{"storage_bytes": [["put", "' + "x" * 65 + '", 5]]}',
        '{"surprise": [[5]]}',
        "[" * 5_000,
    ],
)
def test_hostile_counters_are_passed_over_and_the_result_counts(text):
    assert read_counters(text.encode()) == ()
    message = f'{{"snapshotID":"ab","counters":{text}}}'
    assert told_counters(message) == ()


def test_a_result_beside_counters_that_are_nonsense_is_a_result():
    message = write_result(BACKUP, _RESULT)[:-1] + ',"counters":{"storage_bytes":[["put","ok",-1],7]}}'
    assert told_counters(message) == ()
    assert read_outcome(message, BACKUP.work) == _RESULT


def test_more_counters_than_one_worker_can_have_are_not_read():
    rows = [["get", f"code-{number}", 1] for number in range(10_000)]
    text = msgspec.json.encode(dict.fromkeys(("storage_requests", "storage_retries"), rows))
    assert len(read_counters(text)) == MAX_COUNTERS


@given(st.binary(max_size=300) | st.text('{}[]":,0123456789.eE-storage_bytes', max_size=60).map(str.encode))
def test_nothing_that_is_no_counter_is_read_as_one(text):
    assert all(0 <= one.value < 1e18 for one in read_counters(text))
