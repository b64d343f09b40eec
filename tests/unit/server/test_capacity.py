"""How many jobs a node does at once, and with how much memory."""

from __future__ import annotations

import pytest

from agent.kube.agent_config import AgentConfig, AgentLimits, LoadConcurrency, NodeConcurrency
from agent.kube.volumes import LabelSelector
from agent.server.capacity import Capacity, capacity, jobs_at_once

GIB = 1 << 30


def _fast(number: int) -> NodeConcurrency:
    return NodeConcurrency(LabelSelector(match_labels={"disk": "fast"}), number)


@pytest.mark.check(11)
def test_the_smallest_number_that_matches_wins() -> None:
    concurrency = LoadConcurrency(1, (_fast(5), NodeConcurrency(LabelSelector(), 3)))
    assert jobs_at_once(concurrency, {"disk": "fast"}) == 3
    assert jobs_at_once(LoadConcurrency(1, (_fast(5),)), {"disk": "fast"}) == 5
    assert jobs_at_once(LoadConcurrency(2, (_fast(5),)), {"disk": "slow"}) == 2


def test_without_a_budget_workers_have_no_limit() -> None:
    config = AgentConfig(load_concurrency=LoadConcurrency(8))
    assert capacity(config, {}) == Capacity(8, AgentLimits())


def test_a_budget_is_shared_in_equal_parts() -> None:
    config = AgentConfig(load_concurrency=LoadConcurrency(4), limits=AgentLimits(memory_bytes=4 * GIB))
    assert capacity(config, {}) == Capacity(4, AgentLimits(memory_bytes=4 * GIB, worker_memory_bytes=GIB))


def test_no_worker_may_take_more_than_the_node() -> None:
    limits = AgentLimits(memory_bytes=GIB, worker_memory_bytes=4 * GIB)
    assert capacity(AgentConfig(limits=limits), {}).limits.worker_memory_bytes == GIB


def test_workers_keep_the_memory_that_they_were_given_at_the_start() -> None:
    config = AgentConfig(load_concurrency=LoadConcurrency(16), limits=AgentLimits(memory_bytes=4 * GIB))
    later = capacity(config, {}, worker_memory_bytes=GIB)
    assert later == Capacity(16, AgentLimits(memory_bytes=4 * GIB, worker_memory_bytes=GIB))
