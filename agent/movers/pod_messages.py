"""What a mover pod says: progress in the messages of events, its outcome in the termination message (contract §2.6).

Both are the stock mover's JSON with members of ours beside it, so that either agent understands either pod over a
switch-over. One reader therefore serves for stock pods and for ours. Whatever is read here came from the cluster and is
not trusted: anything that is not understood is an error with a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Final

import msgspec

from agent.base.errors import CanceledError, LighterageError, MoverError, MoverProtocolError
from agent.movers.failure import MAX_TEXT, rebuild
from agent.movers.pod_counters import fitting, read_counters
from agent.movers.protocol import Metric
from agent.movers.spec import (
    Backup,
    BackupResult,
    JobError,
    JobResult,
    JobSpec,
    Progress,
    RestoreBlock,
    RestoreResult,
    RestoreTree,
    Work,
)

MAX_TERMINATION_MESSAGE: Final = 4_096
"""Bytes; the kubelet cuts off what is longer."""
MAX_EVENT_MESSAGE: Final = 1_024
"""Bytes."""
CANCELED_ENDING: Final = "data path is canceled"
"""How the termination message of a canceled mover ends (contract §13.14)."""

_MOST_FOR_COUNTERS = 2_560
"""Bytes of a result; warnings have the rest."""
_MEMBER = len(',"counters":')
_MORE = len('"and 100 more"')
_SHOWN = 200
"""Characters of something that is not understood."""
_SNAPSHOT = re.compile(r"[0-9A-Za-z][-0-9A-Za-z]{0,127}", re.ASCII)

_MAX_COUNT = 2**63 - 1
_Count = Annotated[int, msgspec.Meta(ge=0, le=_MAX_COUNT)]


class _Progress(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A message of progress; stock has the first two."""

    total_bytes: _Count = 0
    done_bytes: _Count = 0
    done_files: _Count = 0
    total_files: _Count | None = None
    cached_bytes: _Count = 0
    errors: _Count = 0


class _Access(msgspec.Struct, frozen=True, kw_only=True):
    """The volume as the mover saw it."""

    by_path: str = msgspec.field(name="byPath", default="")
    volume_mode: str = msgspec.field(name="volumeMode", default="")


class _Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A termination message; ours has a result or an error as well, and what the worker counted."""

    snapshot: str = msgspec.field(name="snapshotID", default="")
    empty_snapshot: bool = msgspec.field(name="emptySnapshot", default=False)
    source: _Access | None = None
    target: _Access | None = None
    total_bytes: _Count = msgspec.field(name="totalBytes", default=0)
    incremental_bytes: _Count = msgspec.field(name="incrementalBytes", default=0)
    result: JobResult | None = None
    error: JobError | None = None
    counters: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Counted(msgspec.Struct, frozen=True):
    """The same, of a message whose other members may be anything."""

    counters: msgspec.Raw = msgspec.Raw()


_progress_decoder = msgspec.json.Decoder(_Progress)
_outcome_decoder = msgspec.json.Decoder(_Outcome)
_counted_decoder = msgspec.json.Decoder(_Counted)


def write_progress(progress: Progress) -> str:
    """The message of a progress event."""
    message = _Progress(
        total_bytes=progress.bytes_total or 0,
        done_bytes=progress.bytes_done,
        done_files=progress.files_done,
        total_files=progress.files_total,
        cached_bytes=progress.bytes_cached,
        errors=progress.errors,
    )
    return msgspec.json.encode(message).decode()


def read_progress(message: str) -> Progress | None:
    """What a progress event says, the stock mover's too; None when it is not understood."""
    try:
        said = _progress_decoder.decode(message)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return Progress(
        bytes_done=said.done_bytes,
        bytes_total=said.total_bytes or None,
        files_done=said.done_files,
        files_total=said.total_files,
        bytes_cached=said.cached_bytes,
        errors=said.errors,
    )


def write_result(
    spec: JobSpec, result: JobResult, limit: int = MAX_TERMINATION_MESSAGE, counters: Iterable[Metric] = ()
) -> str:
    """A result in at most `limit` bytes; counters that do not fit are left out, warnings are only counted."""
    bare = _encode(spec.work, msgspec.structs.replace(result, warnings=()), b"")
    room = limit - len(bare.encode()) - _MEMBER - _MORE
    told = fitting(counters, min(room, _MOST_FOR_COUNTERS))
    kept = len(result.warnings)
    while True:
        shown = result
        if left_out := len(result.warnings) - kept:
            warnings = (*result.warnings[:kept], f"and {left_out} more")
            shown = msgspec.structs.replace(result, warnings=warnings)
        text = _encode(spec.work, shown, told)
        if len(text.encode()) <= limit or kept == 0:
            return text
        kept //= 2


def write_error(error: JobError, limit: int = MAX_TERMINATION_MESSAGE, counters: Iterable[Metric] = ()) -> str:
    """An error in at most `limit` bytes, its text cut where it has to be; counters get the room that is left."""
    length = MAX_TEXT
    while True:
        cut = JobError(code=error.code, message=_cut(error.message, length), hint=_cut(error.hint, length))
        text = _ended(_Outcome(error=cut), canceled=error.code == CanceledError.code)
        if len(text.encode()) <= limit or length == 0:
            break
        length //= 2
    told = fitting(counters, limit - len(text.encode()) - _MEMBER)
    return _ended(_Outcome(error=cut, counters=_raw(told)), canceled=error.code == CanceledError.code)


def is_outcome(message: str) -> bool:
    """Whether a mover wrote this, as far as can be seen without reading it."""
    return message.startswith("{") or message.endswith(CANCELED_ENDING)


def read_outcome(message: str, work: Work) -> JobResult:
    """The result that a termination message tells of, checked against the kind of work.

    Raises what it tells of otherwise: the leaf that our worker reported, `CanceledError`, a `MoverError` with the words
    of a stock mover, and `MoverProtocolError` for what is not understood.
    """
    text, canceled = _parts(message)
    if not text.startswith("{"):
        if canceled:
            raise CanceledError(f"the mover was canceled{': ' if text else ''}{clipped(text)}")
        raise MoverError(f"the mover pod failed: {clipped(text)}", hint="the pod's log has more")
    outcome = _decode(text)
    if outcome.error is not None:
        raise _rebuilt(outcome.error)
    result = outcome.result or _stock_result(outcome)
    if result is None or not _is_plausible(result):
        raise MoverProtocolError(f"the termination message of the mover pod tells of no result: {clipped(text)}")
    if isinstance(work, Backup) != isinstance(result, BackupResult):
        raise MoverProtocolError(f"the mover pod did other work than it was given: {clipped(text)}")
    if canceled and not (isinstance(result, BackupResult) and result.incomplete):
        raise CanceledError("the mover was canceled")
    return result


def told_counters(message: str) -> tuple[Metric, ...]:
    """What the worker had counted by its end, whatever that was; nothing where it is not told or not understood."""
    try:
        return read_counters(bytes(_counted_decoder.decode(_parts(message)[0]).counters))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ()


def _parts(message: str) -> tuple[str, bool]:
    """The JSON or words of a termination message, and whether it ends as a canceled mover's."""
    text = message.strip()
    if text.endswith(CANCELED_ENDING):
        return text.removesuffix(CANCELED_ENDING).strip(), True
    return text, False


def _encode(work: Work, result: JobResult, counters: bytes) -> str:
    if isinstance(result, RestoreResult):
        target = _Access(by_path=_cut(work.target, _SHOWN) if isinstance(work, RestoreTree | RestoreBlock) else "")
        outcome = _Outcome(target=target, total_bytes=result.bytes, result=result, counters=_raw(counters))
        return _ended(outcome, canceled=False)
    outcome = _Outcome(
        snapshot=result.snapshot,
        source=_Access(by_path=_cut(work.path, _SHOWN) if isinstance(work, Backup) else ""),
        total_bytes=result.total_bytes,
        incremental_bytes=result.incremental_bytes,
        result=result,
        counters=_raw(counters),
    )
    return _ended(outcome, canceled=bool(result.incomplete))


def _ended(outcome: _Outcome, *, canceled: bool) -> str:
    text = msgspec.json.encode(outcome).decode()
    return f"{text}\n{CANCELED_ENDING}" if canceled else text


def _raw(counters: bytes) -> msgspec.Raw | msgspec.UnsetType:
    return msgspec.Raw(counters) if counters else msgspec.UNSET


def _decode(text: str) -> _Outcome:
    try:
        return _outcome_decoder.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MoverProtocolError(
            f"the termination message of the mover pod cannot be understood ({error}): {clipped(text)}",
            hint="the pod's log has more",
        ) from None


def _rebuilt(described: JobError) -> LighterageError:
    """As it was reported, of bounded length whoever wrote it."""
    shorter = JobError(
        code=_cut(described.code, _SHOWN),
        message=_cut(described.message, MAX_TEXT),
        hint=_cut(described.hint, MAX_TEXT),
    )
    return rebuild(shorter)


def _stock_result(outcome: _Outcome) -> JobResult | None:
    if outcome.target is not None:
        return RestoreResult(bytes=outcome.total_bytes, files=0, directories=0, downloaded_bytes=0, denied=0)
    if not outcome.snapshot and not outcome.empty_snapshot:
        return None
    return BackupResult(
        snapshot=outcome.snapshot,
        total_bytes=outcome.total_bytes,
        incremental_bytes=outcome.incremental_bytes,
        uploaded_bytes=0,
        files=0,
        errors=0,
    )


def _is_plausible(result: JobResult) -> bool:
    """Whether it can go into the status of an object."""
    if isinstance(result, RestoreResult):
        return _are_counts(result.bytes, result.files, result.directories, result.downloaded_bytes, result.denied)
    counts = (result.total_bytes, result.incremental_bytes, result.uploaded_bytes, result.files, result.errors)
    return _are_counts(*counts) and (not result.snapshot or _SNAPSHOT.fullmatch(result.snapshot) is not None)


def _are_counts(*values: int) -> bool:
    return all(0 <= value <= _MAX_COUNT for value in values)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: max(length - 1, 0)] + "…"


def clipped(text: str) -> str:
    """Something that is not trusted, for a sentence: printable and short."""
    return ascii(text[:_SHOWN])[1:-1] + ("…" if len(text) > _SHOWN else "")
