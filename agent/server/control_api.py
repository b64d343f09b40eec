"""The control API of the agent: `agent.control` put over controllers, limits and health.

The Unix socket is a comfort: an agent that cannot make it works without, and says so.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from agent import __version__
from agent.base.errors import ConfigurationError
from agent.control.auth import ClusterGate, credentials
from agent.control.contract import NodeState
from agent.control.serve import Parts, SecureAddress, serve_address, serve_socket
from agent.controllers.controllers import Controllers
from agent.server.health import Health
from agent.server.job_board import JobBoard
from agent.server.live_limits import LiveLimits
from agent.server.open_repositories import OpenRepositories
from agent.server.parts import Basis
from agent.server.self_test import SelfTest

_log = structlog.stdlib.get_logger(__name__)


class ControlApi:
    """Of one agent. Implements `agent.control.contract.Node`."""

    def __init__(
        self,
        basis: Basis,
        test: SelfTest,
        controllers: Controllers,
        limits: LiveLimits,
        health: Health,
        repositories: OpenRepositories,
    ) -> None:
        self._basis = basis
        self._test = test
        self._controllers = controllers
        self._limits = limits
        self._health = health
        self._repositories = repositories
        self._started_ns = basis.clock.now_ns()

    def state(self) -> NodeState:
        """The agent as it is now."""
        slots, flags = self._controllers.slots, self._basis.flags
        works = list(self._controllers.works())
        done = [work.progress.bytes_done for work in works if work.progress and not work.outcome]
        return NodeState(
            name=flags.node,
            version=__version__,
            namespace=flags.namespace,
            started_ns=self._started_ns,
            not_ready=self._health.unready(),
            moves_pod_volumes=self._test.pod_volumes,
            moves_snapshots=self._test.snapshots,
            running=slots.running,
            paused=sum(work.is_paused for work in works),
            waiting=slots.waiting,
            concurrency=self._limits.in_force.concurrency,
            bytes_done=sum(done),
        )

    async def run(self) -> None:
        """Answer until canceled. Raises `ConfigurationError`."""
        basis = self._basis
        parts = Parts(
            node=self,
            jobs=JobBoard(basis.api, basis.flags.namespace, self._controllers),
            limits=self._limits,
            repositories=self._repositories,
        )
        async with AsyncExitStack() as stack:
            if basis.flags.control_address:
                port = await stack.enter_async_context(serve_address(parts, basis.clock, self._secure()))
                _log.info("the control API listens", address=basis.flags.control_address, port=port)
            if basis.flags.control_socket:
                try:
                    await stack.enter_async_context(serve_socket(parts, basis.clock, Path(basis.flags.control_socket)))
                except ConfigurationError as error:
                    _log.warning("the agent has no control socket", error=str(error))
            await asyncio.Event().wait()

    def _secure(self) -> SecureAddress:
        flags, reviewer = self._basis.flags, self._basis.reviewer
        if not (flags.control_cert and flags.control_key) or reviewer is None:
            raise ConfigurationError(
                "the control API listens at an address only with a certificate",
                hint="give --control-cert and --control-key, or leave out --control-address",
            )
        client_ca = Path(flags.control_client_ca) if flags.control_client_ca else None
        return SecureAddress(
            address=flags.control_address,
            credentials=credentials(Path(flags.control_cert), Path(flags.control_key), client_ca),
            gate=ClusterGate(reviewer, flags.namespace),
        )
