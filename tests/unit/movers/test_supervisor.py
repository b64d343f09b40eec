"""Real workers from a real fork server, and everything that can become of them."""

import asyncio
import os
import signal
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from msgspec.structs import replace

from agent.base.errors import (
    CanceledError,
    MoverCrashed,
    MoverOutOfMemory,
    MoverSilent,
    SnapshotNotFound,
    WrongPassword,
)
from agent.movers.spec import BackupBlock, NoParent, RateLimits, Secrets
from agent.testing.clock import VirtualClock
from tests.unit.movers.moving_kit import (
    PASSWORD,
    SECRETS,
    SOURCE,
    backup_of,
    collecting,
    done,
    new_repository,
    new_tree,
    restore_of,
    running,
    slowly,
    snapshots_in,
    tree_of,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
_HIDDEN = "a-key-that-only-the-agent-has"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def movers():
    async with running(environ={**os.environ, "AWS_SECRET_ACCESS_KEY": _HIDDEN}) as movers:
        await movers.warm_up()
        yield movers


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def location(tmp_path_factory):
    return await new_repository(tmp_path_factory.mktemp("store") / "repository")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def snapshot(movers, location, tmp_path_factory):
    """Of a tree of 2 MB: the result of its backup and the tree."""
    tree = new_tree(tmp_path_factory.mktemp("tree"), size=100_000)
    return await done(movers, backup_of(tree, location)), tree


def _descriptors(pid="self"):
    return set(os.listdir(f"/proc/{pid}/fd"))


def _process_file(pid, name):
    return Path(f"/proc/{pid}/{name}").read_text()


def _data_bytes(pid):
    lines = _process_file(pid, "status").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData"))


def _is_running(pid):
    try:
        return _process_file(pid, "stat").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def _until_gone(pid):
    async with asyncio.timeout(60):
        while _is_running(pid):  # noqa: ASYNC110  # nobody tells when somebody else's process is gone
            await asyncio.sleep(0.01)


async def _moving(job):
    """Its first report after it began to move bytes."""
    async for progress in job.updates():
        if progress.bytes_done:
            return progress
    pytest.fail(f"it ended: {await job.result()}")


async def test_a_tree_comes_back_as_it_went(movers, location, snapshot, tmp_path):
    result, tree = snapshot
    logs, reports, metrics, callbacks = collecting()
    restored = await done(movers, restore_of(result.snapshot, tmp_path / "out", location), callbacks)
    assert tree_of(tmp_path / "out") == tree_of(tree)
    assert (restored.bytes, restored.files) == (result.total_bytes, result.files) == (2_000_000, 20)
    assert reports[-1].bytes_done == reports[-1].bytes_total == 2_000_000
    assert any(metric.name == "storage_bytes" and metric.labels["operation"] == "get" for metric in metrics)
    assert [log.text for log in logs] == ["RestoreTree job begins"]


async def test_the_second_backup_takes_over_what_did_not_change(movers, location, snapshot):
    first, tree = snapshot
    result = await done(movers, backup_of(tree, location))
    assert (result.total_bytes, result.incremental_bytes, result.parents) == (2_000_000, 0, (first.snapshot,))


async def test_a_device_is_read_whole_so_nothing_is_said_of_what_is_new_in_it(movers, location, tmp_path):
    image = tmp_path / "image"
    image.write_bytes(os.urandom(300_000))
    spec = msgspec.structs.replace(backup_of(tmp_path, location), work=BackupBlock(path=str(image), source=SOURCE))
    result = await done(movers, spec)
    assert (result.total_bytes, result.incremental_bytes) == (300_000, 0)


async def test_errors_of_the_engine_arrive_as_their_leaves(movers, location, tmp_path):
    with pytest.raises(WrongPassword):
        await done(movers, backup_of(tmp_path, location), secrets=Secrets(password="another"))
    with pytest.raises(SnapshotNotFound):
        await done(movers, restore_of("0" * 32, tmp_path, location))


async def test_a_canceled_backup_is_saved_as_incomplete_once_limits_are_lifted(movers, tmp_path):
    location = await new_repository(tmp_path / "repository")
    tree = new_tree(tmp_path / "tree", files=90, size=1 << 20)  # more than writers hold before they wait
    async with movers.job(slowly(backup_of(tree, location)), SECRETS) as job:
        await _moving(job)
        job.cancel("the backup was deleted")
        job.set_limits(RateLimits())
        result = await job.result()
    assert result.incomplete == "canceled"
    (saved,) = await snapshots_in(location)
    assert (saved.id, saved.incomplete) == (result.snapshot, "canceled")


async def test_limits_that_are_set_before_the_worker_has_its_job_count_from_its_start(movers, tmp_path):
    location = await new_repository(tmp_path / "repository")
    tree = new_tree(tmp_path / "tree", size=100_000)
    async with asyncio.timeout(60), movers.job(slowly(backup_of(tree, location), 1_000), SECRETS) as job:
        job.set_limits(RateLimits())  # otherwise it takes half an hour
        assert (await job.result()).files == 20


async def test_a_canceled_restore_ends_as_canceled(movers, location, snapshot, tmp_path):
    async with movers.job(slowly(restore_of(snapshot[0].snapshot, tmp_path / "out", location)), SECRETS) as job:
        job.cancel("nobody needs it")
        with pytest.raises(CanceledError, match="nobody needs it"):
            await job.result()


async def test_a_killed_worker_is_a_crash_with_its_last_progress_and_the_next_job_runs(movers, location, snapshot):
    _, tree = snapshot
    before = _descriptors(), _descriptors(movers.fork_server_pid)
    async with movers.job(slowly(backup_of(tree, location)), SECRETS) as job:
        await anext(job.updates())
        os.kill(job.pid, signal.SIGKILL)
        with pytest.raises(MoverCrashed, match=r"killed by SIGKILL.*after \d+"):
            await job.result()
    assert (await done(movers, backup_of(tree, location))).files == 20
    assert _descriptors() <= before[0]  # what earlier tests left may have been closed meanwhile
    assert _descriptors(movers.fork_server_pid) <= before[1]


async def test_what_a_dying_worker_prints_is_logged_and_told(movers, location, snapshot):
    logs, _, _, callbacks = collecting()
    async with movers.job(slowly(backup_of(snapshot[1], location)), SECRETS, callbacks) as job:
        await anext(job.updates())
        os.kill(job.pid, signal.SIGABRT)
        with pytest.raises(MoverCrashed, match="killed by SIGABRT"):
            await job.result()
    assert any("Fatal Python error: Aborted" in log.text for log in logs if log.level == "output")


async def test_a_silent_worker_is_killed(location, snapshot, movers, monkeypatch):
    clock = VirtualClock(jump=False)
    monkeypatch.setattr(movers, "_clock", clock)
    async with movers.job(slowly(backup_of(snapshot[1], location)), SECRETS) as job:
        await anext(job.updates())
        os.kill(job.pid, signal.SIGSTOP)
        while job._verdict is None:
            clock.advance(14)
            await asyncio.sleep(0.01)
        with pytest.raises(MoverSilent, match=r"was silent for 1[2-4]\d s"):
            await job.result()
        assert not _is_running(job.pid)


async def test_a_job_that_is_slow_to_end_after_it_was_canceled_is_killed(location, snapshot, movers, monkeypatch):
    clock = VirtualClock(jump=False)
    monkeypatch.setattr(movers, "_clock", clock)
    async with movers.job(slowly(backup_of(snapshot[1], location)), SECRETS) as job:
        await anext(job.updates())
        os.kill(job.pid, signal.SIGSTOP)
        job.cancel("maintenance of the node")
        while job._verdict is None:
            clock.advance(16)
            await asyncio.sleep(0.01)
        with pytest.raises(CanceledError, match="maintenance of the node; it did not end in time"):
            await job.result()


async def test_a_worker_that_needs_too_much_memory_fails_by_name(location, snapshot, movers, monkeypatch):
    limit = _data_bytes(movers.fork_server_pid) + (8 << 20)
    monkeypatch.setattr(movers, "_options", replace(movers._options, memory_bytes=limit))
    with pytest.raises(MoverOutOfMemory):
        await done(movers, backup_of(snapshot[1], location))


async def test_no_secret_is_in_arguments_or_environment_and_no_core_is_dumped(movers, location, snapshot):
    async with movers.job(slowly(backup_of(snapshot[1], location)), SECRETS) as job:
        await anext(job.updates())
        for pid in (job.pid, movers.fork_server_pid):
            seen = _process_file(pid, "cmdline") + _process_file(pid, "environ")
            assert not any(word in seen for word in (PASSWORD, SECRETS.secret_key, _HIDDEN))
        core = next(line for line in _process_file(job.pid, "limits").splitlines() if "core file" in line)
        assert core.split()[4:6] == ["1", "1"]
        assert os.readlink(f"/proc/{job.pid}/fd/0") == os.devnull


async def test_leaving_the_block_kills_the_worker(movers, location, snapshot):
    async with movers.job(slowly(backup_of(snapshot[1], location)), SECRETS) as job:
        pid = job.pid
    assert not _is_running(pid)
    with pytest.raises(CanceledError, match="let go"):
        await job.result()


async def test_an_error_in_a_callback_ends_its_job_only(movers, location, snapshot):
    from agent.movers.supervisor import JobCallbacks

    def broken(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await done(movers, slowly(backup_of(snapshot[1], location)), JobCallbacks(on_progress=broken))


async def test_a_job_waits_for_its_turn(movers, location, snapshot, tmp_path):
    await movers.set_concurrency(1)
    spec = restore_of(snapshot[0].snapshot, tmp_path / "out", location)
    async with movers.job(slowly(backup_of(snapshot[1], location)), SECRETS):
        second = asyncio.create_task(done(movers, spec))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(second), 0.05)
    assert (await second).files == 20
    await movers.set_concurrency(4)


async def test_a_killed_fork_server_takes_its_workers_along_and_is_replaced(movers, location, snapshot):
    before = _descriptors()
    server = movers.fork_server_pid
    async with movers.job(slowly(backup_of(snapshot[1], location)), SECRETS) as job:
        await anext(job.updates())
        os.kill(server, signal.SIGKILL)
        with pytest.raises(MoverCrashed, match="lost with the fork server"):
            await job.result()
        await _until_gone(job.pid)
    assert (await done(movers, backup_of(snapshot[1], location))).files == 20
    assert movers.fork_server_pid not in (None, server)
    assert len(_descriptors()) <= len(before)


_AGENT = """
import asyncio, os, sys
import msgspec
from agent.base.clock import SystemClock
from agent.movers.spec import JobSpec, Secrets
from agent.movers.supervisor import MoverOptions, Movers

async def main():
    spec = msgspec.json.decode(sys.stdin.read(), type=JobSpec)
    async with Movers(MoverOptions(), SystemClock(), os.environ) as movers:
        async with movers.job(spec, Secrets(password="correct-horse-battery-staple")) as job:
            await anext(job.updates())
            print(job.pid, movers.fork_server_pid, flush=True)
            await job.result()

asyncio.run(main())
"""


async def test_no_worker_outlives_the_agent(location, snapshot):
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(_AGENT), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    agent.stdin.write(msgspec.json.encode(slowly(backup_of(snapshot[1], location))))
    agent.stdin.write_eof()
    pids = [int(pid) for pid in (await agent.stdout.readline()).split()]
    assert len(pids) == 2 and all(map(_is_running, pids))
    agent.kill()
    await agent.wait()
    for pid in pids:
        await _until_gone(pid)


async def test_a_worker_tells_what_it_had_already_in_the_repository_and_in_its_cache(
    movers, location, snapshot, tmp_path
):
    result, tree = snapshot
    _, _, metrics, callbacks = collecting()
    anew = backup_of(tree, location, parent=NoParent(), cache_dir=str(tmp_path / "cache"))
    for _ in range(2):
        await done(movers, anew, callbacks)
    told = {(one.name, *sorted(one.labels.values())): one.value for one in metrics}
    assert told["deduplicated_bytes",] >= result.total_bytes, "all of it was read, and none of it is new"
    assert told["cache_lookups", "hit", "indexes"] > 0
