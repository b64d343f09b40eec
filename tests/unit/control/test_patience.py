"""With callers who wait too little, leave, read slowly or ask for much: nothing is left of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf import message_factory

from agent.base.errors import ControlDeadline
from agent.control.border import OpenGate
from agent.control.rights import RIGHTS, Right
from agent.control.serve import serve_socket
from agent.control.v1 import jobs_pb2, limits_pb2, node_pb2, snapshots_pb2
from agent.kube.api import AccessReview
from agent.kube.reviews import Identity
from agent.movers.answers import Piece
from agent.movers.spec import JobSpec, Look, Progress, ReadFile, RestoreTree, Secrets
from agent.movers.supervisor import JobCallbacks
from agent.testing.fake_reviewer import FakeReviewer
from tests.unit.control import control_kit
from tests.unit.control.control_kit import BEGIN, FakeRepositories, FakeWorker, job
from tests.unit.control.tls_kit import ALICE, APP, METHODS, TlsAgent

MIB = 1 << 20
MODULES = (node_pb2, jobs_pb2, limits_pb2, snapshots_pb2)


class SilentReviewer(FakeReviewer):
    """An API server that takes questions and does not answer."""

    waiting: int = 0

    async def may(self, who: Identity, review: AccessReview) -> bool:
        self.waiting += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.waiting -= 1
        raise AssertionError("nobody sets it")


def call(channel: grpc.aio.Channel, name: str, **options: Any) -> Any:
    """A method by its name, with an empty request."""
    service, _, method = name.partition("/")
    found = next(
        one for module in MODULES for one in module.DESCRIPTOR.services_by_name.values() if one.name == service
    )
    about = found.methods_by_name[method]
    request = message_factory.GetMessageClass(about.input_type)()
    answer = message_factory.GetMessageClass(about.output_type)
    make = channel.unary_stream if about.server_streaming else channel.unary_unary
    called = make(f"/{found.full_name}/{method}", lambda message: message.SerializeToString(), answer.FromString)
    return called(request, metadata=[("authorization", "Bearer t")], **options)


@pytest_asyncio.fixture(loop_scope="session", params=["tls", "socket"])
async def silent(
    request: pytest.FixtureRequest, by_token: TlsAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[SilentReviewer, grpc.aio.Channel]]:
    by_token.reviewer = reviewer = SilentReviewer(tokens={"t": ALICE})
    if request.param == "tls":
        async with by_token.listening(), by_token.channel() as channel:
            yield reviewer, channel
        return

    async def admit(gate: OpenGate, right: Right, context: object) -> None:
        await reviewer.may(ALICE, right.review("velero"))

    monkeypatch.setattr(OpenGate, "admit", admit)
    world, path = by_token.world, tmp_path / "control.sock"
    there = grpc.aio.insecure_channel(f"unix:{path}", options=[("grpc.default_authority", "localhost")])
    async with serve_socket(world.parts, world.clock, path), there as channel:
        yield reviewer, channel


async def until(what: Any) -> None:
    async with asyncio.timeout(60):
        while not what():  # noqa: ASYNC110 - what is counted is not told
            await asyncio.sleep(0.01)


async def at_rest(count: Callable[[], int]) -> None:
    """Returns when a number that grew does not any more."""
    settled, seen = 0, -1
    while settled < 50:
        settled, seen = (settled + 1, seen) if seen == count() else (0, count())
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_ends_at_its_deadline_on_both_sides(
    silent: tuple[SilentReviewer, grpc.aio.Channel], method: str
) -> None:
    reviewer, channel = silent
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _first(call(channel, method, timeout=0.2))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: reviewer.waiting == 0)


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_that_is_canceled_ends_at_the_agent_too(
    silent: tuple[SilentReviewer, grpc.aio.Channel], method: str
) -> None:
    reviewer, channel = silent
    running = call(channel, method)
    answer = asyncio.ensure_future(_first(running))
    await until(lambda: reviewer.waiting == 1)
    running.cancel()
    await until(lambda: reviewer.waiting == 0)
    await asyncio.gather(answer, return_exceptions=True)


async def _first(running: Any) -> object:
    return await (anext(aiter(running)) if isinstance(running, grpc.aio.UnaryStreamCall) else running)


class Fountain(FakeWorker):
    """A worker with a file without an end, piece by piece: knows how much was taken from it, and whether it lives."""

    def __init__(self) -> None:
        self.taken = 0
        self.running = 0

    @asynccontextmanager
    async def job(
        self, spec: JobSpec, secrets: Secrets, callbacks: JobCallbacks | None = None
    ) -> AsyncIterator[FakeWorker]:
        assert isinstance(spec.work, Look) and isinstance(spec.work.question, ReadFile)
        _, writer = await asyncio.open_unix_connection(spec.work.listener)
        self.running += 1
        pouring = asyncio.ensure_future(self._pour(writer))
        try:
            yield self
        finally:
            self.running -= 1
            pouring.cancel()
            writer.close()

    async def _pour(self, writer: asyncio.StreamWriter) -> None:
        piece = bytes(MIB // 4)
        while True:
            writer.write(control_kit.encode_frame(Piece(data=piece)))
            await writer.drain()
            self.taken += len(piece)


@pytest.fixture
def fountain(by_token: TlsAgent, monkeypatch: pytest.MonkeyPatch) -> Fountain:
    fountain = Fountain()
    monkeypatch.setattr(FakeRepositories, "runner", fountain)
    by_token.grant("alice", "SnapshotService/ReadFile")
    return fountain


async def test_a_slow_reader_of_a_file_is_not_read_ahead_for(by_token: TlsAgent, fountain: Fountain) -> None:
    async with by_token.listening(), by_token.client(token="t") as client:
        stream = client.read(APP, "s", b"f")
        await anext(stream)
        await at_rest(lambda: fountain.taken)  # nobody reads
        assert fountain.taken <= 16 * MIB, "what fills the buffers between them"
        got = sum([len(await anext(stream)) for _ in range(200)])
        assert fountain.taken <= got + 16 * MIB
        await stream.aclose()
        await until(lambda: fountain.running == 0)


class Restore(FakeWorker):
    """A restore with news whenever it is asked, until it is over: knows how often it was, and whether it lives."""

    def __init__(self) -> None:
        self.told = 0
        self.running = 0
        self.over = False

    @asynccontextmanager
    async def job(
        self, spec: JobSpec, secrets: Secrets, callbacks: JobCallbacks | None = None
    ) -> AsyncIterator[FakeWorker]:
        assert isinstance(spec.work, RestoreTree)
        self.running += 1
        try:
            yield self
        finally:
            self.running -= 1

    async def updates(self) -> AsyncIterator[Progress]:
        while not self.over:
            self.told += 1
            yield Progress(files_done=self.told, current="x" * 4_000)


@pytest.fixture
def restore(by_token: TlsAgent, monkeypatch: pytest.MonkeyPatch) -> Restore:
    restore = Restore()
    monkeypatch.setattr(FakeRepositories, "runner", restore)
    by_token.grant("alice", "SnapshotService/RestorePath")
    return restore


async def test_a_slow_reader_of_a_restore_is_told_its_result_and_piles_nothing_up(
    by_token: TlsAgent, restore: Restore
) -> None:
    async with by_token.listening(), by_token.client(token="t") as client:
        stream = client.restore(snapshots_pb2.RestorePathRequest(repository=APP, snapshot="s"))
        await anext(stream)
        await at_rest(lambda: restore.told)  # nobody reads
        assert restore.told * 4_000 <= 16 * MIB, "what fills the buffers between them"
        assert restore.running == 1, "and the restore goes on"
        restore.over = True
        *_, last = [answer async for answer in stream]
        assert last.result.files == 1
        assert restore.running == 0


async def test_who_leaves_a_restore_without_reading_ends_it(by_token: TlsAgent, restore: Restore) -> None:
    async with by_token.listening(), by_token.client(token="t") as client:
        stream = client.restore(snapshots_pb2.RestorePathRequest(repository=APP, snapshot="s"))
        await anext(stream)
        await at_rest(lambda: restore.told)
        await stream.aclose()
        await until(lambda: restore.running == 0)


async def test_a_reader_who_leaves_ends_its_worker(by_token: TlsAgent, fountain: Fountain) -> None:
    async with by_token.listening(), by_token.client(token="t") as client:
        stream = client.read(APP, "s", b"f")
        assert await anext(stream)
        assert fountain.running == 1
        await stream.aclose()
        await until(lambda: fountain.running == 0)


async def test_a_stream_ends_at_its_deadline_in_the_middle(by_token: TlsAgent, fountain: Fountain) -> None:
    request = snapshots_pb2.ReadFileRequest(repository=APP, snapshot="s", path=b"f")
    async with by_token.listening(), by_token.client(token="t") as client:
        pieces, patience = 0, 0.25
        while not pieces and patience < 60:  # where much else goes on, the first piece takes as long as it takes
            patience *= 2
            with pytest.raises(ControlDeadline):
                async for _ in client._streamed(client._snapshots.ReadFile(request, timeout=patience)):
                    pieces += 1
        assert pieces > 0
        await until(lambda: fountain.running == 0)


async def test_a_thousand_jobs_come_by_pages_and_each_page_is_asked_for_anew(by_token: TlsAgent) -> None:
    del by_token.world.jobs.states["DataUpload", "a"]
    by_token.world.jobs.put(*(job(f"job-{number:04}", created=BEGIN) for number in range(1_000)))
    by_token.grant("alice", "JobService/ListJobs")
    async with by_token.listening(), by_token.client(token="t") as client:
        names = [one.id.name async for one in client.jobs(jobs_pb2.JobFilter())]
    assert names == [f"job-{number:04}" for number in range(1_000)]
    right = RIGHTS["/lighterage.v1.JobService/ListJobs"].review("velero")
    assert by_token.reviewer.asked == [(ALICE, right)] * 10, "a right that is taken away counts at the next page"
