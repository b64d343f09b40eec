"""Objects whose own agent does not come: its node is dead, it never was, or what they need is gone (contract §2.5)."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from agent.kube.job import Phase
from agent.kube.meta import Key
from agent.kube.pods import ContainerState
from agent.kube.pods import Waiting as PodWaiting
from agent.kube.resource import DATA_DOWNLOADS, DATA_UPLOADS, POD_VOLUME_BACKUPS, POD_VOLUME_RESTORES, PODS
from agent.testing.fake_movers import Script
from tests.unit.controllers.controllers_kit import NAMESPACE, NODES, Cluster, Server


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = Cluster(random.Random(1))
    yield cluster
    await cluster.stop()


@pytest.mark.check(22)
async def test_a_dead_nodes_running_upload_is_failed_and_cleaned_by_another_agent_within_a_minute(
    cluster: Cluster,
) -> None:
    cluster.moved.script = lambda _: Script(seconds=1000)
    await cluster.upload("u", node=NODES[1])
    for node in NODES:
        cluster.start_agent(node)
    await cluster.run(30)
    await cluster.kill_agent(NODES[1])
    cluster.liveness.dead.add(NODES[1])
    await cluster.run(90)
    upload = await cluster.kube.get(DATA_UPLOADS, Key(NAMESPACE, "u"))
    assert upload.status.phase is Phase.FAILED
    assert upload.status.message.startswith(f"expose.node-lost: the node {NODES[1]}")
    assert upload.metadata.finalizers == ()
    assert not cluster.exposed["upload"].left


async def test_an_accepted_upload_is_taken_over_when_its_agent_is_dead(cluster: Cluster) -> None:
    await cluster.upload("u", node=NODES[1], seconds=20.0)
    cluster.start_agent(NODES[0])
    await cluster.run(5)
    await cluster.kill_agent(NODES[0])
    cluster.start_agent(NODES[1])
    cluster.start_agent(NODES[2])
    cluster.liveness.dead.add(NODES[0])
    await cluster.run(150)
    upload = await cluster.kube.get(DATA_UPLOADS, Key(NAMESPACE, "u"))
    assert upload.status.phase is Phase.COMPLETED
    assert upload.status.node == NODES[1]


async def test_what_an_ending_agent_accepted_is_given_back_and_done_by_another(cluster: Cluster) -> None:
    await cluster.upload("u", node=NODES[1], seconds=20.0)
    cluster.start_agent(NODES[0])
    await cluster.run(5)
    cluster.start_agent(NODES[2])
    await cluster.controllers[NODES[0]].drain(5)
    await cluster.kill_agent(NODES[0])
    await cluster.run(5)
    upload = await cluster.kube.get(DATA_UPLOADS, Key(NAMESPACE, "u"))
    assert upload.status.phase is Phase.ACCEPTED
    assert upload.status.accepted_by_node == NODES[2]


async def test_a_drained_agents_running_upload_stays_in_progress_and_is_gone_on_with(cluster: Cluster) -> None:
    cluster.moved.script = lambda _: Script(seconds=40)
    await cluster.upload("u")
    cluster.start_agent(NODES[0])
    await cluster.run(30)
    await cluster.controllers[NODES[0]].drain(5)
    assert not any(cluster.moved.active.values())
    await cluster.kill_agent(NODES[0])
    assert await cluster.phase_of(DATA_UPLOADS, "u") is Phase.IN_PROGRESS
    cluster.start_agent(NODES[0])
    await cluster.run(90)
    assert await cluster.phase_of(DATA_UPLOADS, "u") is Phase.COMPLETED


@pytest.mark.check(22, 37)
async def test_a_pod_volume_backup_of_a_node_without_an_agent_is_failed(cluster: Cluster) -> None:
    await cluster.pod_backup("b", node="no-such-node")
    cluster.liveness.dead.add("no-such-node")
    for node in NODES:
        cluster.start_agent(node)
    await cluster.run(90)
    backup = await cluster.kube.get(POD_VOLUME_BACKUPS, Key(NAMESPACE, "b"))
    assert backup.status.phase is Phase.FAILED
    assert "no-such-node" in backup.status.message


@pytest.mark.check(37)
async def test_a_pod_volume_backup_of_a_dead_node_is_failed_however_many_wait_to_be_accepted() -> None:
    cluster = Cluster(random.Random(1), prepare_queue_length=1)
    await cluster.upload("first", seconds=1000.0)
    for node in NODES:
        cluster.start_agent(node)
    await cluster.run(10)
    await cluster.pod_backup("b", node="no-such-node")
    cluster.liveness.dead.add("no-such-node")
    await cluster.run(30)
    assert await cluster.phase_of(POD_VOLUME_BACKUPS, "b") is Phase.FAILED
    await cluster.stop()


@pytest.mark.parametrize("minor", [16, 18])
async def test_a_pod_volume_restore_whose_pod_is_gone_is_failed(minor: int) -> None:
    cluster = Cluster(random.Random(1), server=Server(minor))
    await cluster.pod_restore("r")
    await cluster.kube.delete(PODS, Key("app", "r"))
    for node in NODES:
        cluster.start_agent(node)
    await cluster.run(300)
    restore = await cluster.kube.get(POD_VOLUME_RESTORES, Key(NAMESPACE, "r"))
    assert restore.status.phase is Phase.FAILED
    assert restore.status.message == "expose.source-gone: the pod app/r does not exist any more"
    await cluster.stop()


@pytest.mark.parametrize("away", ["", *NODES])
async def test_a_restore_whose_pod_vanishes_unscheduled_after_hours_is_failed_in_two_minutes_whoever_is_away(
    cluster: Cluster, away: str
) -> None:
    cluster.liveness.nodes = frozenset(NODES)
    await cluster.pod_restore("r", node="")
    for node in NODES:
        if node != away:
            cluster.start_agent(node)
    await cluster.run(4 * 3600)
    assert (await cluster.phase_of(POD_VOLUME_RESTORES, "r")).is_new
    await cluster.kube.delete(PODS, Key("app", "r"))
    await cluster.run(120)
    restore = await cluster.kube.get(POD_VOLUME_RESTORES, Key(NAMESPACE, "r"))
    assert restore.status.phase is Phase.FAILED
    assert restore.status.message == "expose.source-gone: the pod app/r does not exist any more"


async def test_agents_that_are_known_to_be_dead_keep_no_turn_at_looking_for_a_pod(cluster: Cluster) -> None:
    dead = {f"gone-{number}" for number in range(20)}
    cluster.liveness.nodes, cluster.liveness.dead = frozenset({NODES[0], *dead}), dead
    await cluster.pod_restore("r", node="")
    cluster.start_agent(NODES[0])
    await cluster.run(3600)
    await cluster.kube.delete(PODS, Key("app", "r"))
    await cluster.run(65)
    assert await cluster.phase_of(POD_VOLUME_RESTORES, "r") is Phase.FAILED


async def test_a_restore_whose_pod_vanishes_from_its_node_is_failed_at_once_by_the_agent_there(
    cluster: Cluster,
) -> None:
    await cluster.pod_restore("r", state=ContainerState(waiting=PodWaiting(reason="PodInitializing")))
    for node in NODES:
        cluster.start_agent(node)
    await cluster.run(4 * 3600)
    assert (await cluster.phase_of(POD_VOLUME_RESTORES, "r")).is_new
    await cluster.kube.delete(PODS, Key("app", "r"))
    await cluster.run(2)
    assert await cluster.phase_of(POD_VOLUME_RESTORES, "r") is Phase.FAILED


async def test_a_pod_volume_restore_of_another_node_is_left_to_it_and_looked_up_every_few_minutes(
    cluster: Cluster,
) -> None:
    cluster.liveness.nodes = frozenset({NODES[0]})
    await cluster.pod_restore("r", node="other")
    cluster.start_agent(NODES[0])
    await cluster.run(6000)
    assert (await cluster.phase_of(POD_VOLUME_RESTORES, "r")).is_new
    looked = sum(request == ("get", "pods") for request in cluster.kube.requests)
    assert 20 <= looked <= 26


async def test_a_restore_whose_pods_node_dies_while_it_waits_is_failed_in_minutes(cluster: Cluster) -> None:
    cluster.liveness.nodes = frozenset(NODES)
    await cluster.pod_restore("r", node="other")
    for node in NODES:
        cluster.start_agent(node)
    await cluster.run(4 * 3600)
    cluster.liveness.dead.add("other")
    await cluster.run(310)
    restore = await cluster.kube.get(POD_VOLUME_RESTORES, Key(NAMESPACE, "r"))
    assert restore.status.phase is Phase.FAILED
    assert restore.status.message.startswith("expose.node-lost: the node other")


async def test_a_download_whose_claim_never_comes_is_failed_after_the_time_limit(cluster: Cluster) -> None:
    await cluster.download("d", claim=False)
    cluster.start_agent(NODES[0])
    await cluster.run(1700)
    assert (await cluster.phase_of(DATA_DOWNLOADS, "d")).is_new
    await cluster.run(200)
    download = await cluster.kube.get(DATA_DOWNLOADS, Key(NAMESPACE, "d"))
    assert download.status.phase is Phase.FAILED
    assert "app/d" in download.status.message
    assert sum(verb == "get" for verb, _ in cluster.kube.requests) < 60


@pytest.mark.parametrize("away", ["", *NODES])
async def test_a_claim_that_comes_late_is_seen_within_two_minutes_whoever_is_away(cluster: Cluster, away: str) -> None:
    cluster.liveness.nodes = frozenset(NODES)
    await cluster.download("d", claim=False)
    for node in NODES:
        if node != away:
            cluster.start_agent(node)
    await cluster.run(1200)
    assert (await cluster.phase_of(DATA_DOWNLOADS, "d")).is_new
    await cluster.claim("d")
    await cluster.run(120)
    assert not (await cluster.phase_of(DATA_DOWNLOADS, "d")).is_new


async def test_a_claim_that_comes_after_its_download_as_it_mostly_does_is_seen_in_a_second(cluster: Cluster) -> None:
    cluster.liveness.nodes = frozenset(NODES)
    for node in NODES:
        cluster.start_agent(node)
    await cluster.download("d", claim=False)
    await cluster.run(0.5)
    await cluster.claim("d")
    await cluster.run(1.5)
    assert not (await cluster.phase_of(DATA_DOWNLOADS, "d")).is_new


async def test_many_agents_together_ask_seldom_for_a_claim_that_never_comes(cluster: Cluster) -> None:
    nodes = [f"node-{number}" for number in range(20)]
    cluster.liveness.nodes = frozenset(nodes)
    await cluster.download("d", claim=False)
    for node in nodes:
        cluster.start_agent(node)
    await cluster.run(1700)
    assert (await cluster.phase_of(DATA_DOWNLOADS, "d")).is_new
    assert sum(request == ("get", "persistentvolumeclaims") for request in cluster.kube.requests) < 180
