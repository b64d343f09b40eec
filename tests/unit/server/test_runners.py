"""A job is done where its volume is."""

from __future__ import annotations

import random

from agent.exposers.contract import Ready, Runner
from agent.kube.volumes import VolumeMode
from agent.movers.pod_runner import PodRunner
from agent.server.runners import AgentRunners
from agent.testing.clock import VirtualClock
from agent.testing.fake_kube import FakeKube
from agent.testing.fake_movers import FakeMovers, MoverWorld


def test_local_volumes_go_to_the_agents_workers_and_others_to_their_pod() -> None:
    clock = VirtualClock()
    local = FakeMovers(MoverWorld(), clock)
    api = FakeKube(clock, random.Random(1))
    runners = AgentRunners(local=local, api=api, clock=clock, rng=random.Random(2), namespace="velero")
    here = Ready(node="node-a", mode=VolumeMode.FILESYSTEM, path="/host_pods/x", runner=Runner.LOCAL)
    there = Ready(node="node-a", mode=VolumeMode.BLOCK, path="/dev/x", runner=Runner.POD, pod="backup-1")
    assert runners.of(here) is local
    assert isinstance(runners.of(there), PodRunner)
