"""The whole daemon on a fake API server: start, work, changes, ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.base.clock import SystemClock
from agent.base.errors import CanceledError, ConfigurationError, MoverUnavailable
from agent.kube.codec import JsonObject
from agent.kube.job import Phase
from agent.kube.meta import Key
from agent.kube.resource import BACKUP_STORAGE_LOCATIONS, CONFIG_MAPS, DATA_UPLOADS, LEASES
from agent.movers.spec import JobSpec, Secrets
from agent.movers.supervisor import JobCallbacks, MoverOptions, Movers
from agent.repository.create import CreateOptions
from agent.repository.repository import Repository
from agent.server.liveness import lease_name
from agent.server.parts import LocalWorkers
from agent.snapshots.store import list_snapshots
from agent.storage.open import open_storage
from agent.testing.fake_movers import FakeMovers, FakeWork, MoverWorld, Script
from tests.unit.server.agent_kit import NODE, PASSWORD, AgentWorld
from tests.unit.server.server_kit import NAMESPACE, upload

GIB = 1 << 30


class Workers(FakeMovers):
    """Fake workers that know how they were made."""

    def __init__(self, world: AgentWorld, script: Script | None = None, error: MoverUnavailable | None = None) -> None:
        self.jobs = MoverWorld(script=lambda _: script or Script())
        super().__init__(self.jobs, world.clock)
        self.options = MoverOptions()
        self.closed = False
        self.works: list[FakeWork] = []
        self._error = error

    async def warm_up(self) -> None:
        if self._error is not None:
            raise self._error

    def __call__(self, options: MoverOptions) -> AbstractAsyncContextManager[LocalWorkers]:
        self.options = options
        return self._open()

    def rates(self) -> list[float]:
        """Bytes that each running job may upload a second."""
        return [work.limits.upload_bytes for work in self.works if work.limits is not None]

    @asynccontextmanager
    async def job(
        self, spec: JobSpec, secrets: Secrets, callbacks: JobCallbacks | None = None
    ) -> AsyncIterator[FakeWork]:
        async with super().job(spec, secrets, callbacks) as work:
            self.works.append(work)
            yield work

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[LocalWorkers]:
        try:
            yield self
        finally:
            self.closed = True


async def test_a_backup_of_a_pod_volume_goes_from_new_to_completed(tmp_path: Path) -> None:
    world = AgentWorld(tmp_path)
    await world.add_node(NODE)
    workers = Workers(world)
    world.api.requests.clear()
    async with world.agent(workers):
        await world.clock.sleep(1_000)
        asked = world.unforeseen_requests()
        await world.add_backup()
        await world.until(lambda: world.phase() is Phase.COMPLETED, within=120)
        assert b"lighterage_ready 1.0" in world.metrics.render()
    assert b"lighterage_ready 0.0" in world.metrics.render()
    assert b"lighterage_configuration_valid 1.0" in world.metrics.render()
    assert asked == set()
    backup = await world.backup()
    assert backup.status.snapshot_id == "snapshot-of-pvb-1"
    assert backup.metadata.finalizers == ()
    assert workers.closed
    assert {"SelfTestPassed", "Accepted", "InProgress", "Completed"} <= set(await world.told())
    assert b'podVolume_pod_volume_backup_dequeue_count{node="node-a"} 1.0' in world.metrics.render()


async def test_what_it_is_told_and_has_no_use_for_is_in_the_log(tmp_path: Path) -> None:
    world = AgentWorld(tmp_path, features=("EnableCSI", "EnableFuture"), without_effect=("--client-qps",))
    await world.add_node(NODE)
    with capture_logs() as lines:
        async with world.agent(Workers(world)):
            await world.clock.sleep(30)
    warnings = [line for line in lines if line["log_level"] == "warning"]
    assert [line["feature"] for line in warnings if "feature" in line] == ["EnableFuture"]
    assert [line["flags"] for line in warnings if "flags" in line] == [("--client-qps",)]


async def test_a_second_agent_of_a_node_begins_no_job_until_the_first_is_silent_or_gives_back(tmp_path: Path) -> None:
    world = AgentWorld(tmp_path)
    await world.add_node(NODE)
    lease: JsonObject = {"name": lease_name(NODE), "namespace": NAMESPACE}
    spec: JsonObject = {"holderIdentity": f"{NODE}/another"}
    world.api.put_raw(LEASES, {"apiVersion": LEASES.api_version, "kind": "Lease", "metadata": lease, "spec": spec})
    async with world.agent(Workers(world)):
        await world.add_backup()
        await world.clock.sleep(50)
        assert world.phase().is_new
        assert b"lighterage_ready 0.0" in world.metrics.render()
        await world.until(lambda: world.phase() is Phase.COMPLETED, within=60)
        assert b"lighterage_ready 1.0" in world.metrics.render()
    assert (await world.api.get(LEASES, Key(NAMESPACE, lease_name(NODE)))).spec.holder_identity == "", "given back"


async def test_a_real_worker_writes_a_snapshot_that_is_in_the_repository(tmp_path: Path) -> None:
    world = AgentWorld(tmp_path, SystemClock())
    await world.add_node(NODE)
    url = f"file://{tmp_path}/bucket/kopia/app"
    storage = await open_storage(url, create=True)
    await Repository.create(storage, PASSWORD, options=CreateOptions(for_velero=True))
    async with asyncio.timeout(300), world.agent(lambda options: Movers(options, world.clock, {})):
        await world.add_backup()
        await world.until(lambda: world.phase().is_final, within=60)
    backup = await world.backup()
    assert (backup.status.phase, backup.status.message) == (Phase.COMPLETED, "")
    async with Repository.open(storage, PASSWORD) as repository:
        (snapshot,) = list_snapshots(repository.manifests).snapshots
    await storage.close()
    assert snapshot.id == backup.status.snapshot_id
    assert snapshot.source.path == "snapshot-pod-volume/kopia/app/web/html"


async def test_told_to_end_it_lets_a_running_backup_save_what_it_has_and_leaves_it_to_the_next_agent(
    tmp_path: Path,
) -> None:
    world = AgentWorld(tmp_path)
    await world.add_node(NODE)
    workers = Workers(world, Script(seconds=3_600))
    async with world.agent(workers):
        await world.add_backup()
        await world.until(lambda: world.phase() is Phase.IN_PROGRESS, within=120)
    assert world.phase() is Phase.IN_PROGRESS
    assert workers.jobs.active == {"pvb-1": 0}
    world.stopping = type(world.stopping)()
    async with world.agent(again := Workers(world)):
        await world.until(lambda: world.phase() is Phase.COMPLETED, within=120)
    assert again.jobs.started == ["pvb-1"]


async def test_told_twice_to_end_it_ends_at_once(tmp_path: Path) -> None:
    world = AgentWorld(tmp_path, termination_grace=3_600.0)
    await world.add_node(NODE)
    stuck = Workers(world, Script(seconds=1e6, cancel_seconds=1e6))
    async with world.agent(stuck) as task:
        world.stopping.cancels(task)
        await world.add_backup()
        await world.until(lambda: world.phase() is Phase.IN_PROGRESS, within=120)
        world.stopping.ask()
        await world.clock.sleep(5)
        before = world.clock.monotonic()
        world.stopping.ask()
        with pytest.raises(CanceledError, match="told twice"):
            await task
        assert world.clock.monotonic() - before < 60


async def test_a_mistake_in_the_configuration_is_the_end_with_its_error(tmp_path: Path) -> None:
    world = AgentWorld(tmp_path, node_agent_configmap="nac")
    await world.configure("nac", {"loadConcurrency": 7})
    with pytest.raises(ConfigurationError, match="loadConcurrency"):
        async with world.agent(Workers(world)) as task:
            await task


async def test_a_missing_right_that_nothing_works_without_is_the_end_and_is_told(tmp_path: Path) -> None:
    world = AgentWorld(tmp_path)
    world.api.denied.add(("patch", "datauploads.velero.io"))
    with pytest.raises(ConfigurationError, match="patch is refused"):
        async with world.agent(Workers(world)) as task:
            await task
    assert (await world.told())["SelfTestFailed"].type == "Warning"


async def test_an_error_of_a_part_is_the_end_with_that_error(tmp_path: Path) -> None:
    world = AgentWorld(tmp_path)
    with pytest.raises(MoverUnavailable, match="no room"):
        async with world.agent(Workers(world, error=MoverUnavailable("no room"))) as task:
            await task


async def test_an_api_server_that_is_away_at_the_start_is_waited_for(tmp_path: Path) -> None:
    world = AgentWorld(tmp_path)
    await world.add_node(NODE)
    world.api.outage(True)
    async with world.agent(workers := Workers(world)):
        await world.clock.sleep(600)
        world.api.outage(False)
        await world.add_backup()
        await world.until(lambda: world.phase() is Phase.COMPLETED, within=120)
    assert workers.jobs.started == ["pvb-1"]


async def test_told_to_end_while_it_waits_for_the_api_server_it_ends(tmp_path: Path) -> None:
    world = AgentWorld(tmp_path)
    world.api.outage(True)
    async with world.agent(Workers(world)):
        await world.clock.sleep(60)


async def test_a_missing_location_is_told_before_anything_is_exposed(tmp_path: Path) -> None:
    world = AgentWorld(tmp_path)
    await world.add_node(NODE)
    await world.api.delete(BACKUP_STORAGE_LOCATIONS, Key(NAMESPACE, "default"))
    await world.api.create(DATA_UPLOADS, upload())
    key = upload().key
    async with world.agent(Workers(world)):
        await world.until(lambda: "Failed" in str(world.api.raw(DATA_UPLOADS, key).get("status")), within=60)
    failed = await world.api.get(DATA_UPLOADS, key)
    assert "no backup storage location 'default'" in failed.status.message
    made = {resource for verb, resource in world.api.requests if verb == "create"}
    assert not made & {"pods", "persistentvolumeclaims", "volumesnapshots.snapshot.storage.k8s.io"}


async def test_without_the_host_path_pod_volumes_are_left_alone(tmp_path: Path) -> None:
    world = AgentWorld(tmp_path, host_pods=str(tmp_path / "not-mounted"))
    await world.add_node(NODE)
    async with world.agent(Workers(world)):
        await world.add_backup()
        await world.clock.sleep(300)
        assert world.phase() is Phase.EMPTY
    assert "SelfTestFoundLess" in await world.told()


async def test_more_jobs_run_at_once_as_soon_as_the_configuration_says_so(tmp_path: Path) -> None:
    world = AgentWorld(tmp_path, node_agent_configmap="nac")
    await world.add_node(NODE)
    await world.configure("nac", {"loadConcurrency": {"globalConfig": 1}})
    workers = Workers(world, Script(seconds=2_000))
    async with world.agent(workers):
        for number in range(3):
            await world.add_backup(f"pvb-{number}")
        await world.clock.sleep(60)
        assert workers.jobs.most_at_once == 1
        shown = world.metrics.render().decode().splitlines()
        assert 'lighterage_jobs{kind="PodVolumeBackup",state="running"} 1.0' in shown
        assert 'lighterage_jobs{kind="PodVolumeBackup",state="waiting"} 2.0' in shown
        await world.configure("nac", {"loadConcurrency": {"globalConfig": 3}}, verb="set")
        await world.until(lambda: workers.jobs.most_at_once == 3, within=60)
    assert (await world.told())["ConfigurationChanged"].message == "loadConcurrency.globalConfig: 1 -> 3"


async def test_the_label_of_the_node_decides_and_counts_when_it_changes(tmp_path: Path) -> None:
    world = AgentWorld(tmp_path, node_agent_configmap="nac")
    await world.add_node(NODE)
    fast = {"nodeSelector": {"matchLabels": {"disk": "fast"}}, "number": 2}
    await world.configure("nac", {"loadConcurrency": {"perNodeConfig": [fast]}})
    async with world.agent(workers := Workers(world, Script(seconds=2_000))):
        for number in range(2):
            await world.add_backup(f"pvb-{number}")
        await world.clock.sleep(60)
        assert workers.jobs.most_at_once == 1
        await world.label_node(NODE, disk="fast")
        await world.until(lambda: workers.jobs.most_at_once == 2, within=60)


async def test_the_memory_of_the_node_bounds_workers_and_their_number(tmp_path: Path) -> None:
    world = AgentWorld(tmp_path, node_agent_configmap="nac")
    await world.add_node(NODE)
    await world.configure("nac", {"loadConcurrency": {"globalConfig": 8}})
    await world.configure("lighterage-config", {"limits": {"memory": "2Gi", "workerMemory": "1Gi"}})
    async with world.agent(workers := Workers(world, Script(seconds=300))):
        for number in range(4):
            await world.add_backup(f"pvb-{number}")
        await world.clock.sleep(60)
        assert workers.jobs.most_at_once == 2
    assert workers.options.memory_bytes == GIB


async def test_the_log_level_follows_the_configuration_and_back(tmp_path: Path) -> None:
    world = AgentWorld(tmp_path)
    await world.add_node(NODE)
    async with world.agent(Workers(world)):
        await world.clock.sleep(30)
        await world.configure("lighterage-config", {"logLevel": "error"})
        await world.until(lambda: logging.getLogger().level == logging.ERROR, within=30)
        await world.api.delete(CONFIG_MAPS, Key(NAMESPACE, "lighterage-config"))
        await world.until(lambda: logging.getLogger().level == logging.INFO, within=30)


async def test_a_pod_volume_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    world = AgentWorld(tmp_path)
    await world.add_node(NODE)
    await world.configure("lighterage-config", {"podVolumeTimeout": "10m"})
    async with world.agent(Workers(world, Script(seconds=1e5))):
        await world.add_backup()
        await world.until(lambda: world.phase().is_final, within=900)
    backup = await world.backup()
    assert backup.status.phase is Phase.FAILED
    assert "600 s" in backup.status.message


async def test_limits_of_the_node_count_for_jobs_that_run(tmp_path: Path) -> None:
    world = AgentWorld(tmp_path, node_agent_configmap="nac")
    await world.add_node(NODE)
    await world.configure("nac", {"loadConcurrency": {"globalConfig": 2}})
    await world.configure("lighterage-config", {"limits": {"uploadBytesPerSecond": 1_000}})
    async with world.agent(workers := Workers(world, Script(seconds=1e5))):
        await world.add_backup("pvb-1")
        await world.add_backup("pvb-2")
        await world.until(lambda: workers.rates() == [500.0, 500.0], within=120)
        await world.configure("lighterage-config", {"limits": {"uploadBytesPerSecond": 4_000}}, verb="set")
        await world.until(lambda: workers.rates() == [2_000.0, 2_000.0], within=60)
