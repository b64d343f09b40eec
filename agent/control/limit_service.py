"""`LimitService`: what the jobs of the node may take together, changed while they run."""

from __future__ import annotations

from agent.base.errors import UsageError
from agent.control.contract import LimitChange, Limits, NodeLimits
from agent.control.v1 import limits_pb2 as pb
from agent.control.v1.limits_pb2_grpc import LimitServiceServicer

_RATES = ("upload_bytes_per_second", "download_bytes_per_second", "requests_per_second")
_MOST_RATE = 10**15
_MOST_JOBS = 1_000


class LimitServicer(LimitServiceServicer):
    """For the limits of one node."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    async def GetLimits(self, request: pb.GetLimitsRequest, context: object) -> pb.GetLimitsResponse:
        """What counts, and why."""
        return pb.GetLimitsResponse(limits=self._state())

    async def SetLimits(self, request: pb.SetLimitsRequest, context: object) -> pb.SetLimitsResponse:
        """Raises `UsageError` for numbers that make no sense; nothing is changed then."""
        self._limits.set(_change(request.limits))
        return pb.SetLimitsResponse(limits=self._state())

    async def ResetLimits(self, request: pb.ResetLimitsRequest, context: object) -> pb.ResetLimitsResponse:
        """What the configuration says counts again."""
        self._limits.reset()
        return pb.ResetLimitsResponse(limits=self._state())

    def _state(self) -> pb.LimitState:
        limits = self._limits
        return pb.LimitState(
            in_force=_message(limits.in_force), set=_message(limits.override), configured=_message(limits.configured)
        )


def _change(given: pb.Limits) -> LimitChange:
    for name in _RATES:
        if not 0 <= getattr(given, name) < _MOST_RATE:
            raise UsageError(f"{name} is a number from 0, which stands for no limit")
    if given.HasField("concurrency") and not 1 <= given.concurrency <= _MOST_JOBS:
        raise UsageError(f"concurrency is a number from 1 to {_MOST_JOBS}")
    return LimitChange(
        upload_bytes_per_second=given.upload_bytes_per_second if given.HasField("upload_bytes_per_second") else None,
        download_bytes_per_second=(
            given.download_bytes_per_second if given.HasField("download_bytes_per_second") else None
        ),
        requests_per_second=given.requests_per_second if given.HasField("requests_per_second") else None,
        concurrency=given.concurrency if given.HasField("concurrency") else None,
    )


def _message(limits: NodeLimits | LimitChange) -> pb.Limits:
    return pb.Limits(
        upload_bytes_per_second=limits.upload_bytes_per_second,
        download_bytes_per_second=limits.download_bytes_per_second,
        requests_per_second=limits.requests_per_second,
        concurrency=limits.concurrency,
    )
