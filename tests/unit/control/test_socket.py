"""The Unix socket: who gets in, and what an agent says there."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from msgspec.structs import replace

from agent.base.errors import (
    ConfigurationError,
    ControlDeadline,
    ControlJobNotFound,
    ControlNotCancelable,
    ControlUnreachable,
    UsageError,
)
from agent.control.rights import RIGHTS
from agent.control.serve import SERVICES, serve_socket
from agent.control.v1 import jobs_pb2, limits_pb2, node_pb2, snapshots_pb2
from agent.control.v1.jobs_pb2_grpc import JobServiceStub
from agent.kube.job import Phase
from agent.testing.clock import VirtualClock
from tests.unit.control.control_kit import BEGIN, NODE, World, job, local
from tests.unit.control.tls_kit import METHODS

UPLOAD = jobs_pb2.JOB_KIND_DATA_UPLOAD


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


async def test_the_socket_is_for_the_agents_own_user_and_gone_with_the_agent(path: Path) -> None:
    world = World()
    async with serve_socket(world.parts, world.clock, path), local(path) as client:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert (await client.node()).name == NODE
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("method", METHODS)
async def test_every_method_answers_the_agents_own_user(path: Path, method: str) -> None:
    world = World()
    world.jobs.put(job("a"))
    async with serve_socket(world.parts, world.clock, path), local(path) as client:
        assert await METHODS[method](client)


async def test_a_socket_that_a_killed_agent_left_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    world = World()
    async with serve_socket(world.parts, world.clock, path), local(path) as client:
        assert (await client.node()).name == NODE


async def test_another_user_is_turned_away_before_a_byte_is_read(path: Path) -> None:
    world, asked = World(), []

    def admits(uid: int) -> bool:
        asked.append(uid)
        return False

    async with serve_socket(world.parts, world.clock, path, admits=admits), local(path) as client:
        with pytest.raises(ControlUnreachable):
            await client.node()
    assert asked[0] == os.geteuid()


async def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    world = World()
    with pytest.raises(ConfigurationError, match="control socket"):
        async with serve_socket(world.parts, world.clock, tmp_path / "file" / "control.sock"):
            pass


async def test_nobody_at_the_socket_is_said(path: Path) -> None:
    async with local(path) as client:
        with pytest.raises(ControlUnreachable, match=r"control\.sock"):
            await client.node()


async def test_the_node_says_why_it_is_not_ready(path: Path) -> None:
    world = World()
    world.node.not_ready = "the agent starts"
    async with serve_socket(world.parts, world.clock, path), local(path) as client:
        node = await client.node()
        assert not node.ready
        assert node.not_ready_reason == "the agent starts"
        assert node.start_time.ToNanoseconds() == 10**18


async def test_every_method_has_a_right_and_no_right_is_without_a_method() -> None:
    methods = {
        f"/{service.full_name}/{method.name}"
        for module in (node_pb2, jobs_pb2, limits_pb2, snapshots_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert methods == set(RIGHTS)


async def test_reflection_and_health_know_every_service(path: Path) -> None:
    world = World()
    async with (
        serve_socket(world.parts, world.clock, path),
        grpc.aio.insecure_channel(f"unix:{path}", options=[("grpc.default_authority", "localhost")]) as channel,
    ):
        call = ServerReflectionStub(channel).ServerReflectionInfo()
        await call.write(ServerReflectionRequest(list_services=""))
        answer = await call.read()
        listed = {service.name for service in answer.list_services_response.service}
        assert set(SERVICES) < listed
        assert "grpc.health.v1.Health" in listed
        await call.write(ServerReflectionRequest(file_containing_symbol="lighterage.v1.JobService"))
        assert (await call.read()).file_descriptor_response.file_descriptor_proto
        await call.done_writing()
        for name in ("", *SERVICES):
            health = await HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
            assert health.status == health_pb2.HealthCheckResponse.SERVING


# ---- jobs ----


async def test_a_thousand_jobs_come_newest_first_by_pages_each_once(path: Path) -> None:
    world = World()
    for number in range(1_000):
        created = BEGIN.replace(minute=number // 60 % 60, second=number % 60)
        world.jobs.put(job(f"job-{number}", created=created))
    async with serve_socket(world.parts, world.clock, path), local(path) as client:
        names = [one.id.name async for one in client.jobs(jobs_pb2.JobFilter())]
    assert names == [f"job-{number}" for number in reversed(range(1_000))]


async def test_jobs_that_come_and_go_between_pages_neither_shift_nor_repeat_others(path: Path) -> None:
    world = World()
    world.jobs.put(*(job(f"job-{number:02}") for number in range(10)))
    async with serve_socket(world.parts, world.clock, path), local(path) as client:
        first = await client._jobs.ListJobs(jobs_pb2.ListJobsRequest(page_size=4))
        del world.jobs.states["DataUpload", "job-01"]
        world.jobs.put(job("job-00a"))
        rest = await client._jobs.ListJobs(jobs_pb2.ListJobsRequest(page_size=100, page_token=first.next_page_token))
    assert [one.id.name for one in first.jobs] == [f"job-{number:02}" for number in range(4)]
    assert [one.id.name for one in rest.jobs] == [f"job-{number:02}" for number in range(4, 10)]
    assert rest.next_page_token == ""


@pytest.mark.parametrize("token", ["x", "!!!!", "gA==", "a" * 10_000])
async def test_a_token_of_no_page_is_refused(path: Path, token: str) -> None:
    world = World()
    async with serve_socket(world.parts, world.clock, path), local(path) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client._jobs.ListJobs(jobs_pb2.ListJobsRequest(page_token=token))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_jobs_are_those_of_the_node_unless_all_are_asked_for(path: Path) -> None:
    world = World()
    world.jobs.put(
        job("mine"),
        job("done", phase=Phase.COMPLETED),
        job("theirs", node="node-2"),
        job("restore", kind="DataDownload"),
    )

    async def names(chosen: jobs_pb2.JobFilter) -> set[str]:
        return {one.id.name async for one in client.jobs(chosen)}

    async with serve_socket(world.parts, world.clock, path), local(path) as client:
        assert await names(jobs_pb2.JobFilter()) == {"mine", "done", "restore"}
        assert await names(jobs_pb2.JobFilter(unfinished_only=True)) == {"mine", "restore"}
        assert await names(jobs_pb2.JobFilter(all_nodes=True, kinds=[UPLOAD])) == {"mine", "done", "theirs"}


async def test_a_canceled_job_says_so_and_an_unknown_one_is_not_found(path: Path) -> None:
    world = World()
    world.jobs.put(job("a"))
    async with serve_socket(world.parts, world.clock, path), local(path) as client:
        assert (await client.cancel(jobs_pb2.JobId(kind=UPLOAD, name="a"))).cancel_requested
        assert (await client.job(jobs_pb2.JobId(kind=UPLOAD, name="a"))).cancel_requested
        with pytest.raises(ControlJobNotFound, match="DataUpload 'b'"):
            await client.job(jobs_pb2.JobId(kind=UPLOAD, name="b"))
        with pytest.raises(UsageError):
            await client.job(jobs_pb2.JobId(name="b"))


async def test_a_job_is_paused_and_resumed_and_says_so(path: Path) -> None:
    world = World()
    world.jobs.put(job("a"))
    one = jobs_pb2.JobId(kind=UPLOAD, name="a")
    async with serve_socket(world.parts, world.clock, path), local(path) as client:
        assert (await client.pause(one)).paused and (await client.job(one)).paused
        assert not (await client.resume(one)).paused and not (await client.job(one)).paused
        for call in (client.pause, client.resume):
            with pytest.raises(ControlJobNotFound, match="DataUpload 'b'"):
                await call(jobs_pb2.JobId(kind=UPLOAD, name="b"))


async def test_an_error_crosses_with_its_code_its_hint_and_a_status(path: Path) -> None:
    world = World()
    world.jobs.put(job("a"))
    world.jobs.cancelable = False
    async with serve_socket(world.parts, world.clock, path), local(path) as client:
        with pytest.raises(ControlNotCancelable) as caught:
            await client.cancel(jobs_pb2.JobId(kind=UPLOAD, name="a"))
        with pytest.raises(grpc.aio.AioRpcError) as raw:
            await client._jobs.CancelJob(jobs_pb2.CancelJobRequest(id=jobs_pb2.JobId(kind=UPLOAD, name="a")))
    assert (caught.value.message, caught.value.hint) == ("too old", "upgrade Velero")
    assert raw.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_defect_is_told_without_its_innards(path: Path) -> None:
    world = World()
    world.jobs.all = None  # type: ignore[assignment,method-assign]
    async with serve_socket(world.parts, world.clock, path), local(path) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client._jobs.ListJobs(jobs_pb2.ListJobsRequest())
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "NoneType" not in (caught.value.details() or "")
        assert (await client.node()).name == NODE


# ---- watching ----


async def test_a_watch_shows_what_there_is_and_then_each_change(path: Path) -> None:
    clock = VirtualClock(jump=False)
    world = World(clock)
    world.jobs.put(job("a"), job("b"))
    async with serve_socket(world.parts, clock, path), local(path) as client:
        stream = client.watch(jobs_pb2.WatchJobsRequest(until_finished=True))
        first, second = await anext(stream), await anext(stream)
        assert [first.job.id.name, second.job.id.name] == ["a", "b"]
        assert [first.caught_up, second.caught_up] == [False, True]
        world.jobs.move("b", 40)
        clock.advance(1)
        third = await anext(stream)
        assert (third.job.id.name, third.job.progress.bytes_done, third.job.progress.bytes_total) == ("b", 40, 100)
        del world.jobs.states["DataUpload", "a"]
        clock.advance(1)
        gone = await anext(stream)
        assert gone.deleted
        assert gone.job.id.name == "a"
        world.jobs.put(job("b", phase=Phase.FAILED, message="storage.failed: no"))
        clock.advance(1)
        last = await anext(stream)
        assert last.job.phase == jobs_pb2.JOB_PHASE_FAILED
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_watch_of_nothing_has_caught_up_at_once(path: Path) -> None:
    world = World()
    async with serve_socket(world.parts, world.clock, path), local(path) as client:
        messages = [one async for one in client.watch(jobs_pb2.WatchJobsRequest(until_finished=True))]
    assert messages == [jobs_pb2.WatchJobsResponse(caught_up=True)]


async def test_a_watch_of_one_job_ends_with_it_and_one_of_an_unknown_job_is_not_found(path: Path) -> None:
    world = World()
    world.jobs.put(job("a", phase=Phase.COMPLETED), job("b"))
    async with serve_socket(world.parts, world.clock, path), local(path) as client:
        request = jobs_pb2.WatchJobsRequest(id=jobs_pb2.JobId(kind=UPLOAD, name="a"))
        assert [one.job.id.name async for one in client.watch(request)] == ["a"]
        with pytest.raises(ControlJobNotFound):
            await anext(client.watch(jobs_pb2.WatchJobsRequest(id=jobs_pb2.JobId(kind=UPLOAD, name="c"))))


async def test_a_slow_reader_gets_the_last_state_and_not_every_one_between(path: Path) -> None:
    clock = VirtualClock(jump=False)
    world = World(clock)
    big = "x" * 4_000
    world.jobs.put(*(job(f"job-{number:03}", message=big) for number in range(1_000)))
    async with serve_socket(world.parts, clock, path), local(path) as client:
        stream = client.watch(jobs_pb2.WatchJobsRequest())
        seen = [await anext(stream)]
        for round_number in range(100):  # nobody reads, and the jobs go on
            for number in range(1_000):
                world.jobs.move(f"job-{number:03}", round_number)
            clock.advance(1)
            await asyncio.sleep(0)
        count = 1
        while seen[-1].job.progress.bytes_done != 99 or seen[-1].job.id.name != "job-999":
            clock.advance(1)
            seen = [await anext(stream)]
            count += 1
    assert count < 5_000, "of 100,000 states"


async def test_a_watch_ends_with_its_caller_and_its_deadline(path: Path) -> None:
    clock = VirtualClock(jump=False)
    world = World(clock)
    world.jobs.put(job("a"))
    looks = []
    real = world.jobs.all
    world.jobs.all = lambda: looks.append(1) or real()  # type: ignore[method-assign,func-returns-value]
    async with (
        serve_socket(world.parts, clock, path),
        grpc.aio.insecure_channel(f"unix:{path}", options=[("grpc.default_authority", "localhost")]) as channel,
    ):
        call = JobServiceStub(channel).WatchJobs(jobs_pb2.WatchJobsRequest())
        await call.read()
        call.cancel()
        late = JobServiceStub(channel).WatchJobs(jobs_pb2.WatchJobsRequest(), timeout=0.2)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in late:
                pass
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        async with asyncio.timeout(60):
            seen = -1
            while seen != len(looks):  # the agent hears of a deadline when it does; then nobody watches any more
                seen = len(looks)
                for _ in range(5):
                    clock.advance(1)
                    await asyncio.sleep(0.01)


async def test_an_answer_that_comes_too_late_is_a_deadline(path: Path) -> None:
    world = World()
    world.jobs.put(job("a"))

    async def never(kind: str, name: str) -> None:
        await asyncio.Event().wait()

    world.jobs.cancel = never  # type: ignore[assignment,method-assign]
    async with serve_socket(world.parts, world.clock, path), local(path) as client:
        call = client._jobs.CancelJob(jobs_pb2.CancelJobRequest(id=jobs_pb2.JobId(kind=UPLOAD, name="a")), timeout=0.2)
        with pytest.raises(ControlDeadline):
            await client._asked(call)


# ---- limits ----


async def test_limits_are_set_one_by_one_on_top_of_the_configuration_and_taken_back(path: Path) -> None:
    world = World()
    async with serve_socket(world.parts, world.clock, path), local(path) as client:
        state = await client.set_limits(limits_pb2.Limits(concurrency=5))
        assert (state.in_force.upload_bytes_per_second, state.in_force.concurrency) == (1000, 5)
        state = await client.set_limits(limits_pb2.Limits(upload_bytes_per_second=0))
        assert state.in_force == limits_pb2.Limits(
            upload_bytes_per_second=0, download_bytes_per_second=0, requests_per_second=0, concurrency=5
        )
        assert state.set == limits_pb2.Limits(upload_bytes_per_second=0, concurrency=5)
        world.capacity = replace(world.capacity, limits=replace(world.capacity.limits, requests_per_second=7))
        assert (await client.limits()).in_force.requests_per_second == 7
        state = await client.reset_limits()
        assert state.in_force == state.configured
        assert not state.set.ListFields()
    assert world.changes == 3


@pytest.mark.parametrize(
    "limits",
    [
        limits_pb2.Limits(upload_bytes_per_second=-1),
        limits_pb2.Limits(requests_per_second=10**15),
        limits_pb2.Limits(concurrency=0),
        limits_pb2.Limits(concurrency=5_000),
    ],
)
async def test_limits_that_make_no_sense_change_nothing(path: Path, limits: limits_pb2.Limits) -> None:
    world = World()
    async with serve_socket(world.parts, world.clock, path), local(path) as client:
        with pytest.raises(UsageError):
            await client.set_limits(limits)
    assert world.changes == 0
