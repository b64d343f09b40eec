"""A collector that keeps what it is sent: OTLP over gRPC, on a port of its own on loopback.

with OtlpReceiver() as receiver:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc
import msgspec
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class ReceivedSpan(msgspec.Struct, frozen=True):
    """A span as it came over the wire; ids as hexadecimal digits."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty: the root of its trace."""
    start_ns: int
    end_ns: int
    attributes: dict[str, str | int]
    resource: dict[str, str | int]
    error: str


class OtlpReceiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Use it as a context manager."""

    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        """In the order in which they came."""
        self.authorizations: set[str] = set()
        """What senders have shown; empty for nothing."""
        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def Export(  # noqa: N802  # named by the protocol
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """Keep what was sent."""
        shown = dict(context.invocation_metadata() or ())
        self.authorizations.add(str(shown.get("authorization", "")))
        for sent in request.resource_spans:
            resource = _plain(sent.resource.attributes)
            for scope in sent.scope_spans:
                self.spans += [
                    ReceivedSpan(
                        name=span.name,
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent_id=span.parent_span_id.hex(),
                        start_ns=span.start_time_unix_nano,
                        end_ns=span.end_time_unix_nano,
                        attributes=_plain(span.attributes),
                        resource=resource,
                        error=span.status.message,
                    )
                    for span in scope.spans
                ]
        return trace_service_pb2.ExportTraceServiceResponse()

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.stop(None).wait()


def _plain(attributes: Any) -> dict[str, str | int]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
