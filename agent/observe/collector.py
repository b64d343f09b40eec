"""Where spans are sent: what the standard variables of OpenTelemetry say. Without them nothing is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import structlog

from agent.observe.tracing import Tracing, Value

_log = structlog.stdlib.get_logger(__name__)

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_HEADERS: Final = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def trace_headers(environ: Mapping[str, str]) -> str:
    """What a collector wants to be shown, `name=value,…`: the only one of the variables that may be secret."""
    return next(filter(None, map(environ.get, _HEADERS)), "")


def tracing_from(environ: Mapping[str, str], attributes: Mapping[str, Value], headers: str = "") -> Tracing:
    """As the variables say. `attributes` are of all spans, and give way to `OTEL_RESOURCE_ATTRIBUTES`.

    `environ` has to be the process's own: the libraries read the details there. `headers` are for processes whose
    environment lacks them (`trace_headers`).
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Tracing()
    if environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp" or not any(map(environ.get, _ENDPOINTS)):
        return Tracing()
    protocol = next(filter(None, map(environ.get, _PROTOCOLS)), "grpc")
    if protocol != "grpc":
        _log.warning("no traces are sent: the only protocol for them is grpc", protocol=protocol[:32])
        return Tracing()
    try:
        from agent.observe.otlp import OtlpTracing  # noqa: PLC0415  # megabytes that only those pay who want traces
    except ImportError as error:
        _log.warning("no traces are sent: the extra `tracing` is not installed", error=str(error))
        return Tracing()
    try:
        return OtlpTracing(attributes, headers)
    except Exception as error:  # noqa: BLE001  # libraries refuse values in many ways, and no job is to fail for that
        _log.warning("no traces are sent: the variables for them are wrong", error=repr(error))
        return Tracing()
