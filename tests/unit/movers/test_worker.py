"""The worker without a process: any link will do, as in a mover pod."""

import asyncio
import errno
import os

import pytest

from agent.base.clock import SystemClock
from agent.movers.memory import WorkerGroup
from agent.movers.protocol import VERSION, Cancel, Finished, Log, Metric, Report, Start
from agent.movers.worker import ORPHANED, run_job
from tests.unit.movers.moving_kit import PASSWORD, SECRETS, backup_of, new_repository, new_tree, snapshots_in
from tests.unit.snapshots.backup_kit import deny


class QueueLink:
    """A link in memory."""

    def __init__(self, *messages):
        self.incoming = asyncio.Queue()
        self.sent = []
        for message in messages:
            self.incoming.put_nowait(message)

    async def receive(self):
        return await self.incoming.get()

    def post(self, message):
        self.sent.append(message)
        return True

    async def send(self, message):
        self.sent.append(message)


@pytest.fixture
async def location(tmp_path):
    return await new_repository(tmp_path / "repository")


@pytest.fixture
def tree(tmp_path):
    return new_tree(tmp_path / "tree")


async def test_a_job_over_any_link_ends_with_its_result(location, tree):
    link = QueueLink(Start(version=VERSION, spec=backup_of(tree, location), secrets=SECRETS))
    assert await run_job(link, SystemClock()) == 0
    finished = link.sent[-1]
    assert finished.result.total_bytes == 20_000 and finished.result.files == 20
    assert any(isinstance(message, Report) for message in link.sent)
    assert not any(PASSWORD in message.text for message in link.sent if isinstance(message, Log))
    (snapshot,) = await snapshots_in(location)
    assert snapshot.id == finished.result.snapshot
    assert snapshot.tags["snapshot-requester"] == "snapshot-pod-volume" and snapshot.pins == ("velero-pin",)
    assert snapshot.description == "Kopia Uploader"


async def test_a_worker_tells_what_it_asked_of_the_store_and_how_much_memory_it_has(location, tree):
    link = QueueLink(Start(version=VERSION, spec=backup_of(tree, location), secrets=SECRETS))
    await run_job(link, SystemClock())
    told = {(m.name, *sorted(m.labels.items())): m.value for m in link.sent if isinstance(m, Metric)}
    put = (("operation", "put"), ("outcome", "ok"))
    slots = {key[1][1]: value for key, value in told.items() if key[0] == "storage_latency" and key[2][1] == "put"}
    assert told["storage_requests", *put] == sum(slots.values()) > 0
    assert told["storage_bytes", *put] > 20_000 and all(le == "+Inf" or float(le) for le in slots)
    assert told[("memory_bytes",)] > 10 << 20


async def test_a_job_of_another_version_is_refused(location, tree):
    link = QueueLink(Start(version=VERSION + 1, spec=backup_of(tree, location), secrets=SECRETS))
    assert await run_job(link, SystemClock()) == 0
    assert link.sent[-1].error.code == "mover.protocol"


async def test_a_link_that_ends_before_the_job_ends_the_worker():
    assert await run_job(QueueLink(None), SystemClock()) == ORPHANED


async def test_a_link_that_ends_during_the_job_ends_it_without_a_snapshot(location, tree):
    link = QueueLink(Start(version=VERSION, spec=backup_of(tree, location), secrets=SECRETS), None)
    assert await run_job(link, SystemClock()) == ORPHANED
    assert not any(isinstance(message, Finished) for message in link.sent)
    assert not await snapshots_in(location)


async def test_a_job_canceled_before_it_began_ends_as_canceled(location, tree):
    spec = backup_of(tree, location)
    link = QueueLink(Start(version=VERSION, spec=spec, secrets=SECRETS), Cancel(reason="not needed"))
    assert await run_job(link, SystemClock()) == 0
    assert (link.sent[-1].error.code, "not needed" in link.sent[-1].error.message) == ("canceled", True)


async def test_a_parent_that_is_gone_means_reading_everything(location, tree):
    from agent.movers.spec import GivenParent

    spec = backup_of(tree, location, parent=GivenParent(snapshot="0" * 32))
    link = QueueLink(Start(version=VERSION, spec=spec, secrets=SECRETS))
    await run_job(link, SystemClock())
    assert "the parent is not there" in link.sent[-1].result.warnings[0]


@pytest.mark.parametrize("error", [errno.EACCES, errno.EIO])
async def test_unreadable_files_fail_the_job_by_name_and_leave_no_snapshot(location, tree, monkeypatch, error):
    deny(monkeypatch, b"f0", b"f1", error=error)
    link = QueueLink(Start(version=VERSION, spec=backup_of(tree, location), secrets=SECRETS))
    await run_job(link, SystemClock())
    told = link.sent[-1].error
    assert told.code == "snapshot.partial"
    assert "2 entries of" in told.message and f"d0/f0: {os.strerror(error)}; d1/f1" in told.message
    *_, last = (message.progress for message in link.sent if isinstance(message, Report))
    assert last.files_done == 18, "the rest was read to the end"
    assert not await snapshots_in(location)


async def test_where_partial_snapshots_are_allowed_what_is_missing_is_a_warning(location, tree, monkeypatch):
    deny(monkeypatch, b"f0", b"f1")
    spec = backup_of(tree, location, keep_partial=True)
    link = QueueLink(Start(version=VERSION, spec=spec, secrets=SECRETS))
    await run_job(link, SystemClock())
    result = link.sent[-1].result
    assert (result.files, result.errors) == (18, 2)
    (warning,) = result.warnings
    assert "2 entries of" in warning and "missing in the snapshot; the first: d0/f0: Permission denied" in warning
    (snapshot,) = await snapshots_in(location)
    assert snapshot.id == result.snapshot


async def test_a_file_that_vanishes_is_a_warning_and_no_failure(location, tree, monkeypatch):
    deny(monkeypatch, b"f0", error=errno.ENOENT)
    link = QueueLink(Start(version=VERSION, spec=backup_of(tree, location), secrets=SECRETS))
    await run_job(link, SystemClock())
    assert link.sent[-1].result.warnings == ("d0/f0 vanished before it could be read",)


def test_a_folder_that_is_no_control_group_gives_none(tmp_path):
    assert WorkerGroup.create(tmp_path, "worker-1", 1 << 20) is None
    assert list(tmp_path.iterdir()) == []


def test_a_group_tells_whether_the_kernel_killed_in_it(tmp_path):
    (tmp_path / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert WorkerGroup(tmp_path).was_exhausted()
    (tmp_path / "memory.events").write_text("oom_kill 0\n")
    assert not WorkerGroup(tmp_path).was_exhausted()
