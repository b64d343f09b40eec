"""What an agent waits for before and while data moves: slots, volumes, rights, credentials, a worker that ends."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from agent.base.errors import (
    AccessDenied,
    KubeError,
    KubeForbidden,
    KubeNotFound,
    LocationNotFound,
    PodBroken,
    SecretAwaited,
    SecretMissing,
)
from agent.controllers.job import WAITING_ANNOTATION, Job
from agent.controllers.memory import PodVersions, Remembered
from agent.exposers.contract import Ready, Runner
from agent.kube.data_upload import DataUpload
from agent.kube.job import Phase
from agent.kube.meta import Key
from agent.kube.resource import DATA_UPLOADS, POD_VOLUME_BACKUPS, POD_VOLUME_RESTORES, PODS
from agent.kube.volumes import VolumeMode
from agent.movers.spec import Secrets
from agent.testing.clock import VirtualClock
from agent.testing.fake_movers import Script
from agent.testing.flaky_kube import FlakyKube, Weather
from tests.unit.controllers.controllers_kit import NAMESPACE, NODES, Cluster, Server

POD, CHANGED = ("pod-uid", "1"), ("pod-uid", "2")


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = Cluster(random.Random(1))
    yield cluster
    await cluster.stop()


async def test_a_prepared_upload_may_wait_for_a_slot_for_hours() -> None:
    cluster = Cluster(random.Random(1), concurrency=1)
    cluster.moved.script = lambda _: Script(seconds=7200)
    await cluster.upload("first")
    await cluster.upload("second")
    for node in NODES:
        cluster.start_agent(node)
    await cluster.run(7300)
    phases = {await cluster.phase_of(DATA_UPLOADS, name) for name in ("first", "second")}
    assert phases == {Phase.COMPLETED, Phase.IN_PROGRESS}
    await cluster.stop()


async def test_waiting_for_a_slot_costs_no_look_at_the_volume_until_its_pod_changes() -> None:
    cluster = Cluster(random.Random(1), concurrency=1)
    cluster.moved.script = lambda _: Script(seconds=7200)
    for name in ("first", "second"):
        await cluster.upload(name)
    cluster.start_agent(NODES[0])
    await cluster.run(60)
    (waits,) = [name for name in ("first", "second") if await cluster.phase_of(DATA_UPLOADS, name) is Phase.PREPARED]
    before = cluster.kube.requests.count(("get", "pods"))
    await cluster.run(200)
    assert cluster.kube.requests.count(("get", "pods")) == before
    pod = await cluster.kube.get(PODS, Key(NAMESPACE, f"dataupload-{waits}"))
    await cluster.kube.delete(PODS, pod.key)
    await cluster.run(5)
    assert await cluster.phase_of(DATA_UPLOADS, waits) is Phase.FAILED, "it was missed"
    await cluster.stop()


async def test_a_volume_that_was_seen_a_moment_ago_is_not_looked_at_again_before_the_work_begins(
    cluster: Cluster,
) -> None:
    cluster.moved.script = lambda _: Script(seconds=1000)
    await cluster.upload("u")
    cluster.start_agent(NODES[0])
    await cluster.run(9)
    assert await cluster.phase_of(DATA_UPLOADS, "u") is Phase.IN_PROGRESS
    asked = [one for one in cluster.kube.requests if one in {("get", "pods"), ("patch", DATA_UPLOADS.name)}]
    assert [verb for verb, _ in asked[-3:]] == ["get", "patch", "patch"]


@pytest.mark.parametrize(("pods", "seconds", "seen"), [((POD,), 1, True), ((CHANGED,), 1, False), ((POD,), 6, False)])
def test_a_volume_whose_pod_changed_or_that_was_seen_long_ago_is_looked_at(
    pods: PodVersions, seconds: float, seen: bool
) -> None:
    clock = VirtualClock(jump=False)
    memory: Remembered[DataUpload] = Remembered("uid", Phase.ACCEPTED, 0.0)
    memory.ready = Ready(node=NODES[0], mode=VolumeMode.FILESYSTEM, path="/p", runner=Runner.LOCAL)
    memory.pods, memory.look_from = (POD,), 5.0
    clock.advance(seconds)
    assert (memory.seen_ready(pods, clock) is not None) is seen
    assert memory.seen_ready(pods, clock) is None


async def test_a_volume_that_comes_on_another_node_is_looked_at_by_the_agent_there(cluster: Cluster) -> None:
    here, there = (FlakyKube(cluster.kube, cluster.clock, random.Random(1), Weather(latency=0.0)) for _ in NODES[:2])
    await cluster.upload("u", node=NODES[1], seconds=200)
    cluster.start_agent(NODES[0], here)
    await cluster.run(10)
    assert await cluster.phase_of(DATA_UPLOADS, "u") is Phase.ACCEPTED
    cluster.start_agent(NODES[1], there)
    before = here.requests["get", "pods"]
    await cluster.run(180)
    assert here.requests["get", "pods"] - before < 10
    assert there.requests["get", "pods"] >= 30
    await cluster.run(60)
    assert await cluster.phase_of(DATA_UPLOADS, "u") is Phase.COMPLETED


async def test_a_volume_that_comes_on_a_node_without_an_agent_is_looked_at_all_the_same(cluster: Cluster) -> None:
    cluster.liveness.dead.add(NODES[1])
    await cluster.upload("u", node=NODES[1], error=PodBroken("its image cannot be had"), seconds=20)
    cluster.start_agent(NODES[0])
    await cluster.run(40)
    upload = await cluster.kube.get(DATA_UPLOADS, Key(NAMESPACE, "u"))
    assert upload.status.message == "expose.pod-failed: its image cannot be had"


async def test_what_is_wrong_from_the_start_is_told_before_anything_is_exposed() -> None:
    async def check(job: Job) -> None:
        raise LocationNotFound("the backup storage location default does not exist")

    cluster = Cluster(random.Random(1), check=check)
    await cluster.upload("u")
    cluster.start_agent(NODES[0])
    await cluster.run(10)
    upload = await cluster.kube.get(DATA_UPLOADS, Key(NAMESPACE, "u"))
    assert upload.status.message.startswith("location.not-found:")
    assert ("create", "pods") not in cluster.kube.requests
    await cluster.stop()


async def test_what_turns_out_to_be_wrong_while_a_volume_is_waited_for_is_told_then() -> None:
    async def check(job: Job) -> None:
        text = "the Secret velero/keys does not exist"
        raise SecretMissing(text) if cluster.clock.monotonic() > 30 else SecretAwaited(text)

    cluster = Cluster(random.Random(1), check=check)
    await cluster.upload("u", seconds=1_000)
    cluster.start_agent(NODES[0])
    await cluster.run(25)
    assert ("create", "pods") in cluster.kube.requests
    await cluster.run(20)
    upload = await cluster.kube.get(DATA_UPLOADS, Key(NAMESPACE, "u"))
    assert upload.status.message.startswith("location.secret-missing: the Secret velero/keys")
    assert cluster.exposed["upload"].left == set()
    await cluster.stop()


async def test_a_missing_right_fails_an_upload_within_minutes_and_is_the_message(cluster: Cluster) -> None:
    cluster.kube.fail("create", "pods", KubeForbidden("cannot create pods: no such right"), times=10_000)
    cluster.kube.fail("get", "pods", KubeForbidden("cannot get pods: no such right"), times=10_000)
    await cluster.upload("u")
    cluster.start_agent(NODES[0])
    await cluster.run(240)
    upload = await cluster.kube.get(DATA_UPLOADS, Key(NAMESPACE, "u"))
    assert upload.status.phase is Phase.FAILED
    assert upload.status.message.startswith("kube.forbidden:")


@pytest.mark.check(24)
@pytest.mark.parametrize("error", [KubeForbidden("roles are not known yet"), KubeNotFound("no such kind yet")])
@pytest.mark.parametrize(("seconds", "phase"), [(40.0, Phase.COMPLETED), (1e6, Phase.FAILED)])
async def test_what_an_api_server_refuses_while_it_starts_is_asked_again_for_a_minute(
    error: KubeError, seconds: float, phase: Phase
) -> None:
    async def check(job: Job) -> None:
        if cluster.clock.monotonic() < seconds:
            raise error

    cluster = Cluster(random.Random(1), check=check)
    await cluster.upload("u")
    cluster.start_agent(NODES[0])
    await cluster.run(120)
    upload = await cluster.kube.get(DATA_UPLOADS, Key(NAMESPACE, "u"))
    assert upload.status.phase is phase
    assert phase is Phase.COMPLETED or upload.status.message == f"{error.code}: {error}"
    await cluster.stop()


async def test_a_long_wait_says_for_what_in_the_object(cluster: Cluster) -> None:
    await cluster.upload("u", seconds=1e6)
    cluster.start_agent(NODES[0])
    await cluster.run(60)
    upload = await cluster.kube.get(DATA_UPLOADS, Key(NAMESPACE, "u"))
    assert upload.metadata.annotations[WAITING_ANNOTATION] == "the volume is being made"
    before = len(cluster.kube.requests)
    await cluster.run(600)
    patches = [request for request in cluster.kube.requests[before:] if request[0] == "patch"]
    assert len(patches) <= 10


async def test_an_object_that_cannot_be_read_keeps_its_worker_and_is_named(cluster: Cluster) -> None:
    cluster.moved.script = lambda _: Script(seconds=60)
    await cluster.upload("u")
    cluster.start_agent(NODES[0])
    await cluster.run(30)
    value = cluster.kube.raw(DATA_UPLOADS, Key(NAMESPACE, "u"))
    cluster.kube.put_raw(DATA_UPLOADS, {**value, "status": {"phase": "Dreaming"}})
    await cluster.run(5)
    assert list(cluster.controllers[NODES[0]].unreadable) == ["DataUpload velero/u"]
    assert sum(cluster.moved.active.values()) == 1
    cluster.kube.put_raw(DATA_UPLOADS, value)
    await cluster.run(120)
    assert await cluster.phase_of(DATA_UPLOADS, "u") is Phase.COMPLETED
    assert not cluster.moved.doubled


async def test_a_worker_that_does_not_end_on_a_cancel_is_ended_by_force(cluster: Cluster) -> None:
    cluster.moved.script = lambda _: Script(seconds=1e6, deaf=True)
    await cluster.upload("u")
    cluster.start_agent(NODES[0])
    await cluster.run(30)
    await cluster.patch(DATA_UPLOADS, "u", {"spec": {"cancel": True}})
    await cluster.run(180)
    upload = await cluster.kube.get(DATA_UPLOADS, Key(NAMESPACE, "u"))
    assert upload.status.phase is Phase.CANCELED
    assert upload.status.message == "canceled: spec.cancel was set"
    assert not any(cluster.moved.active.values())


@pytest.mark.parametrize("replaced", [True, False])
async def test_credentials_that_are_replaced_while_a_job_runs_are_those_with_which_it_goes_on(
    cluster: Cluster, replaced: bool
) -> None:
    old, new = Secrets(password="p", secret_key="old"), Secrets(password="p", secret_key="new")
    cluster.secrets = old
    refused = AccessDenied("the store refused the key")
    cluster.moved.script = lambda _: Script(seconds=30, error=None if cluster.secrets == new else refused)
    await cluster.upload("u")
    cluster.start_agent(NODES[0])
    await cluster.run(20)
    begun = await cluster.kube.get(DATA_UPLOADS, Key(NAMESPACE, "u"))
    assert begun.status.phase is Phase.IN_PROGRESS
    cluster.secrets = new if replaced else old
    await cluster.run(120)
    upload = await cluster.kube.get(DATA_UPLOADS, Key(NAMESPACE, "u"))
    if replaced:
        assert upload.status.phase is Phase.COMPLETED
        assert upload.status.start_timestamp == begun.status.start_timestamp
        assert len(cluster.moved.started) == 2 and not cluster.moved.doubled
    else:
        assert upload.status.message == "storage.access-denied: the store refused the key"
        assert len(cluster.moved.started) == 1


async def test_credentials_that_are_replaced_and_refused_as_well_are_not_tried_again_and_again(
    cluster: Cluster,
) -> None:
    cluster.secrets = Secrets(password="p", secret_key="old")
    cluster.moved.script = lambda _: Script(seconds=30, error=AccessDenied("the store refused the key"))
    await cluster.upload("u")
    cluster.start_agent(NODES[0])
    await cluster.run(20)
    cluster.secrets = Secrets(password="p", secret_key="new")
    await cluster.run(120)
    assert await cluster.phase_of(DATA_UPLOADS, "u") is Phase.FAILED
    assert len(cluster.moved.started) == 2


async def test_work_that_takes_longer_than_allowed_is_failed_with_that_reason() -> None:
    cluster = Cluster(random.Random(1), time_limit=lambda _: 60.0)
    cluster.moved.script = lambda _: Script(seconds=1000)
    await cluster.pod_backup("b")
    cluster.start_agent(NODES[0])
    await cluster.run(120)
    backup = await cluster.kube.get(POD_VOLUME_BACKUPS, Key(NAMESPACE, "b"))
    assert backup.status.phase is Phase.FAILED
    assert "longer than the 60 s" in backup.status.message
    await cluster.stop()


@pytest.mark.parametrize(("minor", "phase"), [(16, Phase.FAILED), (17, Phase.CANCELED), (18, Phase.CANCELED)])
async def test_a_canceled_pod_volume_restore_is_canceled_where_the_server_knows_that(minor: int, phase: Phase) -> None:
    cluster = Cluster(random.Random(1), server=Server(minor))
    cluster.moved.script = lambda _: Script(seconds=1000)
    await cluster.pod_restore("r")
    cluster.start_agent(NODES[0])
    await cluster.run(20)
    await cluster.patch(POD_VOLUME_RESTORES, "r", {"spec": {"cancel": True}})
    await cluster.run(15)
    assert await cluster.phase_of(POD_VOLUME_RESTORES, "r") is phase
    await cluster.stop()


@pytest.mark.check(45)
async def test_progress_is_written_every_ten_seconds_also_while_it_is_being_canceled(cluster: Cluster) -> None:
    cluster.moved.script = lambda _: Script(seconds=1000, deaf=True)
    moments: list[float] = []

    def observe(name: str, before: object, after: object) -> None:
        done = [_done(value) for value in (before, after)]
        if name == DATA_UPLOADS.name and done[0] != done[1]:
            moments.append(cluster.clock.monotonic())

    cluster.kube.observers.append(observe)
    await cluster.upload("u")
    cluster.start_agent(NODES[0])
    await cluster.run(60)
    await cluster.patch(DATA_UPLOADS, "u", {"spec": {"cancel": True}})
    await cluster.run(60)
    gaps = [after - before for before, after in pairwise(moments)]
    assert len(gaps) >= 8
    assert all(10.0 <= gap <= 15.0 for gap in gaps)


def _done(value: object) -> object:
    status = value.get("status", {}) if isinstance(value, dict) else {}
    return status.get("progress", {}).get("bytesDone")
