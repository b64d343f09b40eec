"""What no worker, fork server or store may do to the agent: keep a job for ever, end others, or be believed blindly."""

import asyncio
import os
import signal
import socket
import time
from contextlib import asynccontextmanager, suppress

import pytest
import pytest_asyncio
from msgspec.structs import replace

from agent.base.clock import SystemClock
from agent.base.errors import (
    CanceledError,
    LighterageError,
    MoverCrashed,
    MoverProtocolError,
    MoverSilent,
    MoverUnavailable,
)
from agent.movers import spawner
from agent.movers.forkserver import Exited
from agent.movers.protocol import Finished, Log, Report, encode_frame
from agent.movers.spawner import Child
from agent.movers.spec import JobError, Progress, RateLimits, RestoreResult, S3Location
from agent.movers.supervisor import MoverOptions, Movers
from agent.repository.create import CreateOptions
from agent.repository.repository import Repository
from agent.storage.open import open_s3_storage
from agent.storage.s3_config import S3Config
from agent.testing import recording_s3
from agent.testing.clock import VirtualClock
from agent.testing.recording_s3 import BUCKET, RecordingS3
from tests.unit.movers.moving_kit import (
    PASSWORD,
    SECRETS,
    backup_of,
    collecting,
    done,
    new_repository,
    new_tree,
    running,
    slowly,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def movers():
    async with running() as movers:
        await movers.warm_up()
        yield movers


@pytest.fixture
def impatient(movers, monkeypatch):
    """Waits for nothing that hangs; elsewhere a busy machine may take its time."""
    options = replace(movers._options, cancel_grace=0.4, exit_grace=0.2, kill_grace=0.4)
    monkeypatch.setattr(movers, "_options", options)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def location(tmp_path_factory):
    return await new_repository(tmp_path_factory.mktemp("store") / "repository")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return new_tree(tmp_path_factory.mktemp("tree"), size=100_000)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # of processes, which tell nobody
            await asyncio.sleep(0.01)


def has_answered(job):
    """Whether the end of a job lies in its connection, read or unread."""
    if (channel := job._channel) is None:
        return True
    with socket.socket(fileno=os.dup(channel._writer.get_extra_info("socket").fileno())) as connection:
        try:
            unread = connection.recv(1 << 20, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            unread = b""
    return b"finished" in bytes(channel._reader._buffer) + unread


# Workers and fork servers that hang


@pytest.mark.usefixtures("impatient")
async def test_a_worker_is_killed_also_while_the_fork_server_hangs(movers, location, tree):
    async with movers.job(slowly(backup_of(tree, location)), SECRETS) as job:
        await anext(job.updates())
        os.kill(movers.fork_server_pid, signal.SIGSTOP)
        try:
            job.kill("nobody needs it")
            with pytest.raises(CanceledError, match="nobody needs it"):
                await job.result()
            await until(lambda: not is_running(job.pid))
        finally:
            os.kill(movers.fork_server_pid, signal.SIGCONT)
    assert (await done(movers, backup_of(tree, location))).files == 20


async def test_a_fork_server_that_hangs_is_ended_and_replaced(movers, location, tree, monkeypatch):
    monkeypatch.setattr(spawner, "_FORK_TIMEOUT", 0.2)
    hanging = movers.fork_server_pid
    os.kill(hanging, signal.SIGSTOP)
    with pytest.raises(MoverUnavailable, match="started no worker"):
        await done(movers, backup_of(tree, location))
    await until(lambda: not is_running(hanging))
    monkeypatch.undo()
    assert (await done(movers, backup_of(tree, location))).files == 20


@pytest.mark.usefixtures("impatient")
async def test_a_worker_that_cannot_be_killed_does_not_keep_its_job(movers, location, tree, monkeypatch):
    logs, _, _, callbacks = collecting()
    async with movers.job(slowly(backup_of(tree, location)), SECRETS, callbacks) as job:
        await anext(job.updates())
        pid = job.pid
        os.kill(pid, signal.SIGSTOP)
        monkeypatch.setattr(movers._spawner, "kill", lambda _: None)  # as SIGKILL to a process on a dead disk
        job.cancel("the disk is dead")
        with pytest.raises(CanceledError, match="the disk is dead; it did not end in time"):
            await job.result()
    assert is_running(pid)
    assert any("cannot be killed" in log.text for log in logs)
    monkeypatch.undo()
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not is_running(pid))
    assert (await done(movers, backup_of(tree, location))).files == 20


async def test_an_agent_that_was_stopped_itself_does_not_call_its_workers_silent(movers, location, tree, monkeypatch):
    clock = VirtualClock(jump=False)
    monkeypatch.setattr(movers, "_clock", clock)
    async with movers.job(slowly(backup_of(tree, location)), SECRETS) as job:
        await anext(job.updates())
        clock.advance(10_000)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert job._verdict is None
        job.set_limits(RateLimits())
        assert (await job.result()).files == 20


async def test_a_crash_reaches_no_other_job(movers, location, tree):
    async with (
        movers.job(slowly(backup_of(tree, location)), SECRETS) as doomed,
        movers.job(slowly(backup_of(tree, location)), SECRETS) as other,
    ):
        await anext(doomed.updates())
        await anext(other.updates())
        os.kill(doomed.pid, signal.SIGSEGV)
        with pytest.raises(MoverCrashed, match="SIGSEGV"):
            await doomed.result()
        other.set_limits(RateLimits())
        assert (await other.result()).files == 20


async def test_a_cancel_that_comes_after_the_end_loses_no_result(movers, location, tree):
    async with movers.job(backup_of(tree, location), SECRETS) as job:
        await anext(job.updates())
        deadline = time.monotonic() + 60
        while not has_answered(job):
            assert time.monotonic() < deadline
            time.sleep(0.01)  # noqa: ASYNC251  # the agent is busy, and has not read the result when it is told to cancel
        job.cancel("too late")
        result = await job.result()
    assert result.snapshot
    assert not result.incomplete


# Stores that hang


class HangingS3(RecordingS3):
    """Does not answer requests that `hangs` says so of, until `released`."""

    def __init__(self):
        super().__init__()
        self.hangs = lambda method, key: False
        self.hanging = asyncio.Event()
        self.released = asyncio.Event()

    async def _handle(self, raw):
        if self.hangs(raw.method, raw.path.removeprefix(f"/{BUCKET}/")):
            self.hanging.set()
            await self.released.wait()
        return await super()._handle(raw)


@asynccontextmanager
async def s3_repository(monkeypatch):
    from datetime import UTC, datetime

    monkeypatch.setattr(recording_s3, "_MOMENT", datetime.now(UTC))
    async with HangingS3() as server:
        location = S3Location(bucket=BUCKET, endpoint=server.endpoint, region="us-east-1", path_style=True)
        config = S3Config(
            bucket=BUCKET,
            endpoint=server.endpoint,
            region="us-east-1",
            path_style=True,
            access_key=SECRETS.access_key,
            secret_key=SECRETS.secret_key,
        )
        storage = await open_s3_storage(config)
        await Repository.create(storage, PASSWORD, options=CreateOptions(splitter="DYNAMIC-128K-BUZHASH"))
        await storage.close()
        try:
            yield server, location
        finally:
            server.released.set()


async def test_a_worker_gives_signs_of_life_while_its_store_hangs_and_ends_at_once_when_it_is_canceled(
    movers, tree, monkeypatch
):
    async with s3_repository(monkeypatch) as (server, location):
        server.hangs = lambda method, key: True
        _, reports, _, callbacks = collecting()
        async with movers.job(backup_of(tree, location), SECRETS, callbacks) as job:
            await server.hanging.wait()
            seen = len(reports)
            await until(lambda: len(reports) > seen + 5)
            job.cancel("nobody needs it")
            with pytest.raises(CanceledError, match=r"canceled: nobody needs it$"):
                await job.result()


@pytest.mark.usefixtures("impatient")
async def test_a_cancel_while_the_final_flush_hangs_ends_within_the_grace(movers, tree, monkeypatch):
    async with s3_repository(monkeypatch) as (server, location):
        server.hangs = lambda method, key: method == "PUT" and key.startswith("x")  # indexes
        async with movers.job(backup_of(tree, location, velero=False), SECRETS) as job:  # flushes at its end only
            await server.hanging.wait()
            job.cancel("nobody needs it")
            with pytest.raises(CanceledError, match="it did not end in time and was killed"):
                await job.result()
            await until(lambda: not is_running(job.pid))
        server.hangs = lambda method, key: False
        assert (await done(movers, backup_of(tree, location))).files == 20


async def test_a_cancel_that_can_still_be_saved_is_while_packs_are_slow(movers, tree, monkeypatch):
    async with s3_repository(monkeypatch) as (server, location):
        server.hangs = lambda method, key: method == "PUT" and key.startswith(("p", "q"))
        async with movers.job(backup_of(tree, location, velero=False), SECRETS) as job:  # flushes at its end only
            await server.hanging.wait()
            job.cancel("nobody needs it")
            server.released.set()
            assert (await job.result()).snapshot


# Workers that say anything


class Scripted:
    """A spawner whose worker takes its job, says some bytes, and then hangs or ends with a status."""

    def __init__(self, said, status=None):
        self._said, self._status = said, status
        self.kills = 0
        self.server_pid = None

    async def spawn(self, connection, output, **_):
        loop = asyncio.get_running_loop()
        self._child = Child(1, loop.create_future(), loop.create_future())
        self._child.pid.set_result(0)
        self._socket = socket.socket(fileno=os.dup(connection))
        self._task = asyncio.create_task(self._speak())
        return self._child

    async def _speak(self):
        self._socket.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_recv(self._socket, 1 << 20)
        with suppress(OSError):
            await loop.sock_sendall(self._socket, self._said)
        if self._status is not None:
            self._socket.close()
            if not self._child.exited.done():
                self._child.exited.set_result(Exited(ticket=1, status=self._status))

    def kill(self, child):
        self.kills += 1
        self._task.cancel()
        self._socket.close()
        if not child.exited.done():
            child.exited.set_result(Exited(ticket=1, status=-signal.SIGKILL))

    async def close(self):
        return


@asynccontextmanager
async def scripted(said, status=None, clock=None):
    movers = Movers(MoverOptions(), clock or SystemClock(), {})
    movers._spawner = Scripted(said, status)
    async with movers:
        yield movers


_RESTORED = RestoreResult(bytes=1, files=1, directories=0, downloaded_bytes=1, denied=0)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"\xff\xff\xff\xff", MoverProtocolError),
        (b"\x00\x00\x00\x03abc", MoverProtocolError),
        (b"\x00\x00\x00\x01\xc1" * 1_000, MoverProtocolError),
        (encode_frame(Finished(result=_RESTORED)), MoverProtocolError),
        (encode_frame(Finished(error=JobError(code="no.such-code", message="x"))), LighterageError),
        (encode_frame(Report(progress=Progress())) + b"\x00", MoverCrashed),
        (b"", MoverCrashed),
    ],
    ids=["length", "garbage", "much garbage", "result of other work", "unknown error", "half a frame", "nothing"],
)
async def test_a_worker_that_says_anything_gets_an_error_with_a_name(location, tree, said, error):
    async with scripted(said, status=1) as movers:
        with pytest.raises(error) as caught:
            await done(movers, backup_of(tree, location))
    assert caught.value.code


async def test_a_flood_of_messages_is_read_to_its_end(location, tree):
    logs, reports, _, callbacks = collecting()
    flood = b"".join(
        encode_frame(Report(progress=Progress(bytes_done=number))) + encode_frame(Log(level="info", text="x" * 1_000))
        for number in range(2_000)
    )
    async with scripted(flood, status=0) as movers:
        with pytest.raises(MoverCrashed, match="after 1999 bytes"):
            await done(movers, backup_of(tree, location), callbacks)
    assert (len(reports), len(logs)) == (2_000, 2_000)


async def test_a_worker_that_never_says_anything_is_silent(location, tree):
    async with scripted(b"", clock=VirtualClock()) as movers:
        with pytest.raises(MoverSilent):
            await done(movers, backup_of(tree, location))
        assert movers._spawner.kills
