"""Spans: what the phases of an object and the stages of its work took, told to a collector when there is one.

Whoever knows that something has ended records it with its times, so nothing is held open, and what a crash left open is
recorded by whoever goes on. Ids are derived from the object's uid: agents and workers that know nothing of each other
make one trace. Where they are sent is for `collector` to say.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

import msgspec

from agent.base.clock import Clock
from agent.base.errors import LighterageError

_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", re.ASCII)
_SAMPLED: Final = 1

Value = str | int
Stage = Callable[[str], AbstractContextManager[None]]
"""Takes the name of a stage, and the time that is spent within."""


class TraceContext(msgspec.Struct, frozen=True):
    """One span, as others refer to it."""

    trace_id: int
    span_id: int
    sampled: bool = True

    def child(self, name: str) -> TraceContext:
        """Of a span below this one; always the same for the same name."""
        return TraceContext(self.trace_id, _id(8, f"{self.trace_id:032x}{self.span_id:016x}{name}"), self.sampled)

    def __str__(self) -> str:
        """As a W3C `traceparent`."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.sampled):02x}"


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Something that has ended. No name of a file, and nothing secret, belongs in it."""

    name: str
    context: TraceContext
    parent: TraceContext | None = None
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Value] = msgspec.field(default_factory=dict)
    error: str = ""
    """The code of the error that was its end."""


class Tracing:
    """Where spans go. This one has nowhere to send them."""

    on: bool = False

    def record(self, span: Span) -> None:
        """Send it some time. Never fails, never waits."""

    async def close(self, within: float) -> None:
        """Send what was recorded, for so many seconds at most."""


def trace_of(uid: str) -> TraceContext:
    """The span of the object with this uid, which is the root of its trace."""
    return TraceContext(_id(16, f"trace {uid}"), _id(8, f"span {uid}"))


def parse_traceparent(text: str) -> TraceContext | None:
    """None for what is no `traceparent` of version 00, whoever wrote it."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    return TraceContext(trace_id, span_id, bool(flags & _SAMPLED)) if trace_id and span_id else None


def untimed(_: str) -> AbstractContextManager[None]:
    """The stage that nobody wants to know of."""
    return nullcontext()


def timed(tracing: Tracing, clock: Clock, parent: TraceContext) -> Stage:
    """Stages that are recorded below `parent`."""

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        begun, error = clock.now_ns(), ""
        try:
            yield
        except BaseException as problem:
            error = problem.code if isinstance(problem, LighterageError) else type(problem).__name__
            raise
        finally:
            context = parent.child(name)
            ended = clock.now_ns()
            span = Span(name=name, context=context, parent=parent, start_ns=begun, end_ns=ended, error=error)
            tracing.record(span)

    return stage


def _id(size: int, text: str) -> int:
    """So many bytes, never 0."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:size]) or 1
