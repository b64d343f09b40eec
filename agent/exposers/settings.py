"""What all exposers of one agent share: the cluster, the clock, the configuration, and what this node shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agent.base.clock import Clock
from agent.exposers.contract import Runner
from agent.exposers.host_path import NodeVolumes
from agent.kube.agent_config import AgentConfig, RunnerChoice
from agent.kube.api import KubeApi
from agent.kube.meta import Key
from agent.kube.pods import PodTemplate
from agent.kube.resource import DAEMON_SETS
from agent.kube.volumes import VolumeMode

DAEMON_SET: Final = "node-agent"
"""The name that Velero's server looks for (contract §4.4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposerSettings:
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

    def runner(self, mode: VolumeMode) -> Runner:
        """Where the worker for a new pod runs. A pod that exists already says it itself (`hosting_pod.runner_of`)."""
        choice = self.config().runner
        if choice is RunnerChoice.AUTO:
            return Runner.LOCAL if mode is VolumeMode.FILESYSTEM and self.sees_host_pods else Runner.POD
        return Runner(choice.value)

    async def pod_template(self) -> PodTemplate:
        """That of the agent's own DaemonSet; `KubeNotFound`."""
        daemon_set = await self.api.get(DAEMON_SETS, Key(self.namespace, self.daemon_set))
        return daemon_set.spec.template
