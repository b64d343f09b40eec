"""A restore that was cut short goes on where it stopped, and writes through nothing that it cannot have left."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

import pytest

from agent.base.errors import LighterageError, PartialRestore, RepositoryError, StorageUnavailable
from agent.repository.ids import ContentId
from agent.snapshots import restore_journal, restore_plan
from agent.snapshots.model import Entry
from agent.snapshots.restore import RestoreOptions, restore
from agent.snapshots.restore_report import RestoreReport
from agent.storage.base import Buffer
from agent.volumes.tree_write import Existing
from tests.unit.snapshots.memory_repository import MemoryRepository
from tests.unit.snapshots.test_restore import OURS, tree


@pytest.fixture
def repository() -> MemoryRepository:
    return MemoryRepository()


class Breaking(MemoryRepository):
    """Stops giving contents after some: by an error, or by never answering."""

    def __init__(self, left: int, error: LighterageError | None) -> None:
        super().__init__()
        self.left = left
        self.error = error
        self.report = RestoreReport()
        self.reached = asyncio.Event()

    async def read_views(
        self, cids: Sequence[ContentId], *, on_error: Callable[[ContentId, RepositoryError], None] | None = None
    ) -> AsyncGenerator[list[tuple[ContentId, bytes]], None]:
        async for batch in super().read_views(cids, on_error=on_error):
            if self.left == 0:
                while self.report.files < 20:  # noqa: ASYNC110 - only the counter tells
                    await asyncio.sleep(0)
                self.reached.set()
                if self.error is not None:
                    raise self.error
                await asyncio.Event().wait()
            self.left -= 1
            yield batch


def many_files(repository: MemoryRepository) -> Entry:
    subs = [
        repository.directory(f"d{d}", [repository.file(f"f{i:02d}", b"%d-%d" % (d, i)) for i in range(20)])
        for d in range(5)
    ]
    return repository.directory("r", [*subs, repository.file("large", os.urandom(3 << 20), 1 << 18)])


@pytest.mark.parametrize("existing", list(Existing))
@pytest.mark.parametrize("how", ["storage fails", "canceled"])
async def test_a_restore_that_was_cut_short_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: Existing, how: str
) -> None:
    monkeypatch.setattr(restore_plan.Window.__init__, "__defaults__", (10, 1 << 20))
    repository = Breaking(60, StorageUnavailable("gone for now") if how == "storage fails" else None)
    root = many_files(repository)
    target = tmp_path / "t"
    options = RestoreOptions(existing=existing, owners=OURS.owners)
    task = asyncio.create_task(restore(repository, root, target, options=options, report=repository.report))
    await repository.reached.wait()
    if how == "canceled":
        task.cancel()
    with pytest.raises((StorageUnavailable, asyncio.CancelledError)):
        await task
    half = [name for name in tree(target) if not name.startswith(".lighter")]
    assert 20 <= len(half) < 106
    assert any(name.startswith(".lighter-restore-") for name in tree(target))

    repository.left = -1
    repository.fetched.clear()
    report = await restore(repository, root, target, options=options)
    assert report.resumed >= 20
    assert report.resumed + report.files == 101
    assert len(repository.fetched) < 101 + 12
    complete = tree(target)
    assert len(complete) == 106
    assert all(complete[f"d{d}/f{i:02d}"] == b"%d-%d" % (d, i) for d in range(5) for i in range(20))


async def test_what_stood_there_before_a_resumed_restore_is_not_taken_for_restored(
    repository: MemoryRepository, tmp_path: Path
) -> None:
    root = repository.directory("r", [repository.file("f", b"new!", mtime_ns=5)])
    target = tmp_path / "t"
    target.mkdir()
    (target / "f").write_bytes(b"old!")
    os.chmod(target / "f", 0o644)
    os.utime(target / "f", ns=(5, 5))
    while (marker := target / f".lighter-restore-{root.obj}").exists() is False or (
        os.stat(marker).st_ctime_ns <= os.stat(target / "f").st_ctime_ns
    ):
        marker.unlink(missing_ok=True)
        marker.touch()
    report = await restore(repository, root, target, options=OURS)
    assert report.resumed == 0
    assert tree(target) == {"f": b"new!"}


def interrupted(root: Entry, target: Path) -> None:
    """The target of a restore that was killed before it had made anything."""
    target.mkdir()
    restore_journal.begin(os.fsencode(target), root.obj)


async def test_a_large_file_that_a_killed_restore_left_is_written_on(
    repository: MemoryRepository, tmp_path: Path
) -> None:
    data = os.urandom(4 << 20)
    root = repository.directory("r", [repository.file("large", data, 1 << 20)])
    interrupted(root, tmp_path / "t")
    half = bytearray(data)
    half[1 << 20 : 2 << 20] = bytes(1 << 20)  # allocated, not written yet
    half[(3 << 20) + 5] ^= 1  # torn
    (tmp_path / "t" / "large").write_bytes(half)

    report = await restore(repository, root, tmp_path / "t", options=OURS)

    fetched = [repository.data[cid] for cid in repository.fetched if len(repository.data[cid]) == 1 << 20]
    assert sorted(fetched) == sorted([data[1 << 20 : 2 << 20], data[3 << 20 :]])
    assert (report.resumed_bytes, report.bytes) == (2 << 20, 2 << 20)
    assert tree(tmp_path / "t") == {"large": data}
    assert os.stat(tmp_path / "t" / "large").st_mtime_ns == 1_000_000_007


class Asked(MemoryRepository):
    """Counts how often something that lies in a target was compared with a content."""

    compared = 0

    def matches(self, cid: ContentId, data: Buffer) -> bool:
        self.compared += 1
        return super().matches(cid, data)


async def test_a_large_file_that_is_new_is_not_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore_plan.Window.__init__, "__defaults__", (10, 1 << 20))
    repository = Asked()
    data = os.urandom(8 << 20)
    root = repository.directory("r", [repository.file("large", data, 1 << 18)])
    report = await restore(repository, root, tmp_path / "t", options=OURS)
    assert tree(tmp_path / "t") == {"large": data}
    assert (report.bytes, report.resumed_bytes, repository.compared) == (8 << 20, 0, 0)


async def test_a_file_that_has_become_too_long_is_cut_when_it_is_written_on(
    repository: MemoryRepository, tmp_path: Path
) -> None:
    data = os.urandom(2 << 20)
    root = repository.directory("r", [repository.file("large", data, 1 << 20)])
    interrupted(root, tmp_path / "t")
    (tmp_path / "t" / "large").write_bytes(data + b"more")
    await restore(repository, root, tmp_path / "t", options=OURS)
    assert tree(tmp_path / "t") == {"large": data}


@pytest.mark.parametrize("kind", ["hard link", "symbolic link", "fifo"])
async def test_what_a_killed_restore_cannot_have_left_is_replaced_and_never_written_through(
    repository: MemoryRepository, tmp_path: Path, kind: str
) -> None:
    data = os.urandom(2 << 20)
    root = repository.directory("r", [repository.file("large", data, 1 << 20)])
    interrupted(root, tmp_path / "t")
    outside, large = tmp_path / "outside", tmp_path / "t" / "large"
    outside.write_bytes(b"not yours" * 300_000)
    if kind == "hard link":
        os.link(outside, large)
    elif kind == "symbolic link":
        large.symlink_to(outside)
    else:
        os.mkfifo(large)
    report = await restore(repository, root, tmp_path / "t", options=OURS)
    assert outside.read_bytes() == b"not yours" * 300_000
    assert tree(tmp_path / "t") == {"large": data}
    assert report.resumed_bytes == 0


async def test_a_large_file_whose_rest_is_gone_is_removed_when_it_was_written_on(tmp_path: Path) -> None:
    repository = MemoryRepository()
    data = os.urandom(2 << 20)
    root = repository.directory("r", [repository.file("large", data, 1 << 20)])
    del repository.data[repository.content(data[1 << 20 :])]
    interrupted(root, tmp_path / "t")
    (tmp_path / "t" / "large").write_bytes(data[: 1 << 20] + bytes(1 << 20))
    with pytest.raises(PartialRestore):
        await restore(repository, root, tmp_path / "t", options=OURS)
    assert "large" not in tree(tmp_path / "t")


async def test_the_report_can_be_read_while_the_restore_runs(tmp_path: Path) -> None:
    repository = Breaking(1_000_000, None)
    report = RestoreReport()
    root = many_files(repository)
    same = await restore(repository, root, tmp_path / "t", options=OURS, report=report)
    assert same is report
    assert (report.directories, report.files, report.symlinks) == (6, 101, 0)
