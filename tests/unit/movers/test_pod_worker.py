"""The loop inside a mover pod, without an agent: what it waits for, when it ends, what it leaves."""

import asyncio

import msgspec
import pytest
import structlog

from agent.base.errors import (
    AccessDenied,
    CanceledError,
    ConfigurationError,
    KubeUnavailable,
    MoverCrashed,
    MoverOutOfMemory,
    MoverProtocolError,
    MoverUnavailable,
)
from agent.kube.resource import (
    DATA_DOWNLOADS,
    DATA_UPLOADS,
    EVENTS,
    POD_VOLUME_BACKUPS,
    POD_VOLUME_RESTORES,
    PODS,
)
from agent.movers.pod_messages import CANCELED_ENDING, MAX_TERMINATION_MESSAGE, read_outcome
from agent.movers.pod_protocol import (
    CANCEL_ANNOTATION,
    CANCELED_REASON,
    COMPLETED_REASON,
    JOB_ANNOTATION,
    LIMITS_ANNOTATION,
    PROGRESS_REASON,
    STARTED_REASON,
)
from agent.observe.log import job_fields
from agent.server.rights import MOVER_RIGHTS
from agent.testing.fake_movers import FakeMovers, Script
from tests.unit.movers.moving_kit import SECRETS
from tests.unit.movers.pod_kit import BACKUP, KEY, NAME, RESTORE, PodCluster

NEW_SECRETS = msgspec.structs.replace(SECRETS, access_key="AKIAOTHER", secret_key="another-key-of-the-store")


async def with_job(spec=BACKUP, **script):
    cluster = await PodCluster(script=Script(**script)).create()
    await cluster.annotate(JOB_ANNOTATION, msgspec.json.encode(spec).decode())
    return cluster


async def test_a_pod_waits_for_its_job_and_does_it():
    cluster = await PodCluster().create()
    life = asyncio.create_task(cluster.worker().run())
    await cluster.waited(600)
    assert cluster.world.started == []
    await cluster.annotate(JOB_ANNOTATION, msgspec.json.encode(BACKUP).decode())
    assert (await life).total_bytes == 1 << 20
    assert read_outcome(cluster.messages[-1], BACKUP.work).total_bytes == 1 << 20


async def test_a_pod_asks_the_api_server_for_what_its_account_may_and_for_nothing_else():
    cluster = await with_job(seconds=60)
    before = len(cluster.api.requests)
    await cluster.worker().run()
    asked = set(cluster.api.requests[before:])
    granted = {(verb, right.name) for right in MOVER_RIGHTS for verb in right.verbs}
    assert asked <= granted
    others = {DATA_DOWNLOADS.name, POD_VOLUME_BACKUPS.name, POD_VOLUME_RESTORES.name}
    assert {(verb, name) for verb, name in granted if name not in others} == asked, "no right that is not used"


async def test_a_pod_that_gets_no_job_ends_by_itself():
    cluster = await PodCluster().create()
    with pytest.raises(MoverUnavailable, match="no job within 1800 s"):
        await cluster.worker().run()
    assert "mover.unavailable" in cluster.messages[-1]
    assert 1_800 <= cluster.clock.monotonic() < 1_810


@pytest.mark.parametrize("how", ["sigterm", "annotation", "spec.cancel", "deleted", "gone", "pod deleted"])
async def test_a_pod_that_waits_ends_when_nobody_wants_its_job(how):
    cluster = await PodCluster().create()
    life = asyncio.create_task(cluster.worker().run())
    await cluster.waited(60)
    await tell(cluster, how)
    with pytest.raises(CanceledError, match="before it had a job"):
        await life
    assert cluster.messages[-1].endswith(CANCELED_ENDING)
    assert cluster.clock.monotonic() < 65


@pytest.mark.parametrize("how", ["sigterm", "annotation", "spec.cancel", "deleted", "gone", "pod deleted"])
async def test_a_job_that_runs_is_canceled_and_saves_what_it_has(how):
    cluster = await with_job(seconds=600)
    life = asyncio.create_task(cluster.worker().run())
    await cluster.waited(60)
    await tell(cluster, how)
    with pytest.raises(CanceledError, match=f"the snapshot snapshot-of-{NAME} keeps what was saved"):
        await life
    assert read_outcome(cluster.messages[-1], BACKUP.work).incomplete == "canceled"
    assert cluster.clock.monotonic() < 65


async def tell(cluster, how):
    if how == "sigterm":
        cluster.stopped.set()
    elif how == "annotation":
        await cluster.annotate(CANCEL_ANNOTATION, "it took too long")
    elif how == "spec.cancel":
        await cluster.change_object({"spec": {"cancel": True}})
    elif how == "deleted":
        await cluster.api.delete(DATA_UPLOADS, KEY)
    elif how == "gone":
        await cluster.api.patch(PODS, KEY, {"metadata": {"finalizers": ["test/held"]}})  # keeps the pod from going too
        value = cluster.api.raw(DATA_UPLOADS, KEY)
        cluster.api.put_raw(DATA_UPLOADS, {**value, "metadata": {**value["metadata"], "finalizers": []}})
        await cluster.api.delete(DATA_UPLOADS, KEY)
    else:
        await cluster.api.patch(PODS, KEY, {"metadata": {"finalizers": ["test/held"]}})
        await cluster.api.delete(PODS, KEY)


async def test_a_job_that_cannot_save_in_time_is_left_before_the_kubelet_kills():
    cluster = await with_job(seconds=600, cancel_seconds=1_000)
    life = asyncio.create_task(cluster.worker(stop_grace=20).run())
    await cluster.waited(60)
    cluster.stopped.set()
    with pytest.raises(CanceledError, match="did not save what it had in time"):
        await life
    assert cluster.world.active[NAME] == 0
    assert 80 <= cluster.clock.monotonic() < 85


async def test_a_pod_that_is_ended_at_once_still_leaves_a_message():
    cluster = await with_job(seconds=600)
    life = asyncio.create_task(cluster.worker().run())
    await cluster.waited(60)
    life.cancel()
    with pytest.raises(asyncio.CancelledError):
        await life
    assert cluster.messages[-1].endswith(CANCELED_ENDING)
    assert cluster.world.active[NAME] == 0


async def test_an_object_that_cannot_be_read_ends_no_job():
    cluster = await with_job(seconds=60)
    life = asyncio.create_task(cluster.worker().run())
    await cluster.waited(20)
    value = cluster.api.raw(DATA_UPLOADS, KEY)
    cluster.api.put_raw(DATA_UPLOADS, {**value, "status": {"phase": "NeverHeardOf"}})
    assert (await life).incomplete == ""


async def test_a_job_of_another_release_is_refused_by_name():
    cluster = await PodCluster().create()
    await cluster.annotate(JOB_ANNOTATION, '{"id": "x", "work": {"type": "teleport"}}')
    with pytest.raises(MoverProtocolError):
        await cluster.worker().run()
    assert "mover.protocol" in cluster.messages[-1]


async def test_secrets_that_are_not_mounted_are_named():
    cluster = await with_job()
    worker = cluster.worker()

    def missing(_):
        raise ConfigurationError("cannot read the repository's password: no such file")

    worker._secrets = missing
    with pytest.raises(ConfigurationError):
        await worker.run()
    assert "configuration.invalid" in cluster.messages[-1]


REFUSED = AccessDenied("PUT: the access key does not exist")


class Rotation:
    """Keys that the store takes no more after a while, and a kubelet that mounts the new ones after another."""

    def __init__(self, cluster, *, refused_after=5.0, mounted_after=60.0):
        self.used, self._cluster, self._start = [], cluster, cluster.clock.monotonic()
        self._mounted_after = mounted_after
        cluster.world.script = lambda _: Script(error=REFUSED, seconds=refused_after) if self._refuses() else Script()

    def _refuses(self):
        return self.used[-1] == SECRETS

    def mounted(self, _):
        replaced = self._cluster.clock.monotonic() - self._start >= self._mounted_after
        return NEW_SECRETS if replaced else SECRETS

    def job(self, spec, secrets, callbacks):
        self.used.append(secrets)
        return FakeMovers(self._cluster.world, self._cluster.clock).job(spec, secrets, callbacks)

    def worker(self, **options):
        worker = self._cluster.worker(self, **options)
        worker._secrets = self.mounted
        return worker


async def test_a_job_goes_on_with_credentials_that_are_mounted_after_the_store_refused_the_old_ones():
    cluster = await with_job()
    rotation = Rotation(cluster)
    assert (await rotation.worker().run()).total_bytes == 1 << 20
    assert rotation.used == [SECRETS, NEW_SECRETS]
    assert cluster.clock.monotonic() < 80
    assert any("goes on with new credentials" in line.text for line in cluster.logs)


async def test_credentials_that_were_refused_from_the_start_are_not_waited_for():
    cluster = await with_job()
    began = cluster.clock.monotonic()
    with pytest.raises(AccessDenied):
        await Rotation(cluster, refused_after=0).worker().run()
    assert cluster.clock.monotonic() - began < 10
    assert AccessDenied.code in cluster.messages[-1]


async def test_credentials_that_nobody_replaces_are_waited_for_as_long_as_a_kubelet_may_take():
    cluster = await with_job()
    began = cluster.clock.monotonic()
    with pytest.raises(AccessDenied):
        await Rotation(cluster, mounted_after=1e9).worker(renewal=90).run()
    assert 90 <= cluster.clock.monotonic() - began < 110


async def test_nobody_waits_for_credentials_of_a_job_that_is_canceled():
    cluster = await with_job()
    began = cluster.clock.monotonic()
    life = asyncio.create_task(Rotation(cluster, mounted_after=1e9).worker().run())
    await cluster.waited(20)
    await cluster.annotate(CANCEL_ANNOTATION, "not needed any more")
    with pytest.raises(AccessDenied):
        await life
    assert cluster.clock.monotonic() - began < 30


async def test_a_defect_is_told_with_its_traceback_in_the_log():
    cluster = await with_job()

    class Broken:
        def job(self, *_):
            raise ZeroDivisionError("by chance")

    with pytest.raises(Exception, match="unexpected ZeroDivisionError"):
        await cluster.worker(Broken()).run()
    assert '"internal"' in cluster.messages[-1]
    assert any("Traceback" in line.text for line in cluster.logs)


async def test_the_agents_cache_folder_is_not_the_pods():
    cluster = await with_job()
    seen = []

    class Asking:
        def job(self, spec, *_):
            seen.append(spec.cache_dir)
            raise MoverUnavailable("enough seen")

    with pytest.raises(MoverUnavailable):
        await cluster.worker(Asking()).run()
    assert seen == [""]


async def test_events_that_cannot_be_written_do_not_stop_the_job():
    cluster = await with_job(seconds=60)
    cluster.api.denied.add(("create", EVENTS.name))
    assert (await cluster.worker().run()).total_bytes == 1 << 20
    assert await cluster.events() == {}
    assert any("could not be written" in line.text for line in cluster.logs)


async def test_the_outcome_is_left_before_it_is_told():
    cluster = await with_job()
    cluster.api.fail("create", EVENTS.name, KubeUnavailable("busy"), times=100)
    await cluster.worker().run()
    assert read_outcome(cluster.messages[-1], BACKUP.work).total_bytes == 1 << 20


async def test_each_reason_is_one_event_that_counts():
    cluster = await with_job(seconds=100, bytes=1_000)
    cluster.api.fail("create", EVENTS.name, KubeUnavailable("the answer was lost"), after=True)
    await cluster.worker().run()
    events = await cluster.events()
    assert events[STARTED_REASON].count == 1
    assert events[PROGRESS_REASON].count == 11
    assert msgspec.json.decode(events[PROGRESS_REASON].message)["totalBytes"] == 1_000
    assert events[PROGRESS_REASON].last_timestamp > events[PROGRESS_REASON].first_timestamp
    assert {event.involved_object.name for event in events.values()} == {NAME}
    assert len(events[COMPLETED_REASON].message.encode()) <= 1_024
    assert events[COMPLETED_REASON].source.component == NAME


async def test_a_canceled_restore_has_nothing_to_keep():
    cluster = await with_job(RESTORE, seconds=600)
    life = asyncio.create_task(cluster.worker().run())
    await cluster.waited(60)
    cluster.stopped.set()
    with pytest.raises(CanceledError, match="the pod was told to end"):
        await life
    assert len(cluster.messages[-1].encode()) <= MAX_TERMINATION_MESSAGE
    assert CANCELED_REASON in await cluster.events()


@pytest.mark.parametrize(("killed", "error"), [(True, MoverOutOfMemory), (False, MoverCrashed)])
async def test_a_worker_that_the_kernel_killed_for_want_of_memory_is_told_from_a_crash(killed, error):
    cluster = await with_job(error=MoverCrashed("the worker was killed by SIGKILL"))
    cluster.out_of_memory = killed
    with pytest.raises(error, match="killed by SIGKILL"):
        await cluster.worker().run()
    assert error.code in cluster.messages[-1]


async def test_a_worker_that_reached_its_own_limit_leaves_an_error_that_says_what_to_raise():
    cluster = await with_job(error=MoverOutOfMemory("the worker needed more memory than it was allowed"))
    with pytest.raises(MoverOutOfMemory, match=r"podResources\.memoryLimit"):
        await cluster.worker().run()
    assert MoverOutOfMemory.code in cluster.messages[-1]


async def test_each_line_of_a_pod_says_which_object_volume_and_job_it_is_about():
    cluster = await PodCluster(script=Script(seconds=30)).create()
    seen = []
    cluster.logs = Noting(seen)
    async with cluster.pod(), cluster.runner().job(BACKUP, SECRETS) as work:
        await cluster.waited(5)
        await cluster.annotate(LIMITS_ANNOTATION, "no limits")
        await work.result()
    uid = (await cluster.api.get(DATA_UPLOADS, KEY)).metadata.uid
    assert seen and all(fields == job_fields("DataUpload", NAME, "app/data", uid) for fields in seen)


class Noting:
    """In place of a log: what each line would say of its job."""

    def __init__(self, seen):
        self.seen = seen

    def append(self, line):
        self.seen.append(structlog.contextvars.get_contextvars())
