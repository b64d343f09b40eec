"""The daemon: what is started in which order, what belongs to whom, and how it ends.

    HTTP, events -> configuration, self-test (again while the API server is away) -> workers -> controllers

Everything runs in one task group: what fails takes the agent down with its error, and Kubernetes starts it again. Asked
to end, the agent takes nothing new, lets running jobs save what they have, and gives back what it had only claimed.
No data of a volume is in this process.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, suppress

import structlog
import uvloop

from agent import __version__
from agent.base.clock import SystemClock
from agent.base.errors import CanceledError, LighterageError
from agent.controllers.controllers import Controllers
from agent.exposers.restore_wait import DoneFolders
from agent.jobs.phases import CountedEvents
from agent.kube.aio_api import AioKubeApi
from agent.kube.aio_transport import load_configuration
from agent.kube.cluster import Node
from agent.kube.informer import Informer
from agent.kube.resource import NODES
from agent.movers.pod_protocol import POD_NAME_VARIABLE
from agent.movers.supervisor import MoverOptions, Movers
from agent.observe.collector import tracing_from
from agent.observe.log import LogFormat, Logging, LogOptions
from agent.observe.metrics import Metrics
from agent.server import parts
from agent.server.check import USER_AGENT, config_maps
from agent.server.control_api import ControlApi
from agent.server.definitions import InstalledDefinitions
from agent.server.events import Events
from agent.server.flags import AgentFlags
from agent.server.health import Health
from agent.server.http import Endpoints, parse_address
from agent.server.http import serve as serve_http
from agent.server.in_force import ConfigurationInForce
from agent.server.live_configuration import LiveConfiguration
from agent.server.liveness import LeaseLiveness
from agent.server.mounts import MountTable
from agent.server.open_repositories import OpenRepositories
from agent.server.starting import Starting
from agent.server.stopping import Stopping

_DEFINITIONS_SECONDS = 300.0
_LAST_SECONDS = 5.0
"""Of the termination grace, kept for telling the last events and closing."""
_HOST_VARIABLE = "HOSTNAME"
"""A host is called as its pod, unless that uses the network of its node."""
_EVERY_JOB = 10_000
"""Workers at once: controllers decide how many jobs run."""
_log = structlog.stdlib.get_logger(__name__)

_TRACES_WITHIN = 3.0
"""Seconds for a collector to take what was recorded, when the agent ends."""

WorkersFactory = Callable[[MoverOptions], AbstractAsyncContextManager[parts.LocalWorkers]]


def serve(flags: AgentFlags) -> None:
    """Run the agent until it is told to end. Raises the leaf of the error tree that was its end, if one was."""
    logging = Logging(LogOptions(format=LogFormat(flags.log_format), level=flags.log_level))
    logging.install()
    uvloop.run(_serve(flags, logging))


async def _serve(flags: AgentFlags, logging: Logging) -> None:
    stopping, clock, environ = Stopping(), SystemClock(), dict(os.environ)
    tracing = tracing_from(environ, {"k8s.node.name": flags.node})
    stopping.cancels(asyncio.current_task())
    with stopping.on_signals():
        kube = await load_configuration(flags.kubeconfig, flags.kubecontext)
        async with AioKubeApi(kube, user_agent=USER_AGENT) as api:
            basis = parts.Basis(
                api=api,
                clock=clock,
                rng=random.Random(),  # noqa: S311  # spreads retries; nothing secret
                environ=environ,
                flags=flags,
                logging=logging,
                metrics=Metrics(flags.node, clock, version=__version__),
                tracing=tracing,
                reviewer=api,
            )
            try:
                await run_agent(basis, stopping, lambda options: Movers(options, clock, environ))
            finally:
                await tracing.close(_TRACES_WITHIN)


async def run_agent(
    basis: parts.Basis, stopping: Stopping, workers: WorkersFactory, mounts: MountTable | None = None
) -> None:
    """Run an agent until `stopping` is asked. Raises leaves of the error tree, `CanceledError` when asked twice."""
    agent = Agent(basis, workers, mounts or MountTable())
    try:
        await agent.run(stopping)
    except asyncio.CancelledError:
        if stopping.at_once:
            raise CanceledError("told twice to end: running jobs were not waited for") from None
        raise
    except BaseExceptionGroup as group:
        raise _first(group) from group


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that was the end of the agent: one of ours, if there is one."""
    leaves: list[BaseException] = []
    todo: list[BaseException] = [group]
    while todo:
        error = todo.pop(0)
        if isinstance(error, BaseExceptionGroup):
            todo.extend(error.exceptions)
        else:
            leaves.append(error)
    return next((error for error in leaves if isinstance(error, LighterageError)), leaves[0])


class Agent:
    """One agent, from its start to its end."""

    def __init__(self, basis: parts.Basis, workers: WorkersFactory, mounts: MountTable) -> None:
        flags, api, clock, rng = basis.flags, basis.api, basis.clock, basis.rng
        self._basis = basis
        self._workers = workers
        self._mounts = mounts
        self._events = Events(api, clock, rng, namespace=flags.namespace, node=flags.node)
        self._config = LiveConfiguration(api, clock, rng, config_maps(flags), self._events.tell)
        self._definitions = InstalledDefinitions()
        self._nodes: Informer[Node] = Informer(api, NODES, clock, rng)
        pod = basis.environ.get(POD_NAME_VARIABLE) or basis.environ.get(_HOST_VARIABLE, "")
        self._liveness = LeaseLiveness(
            api, clock, rng, self._nodes, node=flags.node, namespace=flags.namespace, pod=pod
        )
        self._health = Health(clock, hears_the_server=lambda: self._nodes.is_synced and self._nodes.last_error is None)
        basis.metrics.show_health(
            ready=lambda: not self._health.unready(), configured=lambda: not self._config.is_refused
        )
        self._controllers: Controllers | None = None

    async def run(self, stopping: Stopping) -> None:
        """Until asked to end."""
        basis, health = self._basis, self._health
        endpoints = Endpoints(metrics=basis.metrics.render, unhealthy=health.unhealthy, unready=health.unready)
        async with (
            serve_http(parse_address(basis.flags.metrics_address), endpoints) as address,
            asyncio.TaskGroup() as group,
        ):
            _log.info(
                "the agent starts", version=__version__, node=basis.flags.node, address=f"{address.host}:{address.port}"
            )
            telling = group.create_task(self._events.run())
            try:
                await self._work_until(stopping)
            finally:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0 if stopping.at_once else _LAST_SECONDS):
                        await self._liveness.give_back()
                        await self._events.flush()
                telling.cancel()
        _log.info("the agent has ended")

    async def _work_until(self, stopping: Stopping) -> None:
        async with asyncio.TaskGroup() as group:
            working = group.create_task(self._work())
            asked = group.create_task(stopping.wait())
            await asyncio.wait({working, asked}, return_when=asyncio.FIRST_COMPLETED)
            self._health.state = "the agent ends"
            if self._controllers is not None:
                await self._controllers.drain(max(self._basis.flags.termination_grace - 2 * _LAST_SECONDS, 0.0))
            working.cancel()
            asked.cancel()

    async def _work(self) -> None:
        basis = self._basis
        starting = Starting(
            basis=basis,
            config=self._config,
            definitions=self._definitions,
            events=self._events,
            health=self._health,
            mounts=self._mounts,
        )
        found = await starting.find_out()
        in_force = ConfigurationInForce(basis, self._config, found.node_labels)
        options = MoverOptions(concurrency=_EVERY_JOB, memory_bytes=in_force.capacity.limits.worker_memory_bytes)
        async with self._workers(options) as workers:
            await workers.warm_up()
            settings = parts.exposer_settings(basis, self._config, found.test, found.cache_limit_mb)
            exposers = parts.all_exposers(settings)
            self._controllers = controllers = parts.controllers(
                basis,
                self._config,
                found.test,
                exposers=exposers,
                sweeps=parts.leftovers(settings, exposers, basis.metrics),
                capacity=in_force.capacity,
                workers=workers,
                definitions=self._definitions,
                events=CountedEvents(self._events, basis.metrics, basis.clock),
                nodes=self._liveness,
            )
            in_force.follow(self._nodes, controllers)
            basis.metrics.show_jobs(controllers.count_jobs)
            self._health.sees_objects = lambda: controllers.is_synced
            self._health.state = "another agent of this node works still"
            services: list[Coroutine[object, object, None]] = [
                self._nodes.run(),
                self._liveness.run(),
                self._config.run(),
                self._refresh_definitions(),
                self._run_controllers(controllers),
                ControlApi(
                    basis,
                    found.test,
                    controllers,
                    in_force.limits,
                    self._health,
                    OpenRepositories(basis, self._config, in_force.limits, workers, settings.volumes),
                ).run(),
            ]
            if found.test.pod_volumes:
                done_folders = DoneFolders(basis.api, settings.volumes, basis.clock, basis.rng)
                controllers.pods.add_handler(done_folders.pod_changed)
                services.append(done_folders.run())
            async with asyncio.TaskGroup() as group:
                for service in services:
                    group.create_task(service)

    async def _run_controllers(self, controllers: Controllers) -> None:
        await self._liveness.wait_alone()
        self._health.state = ""
        await controllers.run()

    async def _refresh_definitions(self) -> None:
        """Velero may be upgraded while the agent runs."""
        while True:
            await self._basis.clock.sleep(_DEFINITIONS_SECONDS)
            await self._definitions.refresh(self._basis.api)
