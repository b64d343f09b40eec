"""How many jobs a node does at once, and how much memory each of its workers may take."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from agent.kube import label_selector
from agent.kube.agent_config import AgentConfig, AgentLimits, LoadConcurrency


def jobs_at_once(concurrency: LoadConcurrency, node_labels: Mapping[str, str]) -> int:
    """What the configuration says for a node: the smallest number that matches it, else the one for all (§4.1)."""
    numbers = [
        entry.number for entry in concurrency.per_node if label_selector.matches(entry.node_selector, node_labels)
    ]
    return min(numbers, default=concurrency.global_config)


class Capacity(msgspec.Struct, frozen=True):
    """Of one node."""

    concurrency: int
    """As configured; controllers let fewer run where their workers have no memory."""
    limits: AgentLimits
    """With the memory of a worker that is in force."""


def capacity(
    config: AgentConfig, node_labels: Mapping[str, str], *, worker_memory_bytes: int | None = None
) -> Capacity:
    """What a node may do. Without a limit of their own, workers share the node's memory in equal parts.

    `worker_memory_bytes` is the limit that workers have already; None at the start of the agent, when it is chosen.
    """
    wanted, limits = jobs_at_once(config.load_concurrency, node_labels), config.limits
    each = limits.worker_memory_bytes
    if worker_memory_bytes is not None:
        each = worker_memory_bytes
    elif limits.memory_bytes:
        each = min(each or limits.memory_bytes // wanted, limits.memory_bytes)
    return Capacity(wanted, replace(limits, worker_memory_bytes=each))
