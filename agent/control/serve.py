"""The servers: the same services behind the Unix socket, and at an address when one is configured."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import grpc
import msgspec
from grpc_health.v1.health import SERVICE_NAME, aio
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from agent.base.clock import Clock
from agent.base.errors import ConfigurationError
from agent.control import door
from agent.control.border import Border, Gate, OpenGate
from agent.control.contract import Jobs, Limits, Node, Repositories
from agent.control.job_service import JobServicer
from agent.control.limit_service import LimitServicer
from agent.control.node_service import NodeServicer
from agent.control.snapshot_service import SnapshotServicer
from agent.control.v1 import jobs_pb2, limits_pb2, node_pb2, snapshots_pb2
from agent.control.v1.jobs_pb2_grpc import add_JobServiceServicer_to_server
from agent.control.v1.limits_pb2_grpc import add_LimitServiceServicer_to_server
from agent.control.v1.node_pb2_grpc import add_NodeServiceServicer_to_server
from agent.control.v1.snapshots_pb2_grpc import add_SnapshotServiceServicer_to_server

SERVICES: Final = tuple(
    service.full_name
    for module in (node_pb2, jobs_pb2, limits_pb2, snapshots_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
)
"""Full names of ours."""
_MOST_CALLS = 100
_GRACE_SECONDS = 1.0
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 1 << 16),
    ("grpc.max_concurrent_streams", _MOST_CALLS),
    ("grpc.max_metadata_size", 1 << 15),
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What the services tell and do."""

    node: Node
    jobs: Jobs
    limits: Limits
    repositories: Repositories


class SecureAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where to listen beyond the Unix socket."""

    address: str
    """`host:port`, or `:port` for every address of the pod; port 0 for any that is free."""
    credentials: grpc.ServerCredentials
    gate: Gate


@asynccontextmanager
async def serve_socket(
    parts: Parts, clock: Clock, path: Path, *, admits: Callable[[int], bool] = door.own_or_root
) -> AsyncIterator[None]:
    """Answer users that `admits` lets in at a Unix socket, for the time of the block.

    Raises `ConfigurationError` when no socket can be there.
    """
    async with door.listening(path, admits=admits) as inside:
        server = await _server(parts, clock, OpenGate())
        server.add_insecure_port(f"unix:{inside}")
        async with _running(server):
            yield


@asynccontextmanager
async def serve_address(parts: Parts, clock: Clock, secure: SecureAddress) -> AsyncIterator[int]:
    """Answer over TLS those whom the gate admits, for the time of the block; gives the port that was taken.

    Raises `ConfigurationError` when nobody can listen there.
    """
    server = await _server(parts, clock, secure.gate)
    # Of both families, where there are two: gRPC takes this for any address.
    address = f"[::]{secure.address}" if secure.address.startswith(":") else secure.address
    try:
        port = server.add_secure_port(address, secure.credentials)
    except RuntimeError as error:
        raise ConfigurationError(
            f"the control API cannot listen at {secure.address}",
            hint="another process listens there, or certificate and key do not belong together",
        ) from error
    async with _running(server):
        yield port


@asynccontextmanager
async def _running(server: grpc.aio.Server) -> AsyncIterator[None]:
    await server.start()
    try:
        yield
    finally:
        await server.stop(_GRACE_SECONDS)


async def _server(parts: Parts, clock: Clock, gate: Gate) -> grpc.aio.Server:
    server = grpc.aio.server(interceptors=[Border(gate)], options=_OPTIONS, maximum_concurrent_rpcs=_MOST_CALLS)
    add_NodeServiceServicer_to_server(NodeServicer(parts.node), server)
    add_JobServiceServicer_to_server(JobServicer(parts.jobs, parts.node.state().name, clock), server)
    add_LimitServiceServicer_to_server(LimitServicer(parts.limits), server)
    add_SnapshotServiceServicer_to_server(SnapshotServicer(parts.repositories), server)
    healthy = aio.HealthServicer()
    for name in SERVICES:
        await healthy.set(name, HealthCheckResponse.SERVING)
    add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection((*SERVICES, SERVICE_NAME, reflection.SERVICE_NAME), server)
    return server
