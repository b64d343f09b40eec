"""The phases of an object as spans, across all agents that it meets in its life.

What is needed to go on after a restart is in the object: its `traceparent`, and when its phase began. A phase is
recorded when the next one is written; the object itself, as the root of its trace, when it ends.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from agent.base.clock import Clock
from agent.controllers.job import SINCE_ANNOTATION, TRACE_ANNOTATION, Job, JobT, with_metadata
from agent.kube.job import Phase
from agent.kube.job_names import log_fields
from agent.kube.pod_volume_backup import PodVolumeBackup
from agent.kube.times import ns_from_time
from agent.movers.spec import JobSpec
from agent.observe.tracing import Span, TraceContext, Tracing, Value, parse_traceparent, trace_of

_CODE: Final = re.compile(r"[a-z][a-z0-9.-]{0,63}(?=: )", re.ASCII)
_NS: Final = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)


class PhaseSpans:
    """What `StatusWriter` tells of every phase that it writes."""

    def __init__(self, tracing: Tracing, clock: Clock) -> None:
        self._tracing = tracing
        self._clock = clock

    def marked(self, before: JobT, after: JobT) -> JobT:
        """`after` with what the next agent needs to know, if the phase is another than before."""
        if not self._tracing.on or after.status.phase is before.status.phase:
            return after
        since = None if after.status.phase.is_final else str(self._clock.now_ns())
        annotations = {TRACE_ANNOTATION: str(_context(before)), SINCE_ANNOTATION: since}
        return with_metadata(after, annotations=annotations)

    def record(self, before: Job, written: Job) -> None:
        """The phase before is over; `written` is what the server keeps."""
        if not self._tracing.on:
            return
        root, now = _context(before), self._clock.now_ns()
        created = before.metadata.creation_timestamp
        begun = now if created is None else min(ns_from_time(created), now)
        attributes = _attributes(written)
        phase, error = before.status.phase or Phase.NEW, _error(written)
        self._tracing.record(
            Span(
                name=str(phase),
                context=root.child(str(phase)),
                parent=root,
                start_ns=begun if before.status.phase.is_new else _since(before, now),
                end_ns=now,
                attributes=attributes,
                error=error,
            )
        )
        if written.status.phase.is_final:
            attributes["lighterage.outcome"] = str(written.status.phase)
            name = written.kind
            self._tracing.record(
                Span(name=name, context=root, start_ns=begun, end_ns=now, attributes=attributes, error=error)
            )


def with_trace(spec: JobSpec, job: Job) -> JobSpec:
    """The work as a part of its object's trace: below the phase in which it is done."""
    if TRACE_ANNOTATION not in job.metadata.annotations:
        return spec
    return msgspec.structs.replace(spec, traceparent=str(_context(job).child(str(Phase.IN_PROGRESS))))


def _context(job: Job) -> TraceContext:
    """What an agent wrote when it took the object: what somebody wrote before, or anything else, does not count."""
    known = None if job.status.phase.is_new else parse_traceparent(job.metadata.annotations.get(TRACE_ANNOTATION, ""))
    return known or trace_of(job.metadata.uid)


def _since(job: Job, now: int) -> int:
    text = job.metadata.annotations.get(SINCE_ANNOTATION, "")
    return min(int(text), now) if _NS.fullmatch(text) else now


def _attributes(job: Job) -> dict[str, Value]:
    attributes: dict[str, Value] = {f"lighterage.{name}": value for name, value in log_fields(job).items()}
    attributes["lighterage.node"] = job.spec.node if isinstance(job, PodVolumeBackup) else job.status.node
    attributes["lighterage.bytes"] = job.status.progress.bytes_done
    return attributes


def _error(job: Job) -> str:
    if job.status.phase is not Phase.FAILED:
        return ""
    found = _CODE.match(job.status.message)
    return found.group() if found else str(Phase.FAILED)
