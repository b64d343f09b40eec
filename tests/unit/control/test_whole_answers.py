"""Streams that are cut short between worker, agent and caller: who looks is told, and never takes a part for all."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from agent.base.errors import ControlError, ControlIncomplete, ControlUnreachable
from agent.control.client import ControlClient
from agent.control.relay import CHUNK
from agent.control.serve import serve_socket
from agent.control.v1 import jobs_pb2
from agent.control.v1 import snapshots_pb2 as pb
from agent.control.v1.snapshots_pb2_grpc import SnapshotServiceServicer, add_SnapshotServiceServicer_to_server
from agent.kube.wait import either
from agent.movers.answers import End, Piece, Sent
from agent.movers.protocol import encode_frame
from agent.movers.spec import JobSpec, Look, Secrets
from agent.movers.supervisor import JobCallbacks
from tests.unit.control.control_kit import ANSWERS, FakeRepositories, FakeWorker, World, end_of, local
from tests.unit.control.tls_kit import APP, METHODS

PIECES = [Piece(data=bytes((number,)) * (64 << 10)) for number in range(4)]
DATA = b"".join(piece.data for piece in PIECES)
FRAMES = [encode_frame(one) for one in (*PIECES, end_of(PIECES))]
WHOLE = b"".join(FRAMES)
BEFORE_THE_END = len(WHOLE) - len(FRAMES[-1])
CUTS = {
    "before the first byte": 0,
    "in the length of a frame": 2,
    "in the first piece": 1_000,
    "between two pieces": len(FRAMES[0]),
    "in the last piece": BEFORE_THE_END - 1,
    "before the end is told": BEFORE_THE_END,
    "while the end is told": len(WHOLE) - 1,
}
HALF = DATA[: len(DATA) // 2]


class TornWorker(FakeWorker):
    """Sends some bytes and is content with itself."""

    def __init__(self, told: bytes) -> None:
        self._told = told

    @asynccontextmanager
    async def job(
        self, spec: JobSpec, secrets: Secrets, callbacks: JobCallbacks | None = None
    ) -> AsyncIterator[FakeWorker]:
        assert isinstance(spec.work, Look)
        _, writer = await asyncio.open_unix_connection(spec.work.listener)
        writer.write(self._told)
        writer.close()
        yield self


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@asynccontextmanager
async def agent_with(path: Path, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ControlClient]:
    monkeypatch.setattr(FakeRepositories, "runner", worker)
    world = World()
    async with serve_socket(world.parts, world.clock, path), local(path) as client:
        yield client


async def read(client: ControlClient, into: bytearray) -> None:
    async for piece in client.read(APP, "s", b"f"):
        into += piece


# ---- between worker and agent ----


async def test_what_the_worker_sent_comes_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    got = bytearray()
    async with agent_with(path, TornWorker(WHOLE), monkeypatch) as client:
        await read(client, got)
    assert got == DATA


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
async def test_a_file_whose_worker_is_cut_off_ends_with_an_error_behind_what_came(
    path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    got = bytearray()
    async with agent_with(path, TornWorker(WHOLE[:cut]), monkeypatch) as client:
        with pytest.raises(ControlIncomplete, match="no number of them"):
            await read(client, got)
    assert DATA.startswith(got)
    assert (got == DATA) is (cut >= BEFORE_THE_END)


@pytest.mark.parametrize("end", [end_of(PIECES[1:]), end_of([*PIECES, PIECES[0]])], ids=["too many", "too few"])
async def test_other_pieces_than_the_worker_counted_are_no_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, end: End
) -> None:
    told: Sequence[Sent] = (*PIECES, end)
    async with agent_with(path, TornWorker(b"".join(map(encode_frame, told))), monkeypatch) as client:
        with pytest.raises(ControlIncomplete, match=rf"it sent {end.answers} answers and {end.size} bytes"):
            await read(client, bytearray())


@pytest.mark.parametrize("method", ["ListSnapshots", "BrowseSnapshot", "VerifySnapshot"])
@pytest.mark.parametrize("first", [0, 1])
async def test_lists_and_verdicts_that_are_cut_off_are_no_answer(
    path: Path, monkeypatch: pytest.MonkeyPatch, method: str, first: int
) -> None:
    question = {"ListSnapshots": "ListSnapshots", "BrowseSnapshot": "ListFolder", "VerifySnapshot": "Verify"}[method]
    (answers,) = (one for kind, one in ANSWERS.items() if kind.__name__ == question)
    told = b"".join(map(encode_frame, answers[:first]))
    async with agent_with(path, TornWorker(told), monkeypatch) as client:
        with pytest.raises(ControlIncomplete):
            await METHODS[f"SnapshotService/{method}"](client)


# ---- between agent and caller ----


def of(data: bytes) -> pb.ReadFileResponse:
    return pb.ReadFileResponse(end=pb.FileEnd(bytes=len(data), sha256=hashlib.sha256(data).digest()))


class TornAgent(SnapshotServiceServicer):
    """Says what it is given, and that all is well."""

    def __init__(self, *said: pb.ReadFileResponse | pb.RestorePathResponse) -> None:
        self._said = said

    async def ReadFile(  # noqa: N802 - as the API names it
        self, request: pb.ReadFileRequest, context: object
    ) -> AsyncIterator[object]:
        for one in self._said:
            yield one

    async def RestorePath(  # noqa: N802 - as the API names it
        self, request: pb.RestorePathRequest, context: object
    ) -> AsyncIterator[object]:
        for one in self._said:
            yield one


@asynccontextmanager
async def said(path: Path, *messages: pb.ReadFileResponse | pb.RestorePathResponse) -> AsyncIterator[ControlClient]:
    server = grpc.aio.server()
    add_SnapshotServiceServicer_to_server(TornAgent(*messages), server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        async with local(path) as client:
            yield client
    finally:
        await server.stop(None)


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([], "does not say"),
        ([pb.ReadFileResponse(data=DATA)], "does not say"),
        ([pb.ReadFileResponse(data=HALF), of(DATA)], f"sent {len(DATA)}"),
        ([of(DATA)], f"sent {len(DATA)}"),
        ([pb.ReadFileResponse(data=DATA), of(DATA[::-1])], "of other content"),
        ([pb.ReadFileResponse(data=DATA), of(b"")], "sent 0"),
    ],
    ids=["nothing", "no end", "half", "only the end", "other bytes", "more"],
)
async def test_a_file_that_is_not_what_the_agent_says_it_sent_is_an_error(
    path: Path, messages: list[pb.ReadFileResponse], why: str
) -> None:
    async with said(path, *messages) as client:
        with pytest.raises(ControlIncomplete, match=why):
            await read(client, bytearray())


async def test_an_empty_file_is_whole(path: Path) -> None:
    got = bytearray()
    async with said(path, of(b"")) as client:
        await read(client, got)
    assert got == b""


@pytest.mark.parametrize("progress", [0, 2])
async def test_a_restore_without_its_result_is_an_error(path: Path, progress: int) -> None:
    going = [pb.RestorePathResponse(progress=jobs_pb2.JobProgress(bytes_done=1))] * progress
    async with said(path, *going) as client:
        with pytest.raises(ControlIncomplete, match="without its result"):
            async for _ in client.restore(pb.RestorePathRequest(repository=APP, snapshot="s")):
                pass


async def test_the_commands_end_with_the_error_and_not_with_a_short_file(path: Path) -> None:
    async with said(path, pb.ReadFileResponse(data=HALF)):
        status, out, err = await _lighter("cat", "s/f", path)
        assert (status, out) == (ControlIncomplete.exit_status, HALF)
        assert b"control.incomplete" in err
        status, out, err = await _lighter("cat", "s/f", path, "--json")
        assert (status, out) == (ControlIncomplete.exit_status, b"")
    async with said(path, pb.RestorePathResponse(progress=jobs_pb2.JobProgress(bytes_done=1))):
        status, out, err = await _lighter("restore", "s/f", path, "--pod=app/web", "--volume=html", "--json")
        assert (status, out) == (ControlIncomplete.exit_status, b"")
        assert b"restore again" in err


# ---- on the way ----


class Wire:
    """From a socket to that of the agent, which breaks when so many bytes have come back."""

    def __init__(self, agent: Path, most: int | None) -> None:
        self._agent = agent
        self._left = most
        self.carried = 0

    async def welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(str(self._agent))
        await either(self._carry(reader, inner_writer, lambda data: data), self._carry(inner_reader, writer, self._cut))
        inner_writer.close()
        writer.close()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: Callable[[bytes], bytes]
    ) -> None:
        while data := await reader.read(CHUNK):
            kept = cut(data)
            writer.write(kept)
            await writer.drain()
            if kept != data:
                return

    def _cut(self, data: bytes) -> bytes:
        kept = data if self._left is None else data[: self._left]
        self._left = None if self._left is None else self._left - len(kept)
        self.carried += len(kept)
        return kept


@asynccontextmanager
async def wired(path: Path, most: int | None) -> AsyncIterator[tuple[Wire, ControlClient]]:
    wire = Wire(path, most)
    socket = path.with_name(f"wire-{most}.sock")  # or gRPC might go on with a connection to an earlier one
    server = await asyncio.start_unix_server(wire.welcome, socket)
    async with local(socket) as client:
        yield wire, client
    server.close()


async def test_a_connection_that_breaks_anywhere_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with asyncio.timeout(300), agent_with(path, TornWorker(WHOLE), monkeypatch):
        async with wired(path, None) as (wire, client):
            await read(client, bytearray())
        for most in {0, 1, 100, *range(wire.carried // 8, wire.carried, wire.carried // 8)}:
            got = bytearray()
            async with wired(path, most) as (_, client):
                with pytest.raises(ControlError) as caught:
                    await read(client, got)
            assert isinstance(caught.value, ControlUnreachable | ControlIncomplete), most
            assert DATA.startswith(got)


async def _lighter(command: str, what: str, path: Path, *more: str) -> tuple[int, bytes, bytes]:
    program = "import sys; from agent.cli.main import main; sys.argv[0] = 'lighter'; main()"
    at = ("--volume-namespace", "app", "--socket", str(path))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, "agent", command, what, *at, *more),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(os.environ),
    )
    out, err = await process.communicate()
    return process.returncode or 0, out, err
