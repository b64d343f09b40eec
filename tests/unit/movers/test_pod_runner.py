"""The agent and a mover pod, both real, over a cluster in memory and in virtual time."""

import asyncio

import msgspec
import pytest

from agent.base.clock import SystemClock
from agent.base.errors import (
    CanceledError,
    KubeUnavailable,
    MoverCrashed,
    MoverError,
    MoverOutOfMemory,
    MoverProtocolError,
    MoverSilent,
    MoverUnavailable,
    OutOfSpace,
    WrongPassword,
)
from agent.kube.resource import DATA_UPLOADS, EVENTS, PODS
from agent.kube.resource import SECRETS as SECRET_OBJECTS
from agent.movers.pod_protocol import (
    CANCEL_ANNOTATION,
    CANCELED_REASON,
    CANCELING_REASON,
    COMPLETED_REASON,
    FAILED_REASON,
    JOB_ANNOTATION,
    LIMITS_ANNOTATION,
    PROGRESS_REASON,
    STARTED_REASON,
    STOPPED_REASON,
)
from agent.movers.spec import RateLimits, Secrets
from agent.movers.supervisor import JobCallbacks
from agent.testing.fake_movers import FakeMovers, Script
from tests.unit.movers.moving_kit import PASSWORD, SECRETS, backup_of, new_repository, new_tree, running, snapshots_in
from tests.unit.movers.pod_kit import BACKUP, KEY, NAME, RESTORE, PodCluster, ended_status, outcome

# Whole jobs


async def test_a_job_goes_to_the_pod_and_its_result_comes_back():
    cluster = await PodCluster(script=Script(seconds=45, bytes=4_500)).create()
    seen, told = [], []
    callbacks = JobCallbacks(on_progress=seen.append, on_metric=told.append)
    async with cluster.pod(), cluster.runner().job(BACKUP, SECRETS, callbacks) as work:
        updates = [progress.bytes_done async for progress in work.updates()]
        result = await work.result()
    assert (result.snapshot, result.total_bytes) == (f"snapshot-of-{NAME}", 4_500)
    assert updates == sorted(updates) and len(updates) >= 3
    assert [progress.bytes_done for progress in seen] == updates
    (moved,) = told
    assert (moved.name, moved.labels["operation"], moved.value) == ("storage_bytes", "put", result.uploaded_bytes)
    events = await cluster.events()
    assert set(events) == {STARTED_REASON, PROGRESS_REASON, COMPLETED_REASON, STOPPED_REASON}
    assert events[PROGRESS_REASON].count == 5
    assert events[COMPLETED_REASON].source.host == "node1"
    assert cluster.world.started == [NAME]


async def test_a_restore_comes_back_as_one():
    cluster = await PodCluster().create()
    async with cluster.pod():
        assert (await outcome(cluster, RESTORE)).bytes == 1 << 20


async def test_secrets_never_reach_an_object_of_the_cluster():
    cluster = await PodCluster().create()
    async with cluster.pod():
        await outcome(cluster)
    everything = str([cluster.api.raw(PODS, KEY), cluster.messages, await cluster.events()])
    assert PASSWORD not in everything and SECRETS.secret_key not in everything
    assert not [request for request in cluster.api.requests if request[1] == SECRET_OBJECTS.name]


async def test_a_real_worker_in_the_pod_writes_a_real_snapshot(tmp_path):
    location = await new_repository(tmp_path / "repository")
    tree = new_tree(tmp_path / "tree")
    cluster = await PodCluster(clock=SystemClock()).create()
    async with running(concurrency=1) as movers, cluster.pod(movers):
        result = await outcome(cluster, backup_of(tree, location, id=NAME))
    (snapshot,) = await snapshots_in(location)
    assert (result.snapshot, result.total_bytes, result.files) == (snapshot.id, 20_000, 20)


async def test_a_wrong_password_in_the_pod_is_the_same_leaf_in_the_agent(tmp_path):
    location = await new_repository(tmp_path / "repository")
    cluster = await PodCluster(clock=SystemClock()).create()
    async with running(concurrency=1) as movers:
        worker = cluster.worker(movers)
        worker._secrets = lambda _: Secrets(password="not-the-one")
        life = asyncio.create_task(worker.run())
        async with cluster.runner().job(backup_of(tmp_path, location, id=NAME), SECRETS) as work:
            with pytest.raises(WrongPassword):
                await life
            await cluster.status(ended_status(cluster.messages[-1], exit_code=32))
            with pytest.raises(WrongPassword):
                await work.result()
    assert (await cluster.events())[FAILED_REASON].type == "Warning"


async def test_an_error_of_the_worker_is_told_by_event_and_message():
    cluster = await PodCluster(script=Script(error=OutOfSpace("the bucket is full", hint="make room"))).create()
    async with cluster.pod():
        with pytest.raises(OutOfSpace) as caught:
            await outcome(cluster)
    assert (caught.value.message, caught.value.hint) == ("the bucket is full", "make room")
    assert "storage.out-of-space" in (await cluster.events())[FAILED_REASON].message


# An agent that is restarted


async def test_an_agent_that_comes_back_follows_the_job_that_runs():
    cluster = await PodCluster(script=Script(seconds=60)).create()
    async with cluster.pod():
        first = asyncio.create_task(outcome(cluster))
        await cluster.waited(20)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert CANCEL_ANNOTATION not in cluster.annotations()
        assert (await outcome(cluster)).total_bytes == 1 << 20
    assert cluster.world.started == [NAME]


async def test_an_agent_that_comes_back_takes_the_result_of_a_pod_that_has_ended():
    cluster = await PodCluster(script=Script(seconds=30)).create()
    async with cluster.pod() as pod:
        first = asyncio.create_task(outcome(cluster))
        await cluster.waited(10)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await pod
        assert (await outcome(cluster)).total_bytes == 1 << 20
    assert cluster.world.started == [NAME]


async def test_a_pod_with_the_job_of_another_object_is_left_alone():
    cluster = await PodCluster().create()
    await cluster.annotate(JOB_ANNOTATION, msgspec.json.encode(msgspec.structs.replace(BACKUP, id="other")).decode())
    with pytest.raises(MoverUnavailable, match="does the job 'other'"):
        await outcome(cluster)


# The end of a block


async def test_a_block_that_is_left_early_tells_the_pod_to_end():
    cluster = await PodCluster(script=Script(seconds=600)).create()
    async with cluster.pod(), cluster.runner().job(BACKUP, SECRETS):
        await cluster.waited(5)
    assert cluster.annotations()[CANCEL_ANNOTATION] == "nobody waits for the job"
    assert cluster.clock.monotonic() < 60


async def test_a_block_that_is_left_while_the_api_server_is_away_ends_all_the_same():
    cluster = await PodCluster().create()
    async with cluster.runner().job(BACKUP, SECRETS):
        await cluster.waited(5)
        cluster.api.outage(True)
    assert cluster.clock.monotonic() < 30


# Cancel


async def test_a_cancel_by_the_agent_ends_the_job_and_keeps_what_was_saved():
    cluster = await PodCluster(script=Script(seconds=600)).create()
    async with cluster.pod(), cluster.runner().job(BACKUP, SECRETS) as work:
        await cluster.waited(20)
        work.cancel("it took longer than 20 s")
        result = await work.result()
    assert result.incomplete == "canceled"
    assert cluster.messages[-1].endswith("data path is canceled")
    events = await cluster.events()
    assert {CANCELING_REASON, CANCELED_REASON, STOPPED_REASON} <= set(events)
    assert "it took longer than 20 s" in events[CANCELING_REASON].message
    assert cluster.clock.monotonic() < 30


@pytest.mark.parametrize(
    "patch",
    [{"spec": {"cancel": True}}, {"status": {"phase": "Failed"}}],
    ids=["spec.cancel", "the object has ended"],
)
async def test_the_pod_sees_by_itself_that_its_object_wants_no_more(patch):
    cluster = await PodCluster(script=Script(seconds=600)).create()
    async with cluster.pod(), cluster.runner().job(RESTORE, SECRETS) as work:
        await cluster.waited(20)
        await cluster.change_object(patch)
        with pytest.raises(CanceledError):
            await work.result()
    assert cluster.clock.monotonic() < 30


async def test_the_deletion_of_the_object_ends_the_job():
    cluster = await PodCluster(script=Script(seconds=600)).create()
    async with cluster.pod(), cluster.runner().job(RESTORE, SECRETS) as work:
        await cluster.waited(20)
        await cluster.api.delete(DATA_UPLOADS, KEY)
        with pytest.raises(CanceledError, match="being deleted"):
            await work.result()


async def test_a_cancel_while_the_job_is_handed_over_reaches_the_pod():
    cluster = await PodCluster(script=Script(seconds=600)).create()
    cluster.api.outage(True)
    async with cluster.runner().job(BACKUP, SECRETS) as work:
        work.cancel("too late")
        await cluster.waited(10)
        cluster.api.outage(False)
        async with cluster.pod():
            with pytest.raises(CanceledError, match="before it had a job: too late"):
                await work.result()
    assert cluster.world.started == []


async def test_a_pod_that_does_not_end_after_a_cancel_is_given_up():
    cluster = await PodCluster().create()
    async with cluster.runner(cancel_grace=60, silence=1e6).job(BACKUP, SECRETS) as work:
        await cluster.waited(5)
        work.cancel("enough")
        with pytest.raises(CanceledError, match=r"enough.*did not end in time"):
            await work.result()
    assert 60 <= cluster.clock.monotonic() < 75


async def test_a_cancel_that_the_api_server_refuses_is_repeated():
    cluster = await PodCluster(script=Script(seconds=600)).create()
    async with cluster.pod(), cluster.runner().job(BACKUP, SECRETS) as work:
        await cluster.waited(20)
        cluster.api.fail("patch", PODS.name, KubeUnavailable("busy"), times=3)
        work.cancel("enough")
        assert (await work.result()).incomplete


# Limits


async def test_limits_reach_the_worker_while_it_works():
    cluster = await PodCluster(script=Script(seconds=60)).create()
    movers, works = FakeMovers(cluster.world, cluster.clock), []

    class Remembering:
        def job(self, *given):
            return Remembered(movers.job(*given), works)

    limits = RateLimits(upload_bytes=1_000)
    async with cluster.pod(Remembering()), cluster.runner().job(BACKUP, SECRETS) as work:
        await cluster.waited(10)
        work.set_limits(limits)
        await cluster.waited(5)
        assert works[0].limits == limits
        asked = len(cluster.api.requests)
        work.set_limits(RateLimits(upload_bytes=1_000))
        await cluster.waited(1)
        assert ("patch", PODS.name) not in cluster.api.requests[asked:]
        await cluster.annotate(LIMITS_ANNOTATION, '{"upload_bytes": -1}')
        await cluster.waited(5)
        assert works[0].limits == limits
        assert any("cannot be understood" in line.text for line in cluster.logs)
        await work.result()


async def test_a_pause_reaches_the_pod_and_outlives_the_agent():
    cluster = await PodCluster(script=Script(seconds=60)).create()
    movers, works = FakeMovers(cluster.world, cluster.clock), []

    class Remembering:
        def job(self, *given):
            return Remembered(movers.job(*given), works)

    async with cluster.pod(Remembering()):
        first = asyncio.create_task(_paused(cluster))
        await cluster.waited(20)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await cluster.waited(600)
        assert works[0].limits.paused, "it waits for the next agent"
        async with cluster.runner().job(BACKUP, SECRETS) as work:
            assert (await work.result()).total_bytes == 1 << 20
        assert not works[0].limits.paused, "which knows nothing of a pause that is over"


async def _paused(cluster):
    async with cluster.runner().job(BACKUP, SECRETS) as work:
        work.set_limits(RateLimits(paused=True))
        await work.result()


class Remembered:
    def __init__(self, block, works):
        self._block, self._works = block, works

    async def __aenter__(self):
        self._works.append(await self._block.__aenter__())
        return self._works[-1]

    async def __aexit__(self, *error):
        return await self._block.__aexit__(*error)


# Pods that come to a bad end


async def test_a_pod_that_is_deleted_is_a_crash_with_the_progress_it_made():
    cluster = await PodCluster(script=Script(seconds=600, bytes=600)).create()
    async with cluster.pod() as pod, cluster.runner().job(BACKUP, SECRETS) as work:
        await cluster.waited(25)
        pod.cancel()
        await cluster.api.delete(PODS, KEY)
        with pytest.raises(MoverCrashed, match=r"is gone, after (19|2\d) of 600 bytes"):
            await work.result()


async def test_a_pod_that_ends_and_is_gone_at_once_still_tells_its_outcome():
    cluster = await PodCluster().create()
    async with cluster.pod() as pod, cluster.runner().job(BACKUP, SECRETS) as work:
        await pod
        await cluster.api.delete(PODS, KEY)
        assert (await work.result()).total_bytes == 1 << 20


async def test_a_pod_of_the_same_name_is_not_taken_for_the_one_that_is_gone():
    cluster = await PodCluster().create()
    async with cluster.runner().job(BACKUP, SECRETS) as work:
        await cluster.waited(5)
        value = cluster.api.raw(PODS, KEY)
        cluster.api.put_raw(PODS, {**value, "metadata": {**value["metadata"], "uid": "another"}})
        with pytest.raises(MoverCrashed, match="is gone"):
            await work.result()


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (ended_status(exit_code=137, reason="OOMKilled"), MoverOutOfMemory, "OOMKilled"),
        (ended_status("Killed by logs", exit_code=137, reason="OOMKilled"), MoverOutOfMemory, "OOMKilled"),
        (ended_status(exit_code=137, reason="Error"), MoverCrashed, "ended with status 137 and without a result"),
        (ended_status(exit_code=0, reason="Completed"), MoverCrashed, "ended with status 0 and without a result"),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: ephemeral-storage"},
            MoverCrashed,
            "Evicted: The node was low on resource: ephemeral-storage",
        ),
        ({"phase": "Failed"}, MoverCrashed, "the kubelet does not say why"),
    ],
    ids=["oom", "oom with a log line", "killed", "no message", "evicted", "no reason"],
)
async def test_a_pod_without_an_outcome_is_told_in_the_words_of_the_kubelet(status, error, words):
    cluster = await PodCluster().create()
    async with cluster.runner().job(BACKUP, SECRETS) as work:
        await cluster.waited(5)
        await cluster.api.patch(PODS, KEY, {"status": {"containerStatuses": None, **status}}, status=True)
        with pytest.raises(error, match=words):
            await work.result()


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("panic: runtime error", MoverCrashed),
        ("{", MoverProtocolError),
        ("{}", MoverProtocolError),
        ("[]", MoverCrashed),
        ('{"snapshotID": 7}', MoverProtocolError),
        ('{"snapshotID": "../../etc"}', MoverProtocolError),
        ('{"snapshotID": "ab", "totalBytes": -1}', MoverProtocolError),
        ('{"snapshotID": "ab", "totalBytes": 1e400}', MoverProtocolError),
        ('{"target": {"byPath": "/x"}, "totalBytes": 5}', MoverProtocolError),
        ('{"error": {"code": 5, "message": "x"}}', MoverProtocolError),
        ('{"error": {"code": "no.such", "message": "x"}}', Exception),
        ('{"result": {"type": "backup"}}', MoverProtocolError),
        ("[" * 4_000, MoverCrashed),
        ('{"a":' * 4_000, MoverProtocolError),
        ("x" * 1_000_000, MoverCrashed),
        ("\x1b[31m\x00\ud7ff data path is canceled", CanceledError),
    ],
)
async def test_hostile_termination_messages_are_errors_with_a_name(message, error):
    cluster = await PodCluster().create()
    await cluster.status(ended_status(message, exit_code=1))
    with pytest.raises(error) as caught:
        await outcome(cluster)
    assert caught.value.code and len(str(caught.value)) < 2_000
    assert str(caught.value).isprintable()


async def test_the_end_of_the_log_of_a_pod_without_an_outcome_is_told():
    cluster = await PodCluster().create()
    await cluster.status(ended_status("info: begins\nMemoryError: \x1b[31m", exit_code=1, reason="Error"))
    with pytest.raises(MoverCrashed, match=r"status 1 and without a result \(Error\).*its log ends: MemoryError: "):
        await outcome(cluster)


async def test_words_that_a_mover_left_itself_are_its_error():
    cluster = await PodCluster().create(policy="File")
    await cluster.status(ended_status("no such bucket", exit_code=1, reason="Error"))
    with pytest.raises(MoverError, match="the mover pod failed: no such bucket"):
        await outcome(cluster)


async def test_progress_that_is_not_understood_is_passed_over():
    cluster = await PodCluster(script=Script(seconds=60, bytes=600)).create()
    async with cluster.pod(), cluster.runner().job(BACKUP, SECRETS) as work:
        await cluster.waited(25)
        (name,) = [e.key for e in (await cluster.events()).values() if e.reason == PROGRESS_REASON]
        for message in ("", "[]", '{"doneBytes": -5}', '{"doneBytes": "x"}', '{"doneBytes": 1}'):
            await cluster.api.patch(EVENTS, name, {"message": message})
        await cluster.waited(1)
        assert 20 <= work.progress.bytes_done < 300
        await work.result()


# Silence


async def test_a_pod_that_says_nothing_for_too_long_is_given_up_and_told_to_end():
    cluster = await PodCluster().create()
    async with cluster.runner(silence=180).job(BACKUP, SECRETS) as work:
        with pytest.raises(MoverSilent, match="silent for 18"):
            await work.result()
    assert 180 <= cluster.clock.monotonic() < 195
    assert CANCEL_ANNOTATION in cluster.annotations()


async def test_a_job_that_moves_nothing_for_long_is_not_silent_while_its_worker_lives():
    cluster = await PodCluster(script=Script(seconds=2_000, bytes=0)).create()
    async with cluster.pod():
        assert (await outcome(cluster, silence=60)).total_bytes == 0


async def test_an_agent_that_sees_nothing_does_not_call_a_pod_silent():
    cluster = await PodCluster(script=Script(seconds=900)).create()
    async with cluster.pod(), cluster.runner(silence=60).job(BACKUP, SECRETS) as work:
        await cluster.waited(20)
        cluster.api.outage(True)
        await cluster.waited(600)
        cluster.api.outage(False)
        assert (await work.result()).total_bytes == 1 << 20
