"""Errors on their way through gRPC: a leaf of the tree becomes a status with details, and the same leaf again.

The status code is for any client; the detail `google.rpc.ErrorInfo` holds the stable code of the leaf as `reason`, and
in its metadata whether trying again can help (`retryable`) and what to do (`hint`).
"""

from __future__ import annotations

from typing import Final

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from agent.base import errors
from agent.base.errors import LighterageError
from agent.movers.failure import rebuild
from agent.movers.spec import JobError

DOMAIN: Final = "lighterage.io"
_DETAILS: Final = "grpc-status-details-bin"
_MOST_TEXT = 4_096

_STATUS: Final = {
    errors.UsageError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.CanceledError: grpc.StatusCode.CANCELLED,
    errors.ControlUnauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.ControlForbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.ControlJobNotFound: grpc.StatusCode.NOT_FOUND,
    errors.ControlBusy: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.ControlDeadline: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.ControlUnsupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.KubeNotFound: grpc.StatusCode.NOT_FOUND,
    errors.KubeConflict: grpc.StatusCode.ABORTED,
    errors.SnapshotNotFound: grpc.StatusCode.NOT_FOUND,
    errors.PathNotInSnapshot: grpc.StatusCode.NOT_FOUND,
    errors.LocationNotFound: grpc.StatusCode.NOT_FOUND,
    errors.NotARepository: grpc.StatusCode.NOT_FOUND,
    errors.SourceGone: grpc.StatusCode.NOT_FOUND,
    errors.CorruptFormat: grpc.StatusCode.DATA_LOSS,
    errors.CorruptIndex: grpc.StatusCode.DATA_LOSS,
    errors.CorruptContent: grpc.StatusCode.DATA_LOSS,
    errors.CorruptManifest: grpc.StatusCode.DATA_LOSS,
    errors.CorruptObject: grpc.StatusCode.DATA_LOSS,
    errors.CorruptBlob: grpc.StatusCode.DATA_LOSS,
    errors.CorruptDirectory: grpc.StatusCode.DATA_LOSS,
    errors.ContentNotFound: grpc.StatusCode.DATA_LOSS,
    errors.VerificationFailed: grpc.StatusCode.DATA_LOSS,
    errors.MoverOutOfMemory: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.OutOfSpace: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.VolumeOutOfSpace: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""Of these leaves, and what is below them. Others: UNAVAILABLE when trying again can help, else FAILED_PRECONDITION."""

_WITHOUT_DETAILS: Final = {
    grpc.StatusCode.UNAVAILABLE: errors.ControlUnreachable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.ControlDeadline,
    grpc.StatusCode.UNAUTHENTICATED: errors.ControlUnauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.ControlForbidden,
    grpc.StatusCode.UNIMPLEMENTED: errors.ControlUnsupported,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ControlBusy,
    grpc.StatusCode.CANCELLED: errors.CanceledError,
    grpc.StatusCode.INVALID_ARGUMENT: errors.UsageError,
}
"""What a status means that gRPC itself made."""


def status_of(error: LighterageError) -> grpc.StatusCode:
    """The status code for an error."""
    for cls in type(error).__mro__:
        if cls in _STATUS:
            return _STATUS[cls]
    if type(error) is LighterageError:
        return grpc.StatusCode.INTERNAL
    return grpc.StatusCode.UNAVAILABLE if error.retryable else grpc.StatusCode.FAILED_PRECONDITION


def trailers_of(error: LighterageError) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata with the details of an error."""
    metadata = {"retryable": "true" if error.retryable else "false"}
    if error.hint:
        metadata["hint"] = error.hint[:_MOST_TEXT]
    info = ErrorInfo(reason=error.code, domain=DOMAIN, metadata=metadata)
    detail = Any()
    detail.Pack(info)
    status = Status(code=status_of(error).value[0], message=error.message[:_MOST_TEXT], details=[detail])
    return ((_DETAILS, status.SerializeToString()),)


def from_rpc(error: grpc.aio.AioRpcError, where: str) -> LighterageError:
    """The leaf that a failed call stands for. `where` is the address that was asked."""
    told = error.details() or ""
    for name, value in error.trailing_metadata():
        if name == _DETAILS and (found := _described(value, told)) is not None:
            return rebuild(found)
    leaf = _WITHOUT_DETAILS.get(error.code(), errors.ControlError)
    return leaf(f"the agent at {where} cannot be asked: {told or error.code().name}", hint=_hint(leaf))


def _described(value: str | bytes, told: str) -> JobError | None:
    """What the details say; None when they are not ours or no details at all."""
    try:
        status = Status.FromString(value if isinstance(value, bytes) else value.encode())
    except ValueError:
        return None
    info = ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info) and info.domain == DOMAIN:
            return JobError(code=info.reason, message=status.message or told, hint=info.metadata.get("hint", ""))
    return None


def _hint(leaf: type[LighterageError]) -> str:
    if leaf is errors.ControlUnreachable:
        return "check that the agent runs and listens there, and its certificate"
    if leaf is errors.ControlUnsupported:
        return "use the command line of the agent's own release"
    return ""
