"""How many jobs a node does at once, and with how much memory."""

from __future__ import annotations

from agent.kube.agent_config import AgentConfig, AgentLimits, LoadConcurrency, NodeConcurrency
from agent.kube.volumes import LabelSelector
from agent.server.capacity import Capacity, capacity, jobs_at_once

GIB = 1 << 30


def _fast(number: int) -> NodeConcurrency:
    return NodeConcurrency(LabelSelector(match_labels={"disk": "fast"}), number)


def test_the_smallest_number_that_matches_wins() -> None:
    concurrency = LoadConcurrency(1, (_fast(5), NodeConcurrency(LabelSelector(), 3)))
    assert jobs_at_once(concurrency, {"disk": "fast"}) == 3
    assert jobs_at_once(LoadConcurrency(1, (_fast(5),)), {"disk": "fast"}) == 5
    assert jobs_at_once(LoadConcurrency(2, (_fast(5),)), {"disk": "slow"}) == 2


def test_without_a_budget_nothing_is_cut() -> None:
    config = AgentConfig(load_concurrency=LoadConcurrency(8))
    assert capacity(config, {}) == Capacity(8, 0)


def test_a_budget_is_shared_in_equal_parts() -> None:
    config = AgentConfig(load_concurrency=LoadConcurrency(4), limits=AgentLimits(memory_bytes=4 * GIB))
    assert capacity(config, {}) == Capacity(4, GIB)


def test_workers_that_do_not_fit_into_the_budget_wait() -> None:
    limits = AgentLimits(memory_bytes=3 * GIB, worker_memory_bytes=GIB)
    config = AgentConfig(load_concurrency=LoadConcurrency(8), limits=limits)
    assert capacity(config, {}) == Capacity(3, GIB, is_cut=True)


def test_one_job_runs_whatever_the_budget() -> None:
    limits = AgentLimits(memory_bytes=GIB, worker_memory_bytes=4 * GIB)
    config = AgentConfig(load_concurrency=LoadConcurrency(2), limits=limits)
    assert capacity(config, {}) == Capacity(1, GIB, is_cut=True)


def test_more_concurrency_later_keeps_to_the_budget_with_workers_as_they_are() -> None:
    config = AgentConfig(load_concurrency=LoadConcurrency(16), limits=AgentLimits(memory_bytes=4 * GIB))
    assert capacity(config, {}, worker_memory_bytes=GIB) == Capacity(4, GIB, is_cut=True)
