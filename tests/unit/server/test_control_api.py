"""A whole agent, asked through its socket by the command line and the client."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import msgspec
import pytest

from agent.base.clock import SystemClock
from agent.cli.agent_job import JobInfo
from agent.cli.agent_jobs import JobsResult
from agent.cli.agent_state import LimitsResult, StatusResult
from agent.cli.agent_watch import WatchLine
from agent.control.client import Target, connect
from agent.control.v1 import jobs_pb2, limits_pb2
from agent.kube.job import Phase
from agent.server.stopping import Stopping
from agent.testing.fake_movers import Script
from tests.unit.server.agent_kit import NODE, AgentWorld
from tests.unit.server.test_app import Workers


async def lighter(*arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error of the real command."""
    program = "import sys; from agent.cli.main import main; sys.argv[0] = 'lighter'; main()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


@pytest.fixture
async def world(tmp_path: Path) -> AgentWorld:
    world = AgentWorld(tmp_path, SystemClock(), control_socket=str(tmp_path / "run" / "control.sock"))
    await world.add_node(NODE)
    return world


async def test_a_backup_is_seen_and_canceled_through_the_socket(world: AgentWorld) -> None:
    workers = Workers(world, Script(seconds=3_600, bytes=3_600_000, cancel_seconds=0.01))
    backup = jobs_pb2.JobId(kind=jobs_pb2.JOB_KIND_POD_VOLUME_BACKUP, name="pvb-1")
    async with asyncio.timeout(300), world.agent(workers):
        await world.add_backup()
        await world.until(lambda: world.phase() is Phase.IN_PROGRESS, within=60)
        async with connect(Target(address=f"unix:{world.flags.control_socket}")) as client:
            seen = [message.job async for message in _until_it_moves(client.watch(jobs_pb2.WatchJobsRequest()))]
            assert (seen[-1].volume_namespace, seen[-1].volume, seen[-1].node) == ("app", "web/html", NODE)
            assert seen[-1].progress.bytes_total == 3_600_000
            node = await client.node()
            assert (node.ready, node.running_jobs, node.waiting_jobs, node.concurrency) == (True, 1, 0, 1)
            await client.cancel(backup)
            await world.until(lambda: world.phase().is_final, within=60)
            again = await client.cancel(backup)
            assert again == await client.job(backup), "harmless when it has ended"
            assert (again.phase, again.cancel_requested) == (jobs_pb2.JOB_PHASE_FAILED, True), "as contract §13.12 says"


async def _until_it_moves(messages):  # type: ignore[no-untyped-def]
    async for message in messages:
        yield message
        if message.job.progress.bytes_done:
            return


async def test_limits_that_are_set_count_for_jobs_metrics_and_places(world: AgentWorld) -> None:
    workers = Workers(world, Script(seconds=3_600))
    async with asyncio.timeout(300), world.agent(workers):
        await world.add_backup()
        await world.add_backup("pvb-2")
        await world.until(lambda: len(workers.jobs.started) == 1, within=60)
        async with connect(Target(address=f"unix:{world.flags.control_socket}")) as client:
            await client.set_limits(limits_pb2.Limits(upload_bytes_per_second=5 << 20, concurrency=2))
            await world.until(lambda: len(workers.jobs.started) == 2, within=60)
            assert b"lighterage_limit_upload_bytes_per_second 5.24288e+06" in world.metrics.render()
            state = await client.reset_limits()
            assert (state.in_force.upload_bytes_per_second, state.in_force.concurrency) == (0, 1)


async def test_the_command_line_shows_and_changes_what_the_socket_does(world: AgentWorld) -> None:
    workers = Workers(world, Script(seconds=3_600, cancel_seconds=0.01))
    socket = ("--socket", world.flags.control_socket)
    async with asyncio.timeout(300), world.agent(workers):
        await world.add_backup()
        await world.until(lambda: world.phase() is Phase.IN_PROGRESS, within=60)
        (status, out, _), (_, listed, _), (_, limits, _), (_, table, _) = await asyncio.gather(
            lighter("agent", "status", "--json", *socket),
            lighter("agent", "jobs", "--json", *socket),
            lighter("agent", "limits", "--upload", "5MiB", "--json", *socket),
            lighter("agent", "jobs", "--unfinished", *socket),
        )
        assert status == 0
        assert msgspec.json.decode(out, type=StatusResult).agents[0].node == NODE
        (job,) = msgspec.json.decode(listed, type=JobsResult).jobs
        assert (job.kind, job.name, job.phase) == ("PodVolumeBackup", "pvb-1", "InProgress")
        assert msgspec.json.decode(limits, type=LimitsResult).in_force.upload_bytes_per_second == 5 << 20
        assert "PodVolumeBackup/pvb-1" in table
        watching = asyncio.ensure_future(lighter("agent", "watch", "pvb/pvb-1", "--json", *socket))
        canceling = await lighter("agent", "cancel", "pvb/pvb-1", *socket)
        assert canceling[:2] == (0, "pvb/pvb-1 is InProgress, its end is requested\n")
        status, out, err = await watching
        assert status == 88
        assert msgspec.json.decode(out.splitlines()[-1], type=WatchLine).job.phase == "Failed"
        again = await lighter("agent", "cancel", "pvb/pvb-1", "--json", *socket)
        assert msgspec.json.decode(again[1], type=JobInfo).cancel_requested
        assert json.loads(err)["error"]["code"] == "control.job-failed"
        missing = await lighter("agent", "cancel", "du/no-such", "--json", *socket)
        assert missing[0] == 84
        assert json.loads(missing[2])["error"]["code"] == "control.job-not-found"


async def test_an_agent_without_a_place_for_its_socket_works_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    world = AgentWorld(tmp_path, control_socket=str(tmp_path / "file" / "control.sock"))
    await world.add_node(NODE)
    async with world.agent(Workers(world)):
        await world.add_backup()
        await world.until(lambda: world.phase() is Phase.COMPLETED, within=120)


async def test_a_paused_job_stands_still_is_seen_as_such_stays_so_over_a_restart_and_can_be_canceled(
    world: AgentWorld,
) -> None:
    script = Script(seconds=3_600, bytes=3_600_000, cancel_seconds=0.01)
    backup = jobs_pb2.JobId(kind=jobs_pb2.JOB_KIND_POD_VOLUME_BACKUP, name="pvb-1")
    target = Target(address=f"unix:{world.flags.control_socket}")
    async with asyncio.timeout(300), world.agent(Workers(world, script)):
        await world.add_backup()
        await world.until(lambda: world.phase() is Phase.IN_PROGRESS, within=60)
        async with connect(target) as client:
            await client.pause(backup)
            await world.until(
                lambda: b'lighterage_jobs{kind="PodVolumeBackup",state="paused"} 1.0' in _shown(world), within=60
            )
            assert (await client.node()).paused_jobs == 1
            before = (await client.job(backup)).progress.bytes_done
            status, table, _ = await lighter("agent", "jobs", "--socket", world.flags.control_socket)
            assert status == 0 and "InProgress (paused)" in table
            assert (await client.job(backup)).progress.bytes_done == before
            resumed = await lighter("agent", "resume", "pvb/pvb-1", "--socket", world.flags.control_socket)
            assert resumed[:2] == (0, "pvb/pvb-1 is InProgress\n")
            await world.until(
                lambda: b'lighterage_jobs{kind="PodVolumeBackup",state="paused"} 0.0' in _shown(world), within=60
            )
            paused = await lighter("agent", "pause", "pvb/pvb-1", "--socket", world.flags.control_socket)
            assert paused[:2] == (0, "pvb/pvb-1 is InProgress (paused)\n")
            await world.until(
                lambda: b'lighterage_jobs{kind="PodVolumeBackup",state="paused"} 1.0' in _shown(world), within=60
            )
    assert {"Paused", "Resumed"} <= (await world.told()).keys()
    world.stopping = Stopping()
    next_workers = Workers(world, script)
    async with asyncio.timeout(300), world.agent(next_workers):
        await world.until(lambda: bool(next_workers.jobs.started), within=60)
        await world.until(
            lambda: b'lighterage_jobs{kind="PodVolumeBackup",state="paused"} 1.0' in _shown(world), within=60
        )
        async with connect(target) as client:
            await client.cancel(backup)
            await world.until(lambda: world.phase().is_final, within=60)
            assert not (await client.job(backup)).paused


def _shown(world: AgentWorld) -> bytes:
    return world.metrics.render()
