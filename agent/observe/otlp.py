"""Spans to a collector over OTLP/gRPC, by OpenTelemetry's own SDK. Imported only when there is a collector."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping
from contextlib import suppress

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags, set_span_in_context

from agent import __version__
from agent.observe.tracing import Span, TraceContext, Tracing, Value

_SERVICE = "lighterage"


class _GivenIds(IdGenerator):
    """The ids of the span that is being recorded."""

    def __init__(self) -> None:
        self.context = TraceContext(1, 1)

    def generate_trace_id(self) -> int:
        return self.context.trace_id

    def generate_span_id(self) -> int:
        return self.context.span_id


class OtlpTracing(Tracing):
    """Sends in the background, and drops what a collector does not take in time. For one thread."""

    on = True

    def __init__(self, attributes: Mapping[str, Value], headers: str = "") -> None:
        """The endpoint and how to reach it are read from the process's environment; `headers` too when empty."""
        own = Resource(
            {SERVICE_NAME: _SERVICE, "service.version": __version__, "process.pid": os.getpid(), **attributes}
        )
        self._ids = _GivenIds()
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # whether a trace is wanted is in its context, for all who add to it
            resource=own.merge(OTELResourceDetector().detect()),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(headers=headers or None)))
        self._tracer = self._provider.get_tracer(_SERVICE, __version__)

    def record(self, span: Span) -> None:
        """Send it some time."""
        if not span.context.sampled:
            return
        around = Context()
        if span.parent is not None:
            around = set_span_in_context(NonRecordingSpan(_known(span.parent)), around)
        self._ids.context = span.context
        started = self._tracer.start_span(
            span.name, context=around, attributes=dict(span.attributes), start_time=span.start_ns
        )
        if span.error:
            started.set_attribute("error.type", span.error)
            started.set_status(Status(StatusCode.ERROR, span.error))
        started.end(span.end_ns)

    async def close(self, within: float) -> None:
        """Send what was recorded. A collector that does not answer is left alone after `within` seconds."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop is gone: nobody waits any more
                loop.call_soon_threadsafe(ended.set)

        threading.Thread(target=shut_down, name="traces", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await ended.wait()


def _known(context: TraceContext) -> SpanContext:
    return SpanContext(context.trace_id, context.span_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
