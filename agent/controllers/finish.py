"""How objects end: what was made for them goes first, then the final phase is written, then the finalizer goes.

A verdict stays in memory until it is written: an object that is to fail is not exposed once more because the API server
did not answer. After a crash the next agent finds the object unfinished and comes to a verdict of its own. For what
another agent should have ended the phase is written first, so that of many agents one only cleans up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic

import msgspec

from agent.base.errors import CanceledError, KubeConflict, KubeError, LighterageError, RebindFailed
from agent.controllers.context import Again, Context
from agent.controllers.job import (
    MOVED_ANNOTATION,
    JobT,
    is_canceled,
    is_deleted,
    with_finalizer,
    with_metadata,
    with_status,
    without_finalizer,
)
from agent.controllers.kind import JobKind
from agent.controllers.memory import Remembered, Verdict
from agent.controllers.moving import Failed, Moved, Outcome
from agent.controllers.reasons import in_the_cluster
from agent.controllers.sources import pod_versions
from agent.exposers.contract import Broken, Done, Waiting
from agent.kube.job import Phase
from agent.kube.job import Progress as JobProgress
from agent.movers.spec import BackupResult, JobResult, Progress

_CLEAN_UP_SECONDS = 60.0
"""How long an object waits for its leftovers before its end is told; they are removed afterwards all the same."""
_CLEAN_UP_FAILED_SECONDS = 5.0
"""The same for a failure, which is told when it is known: what keeps a volume away keeps its leftovers, too."""
_FINISH_SECONDS = 600.0
_KEEP_FINALIZER_SECONDS = 600.0
_SOON = 2.0
_SOONEST = 0.5
"""Until the next look at what is going: most of it takes a second or two, for which no object should wait longer."""
_PROGRESS_SECONDS = 10.0
_MAX_KEPT = 4_096
"""Bytes of a result in an annotation."""


class Finisher(Generic[JobT]):
    """The ends of one kind."""

    def __init__(self, kind: JobKind[JobT], context: Context) -> None:
        self._kind = kind
        self._context = context

    def is_decided(self, job: JobT, memory: Remembered[JobT]) -> bool:
        """Whether there is a verdict that is not written yet, and still holds."""
        if memory.verdict is not None and not self._holds(memory.verdict, job):
            memory.verdict = memory.cleaning = None
        return memory.verdict is not None

    async def go_on(self, job: JobT, memory: Remembered[JobT]) -> Again:
        """Execute the verdict that there is."""
        return None if memory.verdict is None else await self._end(job, memory, memory.verdict)

    async def fail(self, job: JobT, memory: Remembered[JobT], error: LighterageError) -> Again:
        """It ends Failed."""
        return await self._end(job, memory, self._verdict(job, Phase.FAILED, _sentence(error)))

    async def cancel(self, job: JobT, memory: Remembered[JobT], error: CanceledError) -> Again:
        """It ends Canceled, or as servers that mistake that for something else need it."""
        return await self._end(job, memory, self._verdict(job, self._kind.canceled_phase, str(error)))

    async def end_at_once(self, job: JobT, memory: Remembered[JobT], error: LighterageError) -> Again:
        """End what is new, or another agent's: the phase first, and only if nobody else changed anything meanwhile.

        Raises `KubeConflict` when somebody did. Whoever wrote the phase cleans up; the finalizer waits for that.
        """
        canceled = isinstance(error, CanceledError)
        phase = self._kind.canceled_phase if canceled else Phase.FAILED
        after = self._context.writer.final(job, phase, str(error) if canceled else _sentence(error))
        # Also of what was never exposed: the source's snapshot is the agent's to remove.
        if not (job.status.phase.is_new and is_deleted(job)):  # nothing new may be added to what is being deleted
            after = with_finalizer(after, self._kind.finalizer)
        await self._context.writer.write(self._kind.resource, job, after)
        memory.ended = True
        return _SOON

    async def conclude(self, job: JobT, memory: Remembered[JobT], outcome: Outcome, *, canceled: str = "") -> Again:
        """The data moved, or did not. `canceled` says by whom, if it was canceled."""
        if job.status.phase is not Phase.IN_PROGRESS:  # as long as others count it, it takes its slot
            self._context.slots.release((self._kind.name, job.key))
        if isinstance(outcome, Failed):
            if isinstance(outcome.error, CanceledError):
                return await self._stopped(job, memory, canceled, str(outcome.error))
            return await self.fail(job, memory, in_the_cluster(job, outcome.error))
        result = outcome.result
        if isinstance(result, BackupResult) and result.incomplete:
            return await self._stopped(job, memory, canceled, f"the backup is incomplete: {result.incomplete}")
        return await self._complete(job, memory, result)

    async def _stopped(self, job: JobT, memory: Remembered[JobT], canceled: str, otherwise: str) -> Again:
        """Its work was stopped: by whoever canceled the object, else by us, which is a failure."""
        if canceled or is_canceled(job):
            return await self.cancel(job, memory, CanceledError(canceled or otherwise))
        return await self.fail(job, memory, CanceledError(memory.overrun or otherwise))

    def moved(self, job: JobT) -> Moved | None:
        """What an agent before this one found when it had moved the data of this object; None when none did."""
        kept = job.metadata.annotations.get(MOVED_ANNOTATION)
        if not kept:
            return None
        try:
            return Moved(msgspec.json.decode(kept, type=JobResult))
        except (msgspec.MsgspecError, ValueError):
            return None  # whatever that is, it is none of ours: the data is moved once more

    async def show_progress(self, job: JobT, memory: Remembered[JobT], progress: Progress | None) -> Again:
        """Write how far it is, when it is time to; what cannot be written now is overtaken by the next."""
        now = self._context.clock.monotonic()
        since = memory.progress_shown if memory.progress_shown is not None else memory.started
        if now - since < _PROGRESS_SECONDS:
            return _PROGRESS_SECONDS - (now - since)
        if progress is None:
            return _PROGRESS_SECONDS
        shown = JobProgress(total_bytes=progress.bytes_total or 0, bytes_done=progress.bytes_done)
        if shown != job.status.progress:
            await self._context.writer.write(self._kind.resource, job, with_status(job, progress=shown))
            memory.progress_shown = now
        return _PROGRESS_SECONDS

    async def release(self, job: JobT, memory: Remembered[JobT]) -> Again:
        """The object is final: take our finalizer away when nothing is left of it, or it takes too long."""
        context = self._context
        patience = _CLEAN_UP_SECONDS if is_deleted(job) else _KEEP_FINALIZER_SECONDS
        if not await self._is_clean(job, memory, patience):
            return _SOON
        await context.writer.write(self._kind.resource, job, without_finalizer(job, self._kind.finalizer))
        return None

    async def tidy(self, job: JobT, memory: Remembered[JobT]) -> Again:
        """Another agent ended it, and cleaned up; what this one made at the same time is removed once more."""
        return None if await self._is_clean(job, memory, _KEEP_FINALIZER_SECONDS) else _SOON

    async def _complete(self, job: JobT, memory: Remembered[JobT], result: JobResult) -> Again:
        context = self._context
        kept = msgspec.json.encode(_short(result)).decode()
        if job.metadata.annotations.get(MOVED_ANNOTATION) != kept:
            after = with_metadata(job, annotations={MOVED_ANNOTATION: kept})
            job = await context.writer.write(self._kind.resource, job, after)
        if memory.finishing is None:
            memory.finishing = context.clock.monotonic()
        late = context.clock.monotonic() - memory.finishing > _FINISH_SECONDS
        try:
            state = await self._kind.exposer.finish(job)
        except KubeError as error:
            if not late:
                raise
            state = Broken(error)
        if isinstance(state, Waiting) and late:
            reason = f"the volume was not handed over within {_FINISH_SECONDS:.0f} s: {state.reason}"
            state = Broken(RebindFailed(reason))
        if isinstance(state, Waiting):
            return self._soon(memory.finishing)
        if isinstance(state, Broken):
            return await self.fail(job, memory, state.error)
        return await self._end(job, memory, self._verdict(job, Phase.COMPLETED, _remark(result), _told(result)))

    def _verdict(
        self, job: JobT, phase: Phase, message: str, change: Callable[[JobT], JobT] | None = None
    ) -> Verdict[JobT]:
        return Verdict(phase, message, change, self._context.clock.monotonic(), self._kind.node(job))

    def _holds(self, verdict: Verdict[JobT], job: JobT) -> bool:
        return self._kind.node(job) in {verdict.node, self._context.node, ""}

    async def _end(self, job: JobT, memory: Remembered[JobT], verdict: Verdict[JobT]) -> Again:
        """Clean up, then write. The first verdict counts."""
        context, kind = self._context, self._kind
        if memory.verdict is None:
            memory.verdict = verdict
        decided = memory.verdict
        patience = _CLEAN_UP_FAILED_SECONDS if decided.phase is Phase.FAILED else _CLEAN_UP_SECONDS
        if not await self._is_clean(job, memory, patience):
            return self._soon(memory.cleaning)
        clean = memory.cleaning is None

        def final(seen: JobT) -> JobT:
            ended = decided.change(seen) if decided.change else seen
            ended = context.writer.final(ended, decided.phase, decided.message)
            return without_finalizer(ended, kind.finalizer) if clean and not is_deleted(seen) else ended

        try:
            await context.writer.write_final(kind.resource, job, final, holds=lambda seen: self._holds(decided, seen))
        except KubeConflict:
            memory.verdict = memory.cleaning = None
            raise
        memory.ended, memory.verdict = True, None
        job_id = (kind.name, job.key)
        context.movings.end(job_id, "the object is final")
        context.slots.release(job_id)
        return None

    def _soon(self, since: float | None) -> float:
        """When to look again at what has been going on since then: ever later."""
        waited = 0.0 if since is None else self._context.clock.monotonic() - since
        return min(_SOON, max(_SOONEST, waited))

    async def _is_clean(self, job: JobT, memory: Remembered[JobT], patience: float) -> bool:
        """Whether nothing is left of it, or too long was waited for that, which `memory.cleaning` then still says.

        Not asked again at once because something was written: only when time has passed, or its pod has gone.
        """
        now, pods = self._context.clock.monotonic(), pod_versions(self._context.pods, self._kind.pod_label, job)
        if memory.cleaning is not None and now < memory.look_from and bool(memory.pods) == bool(pods):
            return False
        since = memory.cleaning = now if memory.cleaning is None else memory.cleaning
        memory.look_from, memory.pods = now + _SOONEST, pods
        late = now - since >= patience
        try:
            state = await self._kind.exposer.clean_up(job)
        except KubeError:
            if not late:
                raise
            return True
        if isinstance(state, Done):
            memory.cleaning, memory.exposed = None, False
            return True
        return late


def _short(result: JobResult) -> JobResult:
    """The same, with so few warnings that it fits into an annotation."""
    kept = result
    while len(msgspec.json.encode(kept)) > _MAX_KEPT and kept.warnings:
        kept = msgspec.structs.replace(kept, warnings=kept.warnings[: len(kept.warnings) // 2])
    return kept


def _sentence(error: LighterageError) -> str:
    """For `status.message`: the code, what happened, what to do."""
    return f"{error.code}: {error}"


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
                path=f"/{job.metadata.uid}",
                snapshot_id=result.snapshot,
                incremental_bytes=result.incremental_bytes,
                progress=JobProgress(total_bytes=total, bytes_done=total),
            )
        total = max(result.bytes, job.status.progress.total_bytes)
        return with_status(job, progress=JobProgress(total_bytes=total, bytes_done=total))

    return change
