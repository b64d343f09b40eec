"""What a mover pod says, written and read."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.base.errors import CanceledError, LighterageError
from agent.movers.pod_messages import (
    CANCELED_ENDING,
    MAX_TERMINATION_MESSAGE,
    read_outcome,
    read_progress,
    write_error,
    write_progress,
    write_result,
)
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
