"""How objects end: what was made for them goes first, then the final phase is written, then the finalizer goes.

A verdict stays in memory until it is written: an object that is to fail is not exposed once more because the API server
did not answer. After a crash the next agent finds the object unfinished and comes to a verdict of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

import msgspec

from agent.base.errors import CanceledError, KubeConflict, KubeError, LighterageError, RebindFailed
from agent.controllers.job import MOVED_ANNOTATION, JobT, is_canceled, is_deleted, with_metadata, with_status
from agent.controllers.moving import Failed, Moved, Outcome
from agent.exposers.contract import Broken, Done, Waiting
from agent.kube.job import Phase
from agent.kube.job import Progress as JobProgress
from agent.kube.meta import Key
from agent.movers.spec import BackupResult, JobResult, Progress

if TYPE_CHECKING:
    from agent.controllers.kind import JobKind
    from agent.controllers.machine import Again, Context

_CLEAN_UP_SECONDS = 60.0
"""How long an object waits for its leftovers before its end is told; they are removed afterwards all the same."""
_FINISH_SECONDS = 600.0
_KEEP_FINALIZER_SECONDS = 600.0
_SOON = 2.0
_MAX_KEPT = 4_096
"""Bytes of a result in an annotation."""


@dataclass(frozen=True, slots=True)
class _Verdict(Generic[JobT]):
    phase: Phase
    message: str
    change: Callable[[JobT], JobT] | None
    since: float


class Finisher(Generic[JobT]):
    """The ends of one kind."""

    def __init__(self, kind: JobKind[JobT], context: Context) -> None:
        self._kind = kind
        self._context = context
        self._verdicts: dict[Key, _Verdict[JobT]] = {}
        self._since: dict[Key, float] = {}
        self._ended: dict[Key, str] = {}

    def is_decided(self, job: JobT) -> bool:
        """Whether there is a verdict that is not written yet."""
        return job.key in self._verdicts

    def has_ended(self, job: JobT) -> bool:
        """Whether its final phase is written and the store only does not show it yet."""
        return self._ended.get(job.key) == job.metadata.uid

    async def go_on(self, job: JobT) -> Again:
        """Execute the verdict that there is."""
        return await self._end(job, self._verdicts[job.key])

    def forget(self, key: Key) -> None:
        """The object is gone, or another of its name came."""
        self._verdicts.pop(key, None)
        self._since.pop(key, None)
        self._ended.pop(key, None)

    async def fail(self, job: JobT, error: LighterageError, facts: tuple[str, ...] = ()) -> Again:
        """It ends Failed; `facts` follow the error as far as there is room."""
        text = f"{error.code}: {error}" + "".join(f"; {fact}" for fact in facts)
        return await self._end(job, self._verdict(Phase.FAILED, text))

    async def cancel(self, job: JobT, error: CanceledError) -> Again:
        """It ends Canceled, or as servers that mistake that for something else need it."""
        return await self._end(job, self._verdict(self._kind.canceled_phase, str(error)))

    async def conclude(self, job: JobT, outcome: Outcome, *, canceled: str = "") -> Again:
        """The data moved, or did not."""
        if isinstance(outcome, Failed):
            if isinstance(outcome.error, CanceledError) and (canceled or is_canceled(job)):
                return await self.cancel(job, CanceledError(canceled or str(outcome.error)))
            return await self.fail(job, outcome.error)
        result = outcome.result
        if isinstance(result, BackupResult) and result.incomplete:
            reason = canceled or f"the backup is incomplete: {result.incomplete}"
            return await self.cancel(job, CanceledError(reason))
        return await self._complete(job, result)

    def moved(self, job: JobT) -> Moved | None:
        """What an agent before this one found when it had moved the data of this object; None when none did."""
        kept = job.metadata.annotations.get(MOVED_ANNOTATION)
        if not kept:
            return None
        try:
            return Moved(msgspec.json.decode(kept, type=JobResult))
        except (msgspec.MsgspecError, ValueError):
            return None  # whatever that is, it is none of ours: the data is moved once more

    async def show_progress(self, job: JobT, progress: Progress) -> None:
        """Write how far it is; what cannot be written now is overtaken by the next."""
        shown = JobProgress(total_bytes=progress.bytes_total or 0, bytes_done=progress.bytes_done)
        if shown == job.status.progress:
            return
        try:
            await self._context.writer.write(self._kind.resource, job, with_status(job, progress=shown))
        except KubeConflict:
            return

    async def release(self, job: JobT) -> Again:
        """The object is final: take our finalizer away when nothing is left of it, or it takes too long."""
        context = self._context
        since = self._since.setdefault(job.key, context.clock.monotonic())
        waited = context.clock.monotonic() - since
        patience = _CLEAN_UP_SECONDS if is_deleted(job) else _KEEP_FINALIZER_SECONDS
        try:
            state = await self._kind.exposer.clean_up(job)
        except KubeError:
            if waited < patience:
                raise
            state = Done()
        if isinstance(state, Waiting) and waited < patience:
            return _SOON
        finalizers = tuple(name for name in job.metadata.finalizers if name != self._kind.finalizer)
        await context.writer.write(self._kind.resource, job, with_metadata(job, finalizers=finalizers))
        self.forget(job.key)
        return None

    async def _complete(self, job: JobT, result: JobResult) -> Again:
        context = self._context
        if MOVED_ANNOTATION not in job.metadata.annotations:
            kept = msgspec.json.encode(_short(result)).decode()
            job = await context.writer.write(
                self._kind.resource, job, with_metadata(job, annotations={MOVED_ANNOTATION: kept})
            )
        since = self._since.setdefault(job.key, context.clock.monotonic())
        state = await self._kind.exposer.finish(job)
        if isinstance(state, Broken):
            return await self.fail(job, state.error)
        if isinstance(state, Waiting):
            if context.clock.monotonic() - since < _FINISH_SECONDS:
                return _SOON
            return await self.fail(
                job, RebindFailed(f"the volume was not handed over within {_FINISH_SECONDS:.0f} s: {state.reason}")
            )
        return await self._end(job, self._verdict(Phase.COMPLETED, _remark(result), _told(result)))

    def _verdict(self, phase: Phase, message: str, change: Callable[[JobT], JobT] | None = None) -> _Verdict[JobT]:
        return _Verdict(phase, message, change, self._context.clock.monotonic())

    async def _end(self, job: JobT, verdict: _Verdict[JobT]) -> Again:
        context = self._context
        verdict = self._verdicts.setdefault(job.key, verdict)
        late = context.clock.monotonic() - verdict.since >= _CLEAN_UP_SECONDS
        try:
            state = await self._kind.exposer.clean_up(job)
        except KubeError:
            if not late:
                raise
        else:
            if isinstance(state, Waiting) and not late:
                return _SOON
        await context.writer.write_final(self._kind.resource, job, verdict.phase, verdict.message, verdict.change)
        self.forget(job.key)
        self._ended[job.key] = job.metadata.uid
        context.slots.release((self._kind.name, job.key))
        context.movings.end((self._kind.name, job.key), "the object is final")
        return None


def _short(result: JobResult) -> JobResult:
    """The same, with so few warnings that it fits into an annotation."""
    kept = result
    while len(msgspec.json.encode(kept)) > _MAX_KEPT and kept.warnings:
        kept = msgspec.structs.replace(kept, warnings=kept.warnings[: len(kept.warnings) // 2])
    return kept


def _remark(result: JobResult) -> str:
    """What a person should know of something that went well."""
    notes = list(result.warnings)
    if isinstance(result, BackupResult) and result.total_bytes == 0:
        notes.insert(0, "the volume was empty")
    return "; ".join(notes)


def _told(result: JobResult) -> Callable[[JobT], JobT]:
    """The fields of a status that a result fills (contract §1.2–§1.5)."""

    def change(job: JobT) -> JobT:
        if isinstance(result, BackupResult):
            total = result.total_bytes
            return with_status(
                job,
                snapshot_id=result.snapshot,
                incremental_bytes=result.incremental_bytes,
                progress=JobProgress(total_bytes=total, bytes_done=total),
            )
        total = max(result.bytes, job.status.progress.total_bytes)
        return with_status(job, progress=JobProgress(total_bytes=total, bytes_done=total))

    return change
