"""Who does the jobs of this agent: its own workers, or the pod that holds the volume.

Implements `agent.controllers.sources.Runners`.
"""

from __future__ import annotations

import random

import msgspec

from agent.base.clock import Clock
from agent.exposers.contract import Ready, Runner
from agent.kube.api import KubeApi
from agent.kube.meta import Key
from agent.movers.pod_runner import PodRunner
from agent.movers.runner import WorkRunner


class AgentRunners(msgspec.Struct, frozen=True, kw_only=True):
    """Both ways, for one agent."""

    local: WorkRunner
    """Workers of this agent."""
    api: KubeApi
    clock: Clock
    rng: random.Random
    namespace: str
    """Velero's, where mover pods are."""

    def of(self, ready: Ready) -> WorkRunner:
        """For a volume that is ready."""
        if ready.runner is Runner.LOCAL:
            return self.local
        return PodRunner(self.api, self.clock, self.rng, Key(self.namespace, ready.pod))
