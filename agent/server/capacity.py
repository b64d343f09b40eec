"""How many jobs a node does at once, and how much memory each of its workers may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.kube import label_selector
from agent.kube.agent_config import AgentConfig, LoadConcurrency


def jobs_at_once(concurrency: LoadConcurrency, node_labels: Mapping[str, str]) -> int:
    """What the configuration says for a node: the smallest number that matches it, else the one for all (§4.1)."""
    numbers = [
        entry.number for entry in concurrency.per_node if label_selector.matches(entry.node_selector, node_labels)
    ]
    return min(numbers, default=concurrency.global_config)


@dataclass(frozen=True, slots=True)
class Capacity:
    """Of one node."""

    concurrency: int
    worker_memory_bytes: int
    """0: no limit."""
    is_cut: bool = False
    """Whether the memory budget allows fewer jobs than the configuration asks for."""


def capacity(
    config: AgentConfig, node_labels: Mapping[str, str], *, worker_memory_bytes: int | None = None
) -> Capacity:
    """At most so many jobs that their workers fit into the node's memory budget; one in any case.

    `worker_memory_bytes` is the limit that workers have already; None at the start of the agent, when it is chosen.
    """
    wanted = jobs_at_once(config.load_concurrency, node_labels)
    budget = config.limits.memory_bytes
    each = config.limits.worker_memory_bytes if worker_memory_bytes is None else worker_memory_bytes
    if not budget:
        return Capacity(wanted, each)
    if worker_memory_bytes is None:
        each = min(each or budget // wanted, budget)
    fitting = max(1, budget // each) if each else wanted
    return Capacity(min(wanted, fitting), each, is_cut=fitting < wanted)
