"""What all exposers of one agent share: the cluster, the clock, the configuration, and what this node shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from agent.base.clock import Clock
from agent.base.errors import KubeForbidden, KubeNotFound
from agent.exposers.contract import Runner
from agent.exposers.host_path import NodeVolumes
from agent.kube.agent_config import AgentConfig, RunnerChoice
from agent.kube.api import KubeApi
from agent.kube.meta import Key
from agent.kube.pods import PodTemplate
from agent.kube.resource import DAEMON_SETS, SERVICE_ACCOUNTS
from agent.kube.volumes import VolumeMode

DAEMON_SET: Final = "node-agent"
"""The name that Velero's server looks for (contract §4.4)."""
DEFAULT_CACHE_MB: Final = 5_000
"""What a repository's own configuration allows its cache unless it says otherwise (contract §4.2)."""


class ExposerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One agent's surroundings."""

    api: KubeApi
    clock: Clock
    node: str
    """Of this agent."""
    namespace: str
    """Velero's: every object that exposers make lies there, except those without a namespace."""
    config: Callable[[], AgentConfig]
    """Read at each use, since it may change while the agent runs."""
    volumes: NodeVolumes
    sees_host_pods: bool
    """Whether this agent mounts the kubelet's `pods` folder."""
    daemon_set: str = DAEMON_SET
    """The agent's own, which pods are copied from."""
    cache_limit_mb: int = DEFAULT_CACHE_MB
    """What the repository's own configuration allows the cache of a restore in a mover pod."""
    mover_account: str = ""
    """The service account of mover pods (contract §13.15); empty, or of none that exists: that of the DaemonSet."""

    def runner(self, mode: VolumeMode) -> Runner:
        """Where the worker for a new pod runs. A pod that exists already says it itself (`hosting_pod.runner_of`)."""
        choice = self.config().runner
        if choice is RunnerChoice.AUTO:
            return Runner.LOCAL if mode is VolumeMode.FILESYSTEM and self.sees_host_pods else Runner.POD
        return Runner(choice.value)

    async def pod_template(self, runner: Runner) -> PodTemplate:
        """That of the agent's own DaemonSet, for mover pods with their own account; `KubeNotFound`."""
        daemon_set = await self.api.get(DAEMON_SETS, Key(self.namespace, self.daemon_set))
        template = daemon_set.spec.template
        if runner is not Runner.POD or not await has_account(self.api, self.namespace, self.mover_account):
            return template
        spec = msgspec.structs.replace(template.spec, service_account_name=self.mover_account)
        return msgspec.structs.replace(template, spec=spec)


async def has_account(api: KubeApi, namespace: str, name: str) -> bool:
    """Whether mover pods can have this service account: a pod of one that does not exist is refused."""
    if not name:
        return False
    try:
        await api.get(SERVICE_ACCOUNTS, Key(namespace, name))
    except (KubeNotFound, KubeForbidden):
        return False
    return True
