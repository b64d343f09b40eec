"""A client of agents: plain calls, pages followed, errors as the leaves that the agent raised.

async with connect(Target("unix:/run/lighterage/control.sock")) as client:
    node = await client.node()
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar

import grpc
import msgspec

from agent.base.errors import ControlIncomplete, UsageError
from agent.control.errors import from_rpc
from agent.control.v1 import jobs_pb2, limits_pb2, node_pb2, snapshots_pb2
from agent.control.v1.jobs_pb2_grpc import JobServiceStub
from agent.control.v1.limits_pb2_grpc import LimitServiceStub
from agent.control.v1.node_pb2_grpc import NodeServiceStub
from agent.control.v1.snapshots_pb2_grpc import SnapshotServiceStub

ANSWER_SECONDS: Final = 30.0
"""For calls that are no streams."""
LOOK_SECONDS: Final = 300.0
"""For those that open a repository first."""
_BROWSE_PAGE = 1_000
_LOCAL = "unix:"
_MOST_MESSAGE = 16 << 20

_T = TypeVar("_T")
_Continue = Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]]


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One agent, and how to show who asks."""

    address: str
    """`unix:/path`, or `host:port`, which needs TLS."""
    token: str = ""
    """A bearer token of Kubernetes."""
    ca: bytes = b""
    """Certificates that the agent's may be signed by; empty: those of the system."""
    certificate: bytes = b""
    key: bytes = b""
    server_name: str = ""
    """In the agent's certificate, if it is not the host of the address."""

    def __repr__(self) -> str:
        return f"Target({self.address!r})"

    @property
    def is_local(self) -> bool:
        """Whether it is a Unix socket, whose callers the kernel knows."""
        return self.address.startswith(_LOCAL)


class ControlClient:
    """Calls to one agent. All methods raise what the agent raised, and `ControlError` for what happened on the way."""

    def __init__(self, channel: grpc.aio.Channel, where: str) -> None:
        self.where = where
        self._node = NodeServiceStub(channel)
        self._jobs = JobServiceStub(channel)
        self._limits = LimitServiceStub(channel)
        self._snapshots = SnapshotServiceStub(channel)

    async def node(self) -> node_pb2.Node:
        """What the agent is and does now."""
        answer = await self._asked(self._node.GetNode(node_pb2.GetNodeRequest(), timeout=ANSWER_SECONDS))
        return answer.node

    async def jobs(self, chosen: jobs_pb2.JobFilter) -> AsyncIterator[jobs_pb2.Job]:
        """All jobs that are chosen, newest first."""
        token = ""
        while True:
            request = jobs_pb2.ListJobsRequest(filter=chosen, page_token=token)
            answer = await self._asked(self._jobs.ListJobs(request, timeout=ANSWER_SECONDS))
            for job in answer.jobs:
                yield job
            token = answer.next_page_token
            if not token:
                return

    async def job(self, job: jobs_pb2.JobId) -> jobs_pb2.Job:
        """One of them."""
        call = self._jobs.GetJob(jobs_pb2.GetJobRequest(id=job), timeout=ANSWER_SECONDS)
        return (await self._asked(call)).job

    async def watch(self, request: jobs_pb2.WatchJobsRequest) -> AsyncGenerator[jobs_pb2.WatchJobsResponse, None]:
        """What is watched as it is, and then each change."""
        async with aclosing(self._streamed(self._jobs.WatchJobs(request))) as messages:
            async for message in messages:
                yield message

    async def cancel(self, job: jobs_pb2.JobId) -> jobs_pb2.Job:
        """Have it ended; as it is after the request."""
        call = self._jobs.CancelJob(jobs_pb2.CancelJobRequest(id=job), timeout=ANSWER_SECONDS)
        return (await self._asked(call)).job

    async def pause(self, job: jobs_pb2.JobId) -> jobs_pb2.Job:
        """Have its data stand still; as it is after the request."""
        call = self._jobs.PauseJob(jobs_pb2.PauseJobRequest(id=job), timeout=ANSWER_SECONDS)
        return (await self._asked(call)).job

    async def resume(self, job: jobs_pb2.JobId) -> jobs_pb2.Job:
        """Have it go on; as it is after the request."""
        call = self._jobs.ResumeJob(jobs_pb2.ResumeJobRequest(id=job), timeout=ANSWER_SECONDS)
        return (await self._asked(call)).job

    async def limits(self) -> limits_pb2.LimitState:
        """What counts now, and why."""
        call = self._limits.GetLimits(limits_pb2.GetLimitsRequest(), timeout=ANSWER_SECONDS)
        return (await self._asked(call)).limits

    async def set_limits(self, limits: limits_pb2.Limits) -> limits_pb2.LimitState:
        """From now on, also for jobs that run."""
        call = self._limits.SetLimits(limits_pb2.SetLimitsRequest(limits=limits), timeout=ANSWER_SECONDS)
        return (await self._asked(call)).limits

    async def reset_limits(self) -> limits_pb2.LimitState:
        """Back to what the configuration says."""
        call = self._limits.ResetLimits(limits_pb2.ResetLimitsRequest(), timeout=ANSWER_SECONDS)
        return (await self._asked(call)).limits

    async def snapshots(
        self, repository: snapshots_pb2.Repository, source: str = ""
    ) -> AsyncIterator[snapshots_pb2.Snapshot]:
        """All snapshots of a repository, or of one source, newest first."""
        request = snapshots_pb2.ListSnapshotsRequest(repository=repository, source=source)
        while True:
            answer = await self._asked(self._snapshots.ListSnapshots(request, timeout=LOOK_SECONDS))
            for snapshot in answer.snapshots:
                yield snapshot
            request.page_token = answer.next_page_token
            if not request.page_token:
                return

    async def browse(
        self, repository: snapshots_pb2.Repository, snapshot: str, path: bytes
    ) -> AsyncIterator[snapshots_pb2.Entry]:
        """What lies in a folder of a snapshot, in stored order."""
        request = snapshots_pb2.BrowseSnapshotRequest(
            repository=repository, snapshot=snapshot, path=path, page_size=_BROWSE_PAGE
        )
        while True:
            answer = await self._asked(self._snapshots.BrowseSnapshot(request, timeout=LOOK_SECONDS))
            for entry in answer.entries:
                yield entry
            request.page_token = answer.next_page_token
            if not request.page_token:
                return

    async def read(
        self, repository: snapshots_pb2.Repository, snapshot: str, path: bytes
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a file, piece by piece. Raises `ControlIncomplete` behind them if they are not what was sent."""
        request = snapshots_pb2.ReadFileRequest(repository=repository, snapshot=snapshot, path=path)
        size, digest, end = 0, hashlib.sha256(), None
        async with aclosing(self._streamed(self._snapshots.ReadFile(request))) as answers:
            async for answer in answers:
                if answer.HasField("end"):
                    end = answer.end
                else:
                    size += len(answer.data)
                    digest.update(answer.data)
                    yield answer.data
        if end is None or (end.bytes, end.sha256) != (size, digest.digest()):
            sent = "does not say how many it sent" if end is None else f"says that it sent {end.bytes} of other content"
            raise ControlIncomplete(
                f"{size} bytes of the file came, and the agent at {self.where} {sent}", hint="read it again"
            )

    async def restore(
        self, request: snapshots_pb2.RestorePathRequest
    ) -> AsyncGenerator[snapshots_pb2.RestorePathResponse, None]:
        """Progress, and at the end the result. The restore ends when nobody listens any more.

        Raises `ControlIncomplete` when there is no result: nothing says then what was restored.
        """
        result = False
        async with aclosing(self._streamed(self._snapshots.RestorePath(request))) as answers:
            async for answer in answers:
                result = answer.HasField("result")
                yield answer
        if not result:
            raise ControlIncomplete(
                f"the agent at {self.where} ended the restore without its result",
                hint="restore again: it goes on from there",
            )

    async def verify(self, request: snapshots_pb2.VerifySnapshotRequest) -> snapshots_pb2.VerifySnapshotResponse:
        """Whether a snapshot can be restored."""
        return await self._asked(self._snapshots.VerifySnapshot(request))

    async def _streamed(self, call: grpc.aio.UnaryStreamCall[Any, _T]) -> AsyncGenerator[_T, None]:
        """What comes. When nobody listens any more, the agent hears of it at once."""
        with self._errors():
            try:
                async for message in call:
                    yield message
            finally:
                call.cancel()

    async def _asked(self, call: Awaitable[_T]) -> _T:
        with self._errors():
            return await call

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.where) from None


class _Bearer:
    """Shows a token with each call.

    gRPC's own credentials of calls run Python in gRPC's threads, which the end of a channel may wait for for ever.
    """

    def __init__(self, token: str) -> None:
        self._authorization = ("authorization", f"Bearer {token}")

    def shown(self, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        return grpc.aio.ClientCallDetails(
            method=details.method,
            timeout=details.timeout,
            metadata=grpc.aio.Metadata(*(details.metadata or ()), self._authorization),
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
        )


class _BearerOfCalls(_Bearer, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: _Continue, details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(self.shown(details), request)


class _BearerOfStreams(_Bearer, grpc.aio.UnaryStreamClientInterceptor):
    """Another class: gRPC takes an interceptor for one kind of calls only."""

    async def intercept_unary_stream(
        self, continuation: _Continue, details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(self.shown(details), request)


@asynccontextmanager
async def connect(target: Target) -> AsyncIterator[ControlClient]:
    """A client for the time of the block. Connects with the first call. Raises `UsageError`."""
    async with _channel(target) as channel:
        yield ControlClient(channel, target.address)


def _channel(target: Target) -> grpc.aio.Channel:
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", _MOST_MESSAGE),
        ("grpc.default_authority", target.server_name or "localhost" if target.is_local else target.server_name),
        ("grpc.ssl_target_name_override", target.server_name),
        ("grpc.enable_http_proxy", 0),
    ]
    options = [(name, value) for name, value in options if value != ""]
    if target.is_local:
        return grpc.aio.insecure_channel(target.address, options=options)
    if bool(target.certificate) != bool(target.key):
        raise UsageError("a certificate needs its key, and a key its certificate", hint="give --cert and --key")
    credentials = grpc.ssl_channel_credentials(target.ca or None, target.key or None, target.certificate or None)
    shown: list[grpc.aio.ClientInterceptor] = []
    if target.token:
        shown = [_BearerOfCalls(target.token), _BearerOfStreams(target.token)]
    return grpc.aio.secure_channel(target.address, credentials, options=options, interceptors=shown)
