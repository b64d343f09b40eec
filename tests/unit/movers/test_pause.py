"""A paused job stands still, lives on, and ends when it is told to."""

import asyncio

import msgspec
import pytest

from agent.base.clock import SystemClock
from agent.movers.protocol import VERSION, Cancel, Finished, Metric, Report, SetLimits, Start
from agent.movers.spec import BackupBlock, RateLimits, RestoreBlock
from agent.movers.worker import run_job
from tests.unit.movers.moving_kit import (
    SECRETS,
    SOURCE,
    backup_of,
    done,
    new_repository,
    new_tree,
    restore_of,
    running,
    slowly,
    snapshots_in,
    tree_of,
)

_PAUSED = SetLimits(limits=RateLimits(paused=True))
_FREE = SetLimits(limits=RateLimits())
_MANY = 3_000
_STILL = 25
"""Reports that say the same: half a second or more. What was under way at a pause may end before."""


class TalkingLink:
    """A link in memory whose other end waits for what it is told, and pauses the job at the first report `pause_at`."""

    def __init__(self, spec, *, pause_at=None):
        self.incoming = asyncio.Queue()
        self.reports, self.metrics = [], []
        self.finished = None
        self.told = asyncio.Condition()
        self.paused = False
        self._pause_at = pause_at
        self.say(Start(version=VERSION, spec=spec, secrets=SECRETS))

    def say(self, message):
        self.incoming.put_nowait(message)

    async def receive(self):
        return await self.incoming.get()

    def post(self, message):
        if isinstance(message, Report):
            self.reports.append(message.progress)
            if not self.paused and self._pause_at is not None and self._pause_at(message.progress):
                self.paused = True
                self.say(_PAUSED)
        if isinstance(message, Metric):
            self.metrics.append(message)
        self._wake = asyncio.ensure_future(self._tell())
        return True

    async def send(self, message):
        self.finished = message
        await self._tell()

    async def _tell(self):
        async with self.told:
            self.told.notify_all()

    async def until(self, holds):
        async with asyncio.timeout(60), self.told:
            await self.told.wait_for(lambda: holds() or self.finished is not None)
        assert holds(), self.finished

    async def more_reports(self, count):
        wanted = len(self.reports) + count
        await self.until(lambda: len(self.reports) >= wanted)

    def sent(self):
        values = [m.value for m in self.metrics if m.name == "storage_bytes" and m.labels["operation"] == "put"]
        return values[-1] if values else 0


@pytest.fixture
async def location(tmp_path):
    return await new_repository(tmp_path / "repository")


async def _stands_still(link):
    await link.until(lambda: link.paused)
    first = len(link.reports)
    await link.until(lambda: len(link.reports) >= first + _STILL and _all_alike(link.reports[-_STILL:]))
    before = link.reports[-1]
    await link.more_reports(_STILL)
    assert link.reports[-1] == before, "no byte and no file"
    return before


def _all_alike(reports):
    return all(report == reports[0] for report in reports)


def _has_begun(progress):
    return progress.bytes_done > 0


@pytest.mark.parametrize("kind", ["tree", "device"])
async def test_a_paused_backup_reads_and_sends_nothing_lives_on_and_ends_whole(location, tmp_path, kind):
    tree = new_tree(tmp_path / "tree", files=_MANY, size=2_000)
    spec = backup_of(tree, location)
    if kind == "device":
        image = tmp_path / "image"
        image.write_bytes(b"".join(path.read_bytes() for path in sorted(tree.rglob("f*"))))
        spec = msgspec.structs.replace(spec, work=BackupBlock(path=str(image), source=SOURCE))
    link = TalkingLink(spec, pause_at=_has_begun)
    task = asyncio.create_task(run_job(link, SystemClock()))
    before = await _stands_still(link)
    assert kind == "device" or before.files_done < _MANY, "there is something left to do"
    stored = sum(path.stat().st_size for path in (tmp_path / "repository").rglob("*") if path.is_file())
    await link.more_reports(20)
    assert stored == sum(path.stat().st_size for path in (tmp_path / "repository").rglob("*") if path.is_file())
    link.say(_FREE)
    assert await task == 0
    assert isinstance(link.finished, Finished) and link.finished.result.total_bytes >= _MANY * 2_000
    (snapshot,) = await snapshots_in(location)
    assert not snapshot.incomplete


async def test_a_job_may_begin_paused(location, tmp_path):
    tree = new_tree(tmp_path / "tree")
    spec = msgspec.structs.replace(backup_of(tree, location), limits=RateLimits(paused=True))
    link = TalkingLink(spec)
    task = asyncio.create_task(run_job(link, SystemClock()))
    await link.more_reports(25)
    assert link.finished is None and not link.reports[-1].files_done
    link.say(_FREE)
    assert await task == 0 and link.finished.result.files == 20


async def test_a_cancel_of_a_paused_backup_saves_what_there_is(location, tmp_path):
    tree = new_tree(tmp_path / "tree", files=_MANY, size=2_000)
    link = TalkingLink(backup_of(tree, location), pause_at=_has_begun)
    task = asyncio.create_task(run_job(link, SystemClock()))
    await _stands_still(link)
    link.say(Cancel(reason="enough"))
    link.say(_PAUSED)  # too late: what is to end is not held up
    link.say(_FREE)
    assert await task == 0
    assert link.finished.result.incomplete == "canceled"


@pytest.mark.parametrize("kind", ["tree", "device"])
async def test_a_paused_restore_writes_nothing_and_ends_whole(location, tmp_path, kind):
    tree = new_tree(tmp_path / "tree", files=20, size=100_000)
    target, spec = tmp_path / "target", backup_of(tree, location)
    image = tmp_path / "image"
    if kind == "device":
        image.write_bytes(b"".join(path.read_bytes() for path in sorted(tree.rglob("f*"))))
        spec = msgspec.structs.replace(spec, work=BackupBlock(path=str(image), source=SOURCE))
    async with running() as movers:
        result = await done(movers, spec)
    target.mkdir()
    spec = slowly(restore_of(result.snapshot, target, location), 400_000)
    if kind == "device":
        spec = msgspec.structs.replace(spec, work=RestoreBlock(snapshot=result.snapshot, target=str(target / "image")))
    link = TalkingLink(spec, pause_at=lambda _: True)
    task = asyncio.create_task(run_job(link, SystemClock()))
    before = await _stands_still(link)
    assert before.bytes_done < 2_000_000, "there is something left to do"
    link.say(_FREE)
    assert await task == 0
    assert link.finished.error is None
    if kind == "device":
        assert (target / "image").read_bytes() == image.read_bytes()
    else:
        assert tree_of(target) == tree_of(tree)


async def test_a_paused_restore_is_canceled(location, tmp_path):
    tree = new_tree(tmp_path / "tree", files=20, size=100_000)
    async with running() as movers:
        result = await done(movers, backup_of(tree, location))
    (tmp_path / "target").mkdir()
    spec = slowly(restore_of(result.snapshot, tmp_path / "target", location), 400_000)
    link = TalkingLink(spec, pause_at=lambda _: True)
    task = asyncio.create_task(run_job(link, SystemClock()))
    await _stands_still(link)
    link.say(Cancel(reason="enough"))
    assert await task == 0
    assert link.finished.error.code == "canceled"
