"""`lighter agent run --check`: the configuration and the self-test, without an agent."""

from __future__ import annotations

import random

from msgspec.structs import replace

from agent import __version__
from agent.base.clock import SystemClock
from agent.base.errors import ConfigurationError
from agent.kube.aio_api import AioKubeApi
from agent.kube.aio_transport import load_configuration
from agent.kube.api import KubeApi
from agent.server.definitions import InstalledDefinitions
from agent.server.flags import AgentFlags
from agent.server.live_configuration import ConfigMaps, LiveConfiguration
from agent.server.repository_settings import cache_limit_mb
from agent.server.self_test import Finding, Place, SelfTest, Verdict, run_self_test

USER_AGENT = f"lighterage/{__version__}"


def config_maps(flags: AgentFlags) -> ConfigMaps:
    """Which ConfigMaps this agent reads."""
    return ConfigMaps(flags.namespace, flags.node_agent_configmap, flags.lighterage_configmap)


def place(flags: AgentFlags) -> Place:
    """Where this agent runs."""
    return Place(
        node=flags.node, namespace=flags.namespace, host_pods=flags.host_pods, mover_account=flags.mover_service_account
    )


async def check(flags: AgentFlags) -> SelfTest:
    """Look whether an agent with these flags could work. Raises what keeps the API server from being asked."""
    kube = await load_configuration(flags.kubeconfig, flags.kubecontext)
    async with AioKubeApi(kube, user_agent=USER_AGENT) as api:
        return await check_at(api, flags)


async def check_at(api: KubeApi, flags: AgentFlags) -> SelfTest:
    """The same on a given API server."""
    test = await run_self_test(api, InstalledDefinitions(), place(flags))
    return replace(test, findings=(*test.findings, *await _configuration(api, flags)))


async def _configuration(api: KubeApi, flags: AgentFlags) -> list[Finding]:
    live = LiveConfiguration(api, SystemClock(), random.Random(), config_maps(flags), lambda *_: None)  # noqa: S311
    try:
        await live.load()
        await cache_limit_mb(api, flags.namespace, flags.backup_repository_configmap)
    except ConfigurationError as error:
        return [Finding("configuration", Verdict.FATAL, str(error))]
    return [Finding("configuration", Verdict.LESS, warning) for warning in live.warnings] or [
        Finding("configuration", Verdict.OK, "it can be used as it is")
    ]
