"""Restoring block snapshots to image files."""

import os
from pathlib import Path

import pytest

from agent.base.errors import ContentNotFound, SnapshotError, TargetExists
from agent.snapshots import restore_plan
from agent.snapshots.model import Entry
from agent.snapshots.restore_device import restore_device
from agent.volumes.device import DeviceWriter
from tests.unit.snapshots.memory_repository import MemoryRepository

DATA = os.urandom(3 << 20) + bytes(8 << 20) + os.urandom(12345)


@pytest.fixture
def repository() -> MemoryRepository:
    return MemoryRepository()


def block(repository: MemoryRepository, name: str = "/host_pods/volume/dev") -> Entry:
    return repository.directory("", [repository.file(name, DATA, 1 << 20)])


@pytest.mark.parametrize("name", ["/host_pods/volume/dev", "..", "data"])
async def test_the_one_file_goes_to_the_image_whatever_its_name(
    repository: MemoryRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(restore_plan.Window.__init__, "__defaults__", (3, 1 << 30))
    image = tmp_path / "image"
    report = await restore_device(repository, block(repository, name), str(image))
    assert image.read_bytes() == DATA
    assert report.bytes == len(DATA)
    assert os.stat(image).st_blocks * 512 < 5 << 20


async def test_a_root_that_is_the_file_itself(repository: MemoryRepository, tmp_path: Path) -> None:
    await restore_device(repository, repository.file("x", b"all of it"), str(tmp_path / "image"))
    assert (tmp_path / "image").read_bytes() == b"all of it"


async def test_an_image_that_exists_is_overwritten_on_request_only(
    repository: MemoryRepository, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x" * (20 << 20))
    with pytest.raises(TargetExists):
        await restore_device(repository, block(repository), str(image))
    report = await restore_device(repository, block(repository), str(image), overwrite=True)
    assert image.read_bytes() == DATA
    assert (report.bytes, report.resumed_bytes) == (len(DATA), 0)


def blocks(count: int) -> bytes:
    """Distinct blocks of 4 KiB, a long run of zeros among them."""
    data = [n.to_bytes(2) * 2048 for n in range(1, count + 1)]
    data[count // 4 : count // 2] = [bytes(4096)] * (count // 4)
    return b"".join(data)


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight pieces a window."""
    monkeypatch.setattr(restore_plan.Window.__init__, "__defaults__", (8, 1 << 30))


@pytest.mark.usefixtures("small_windows")
async def test_a_killed_restore_goes_on_where_it_stopped(repository: MemoryRepository, tmp_path: Path) -> None:
    data = blocks(80)
    root = repository.directory("", [repository.file("x", data, 4096)])
    image = tmp_path / "image"
    done = 51 * 4096
    image.write_bytes(data[: done - 4096] + b"torn".ljust(4096, b"?"))
    os.truncate(image, len(data))
    report = await restore_device(repository, root, str(image), overwrite=True)
    assert image.read_bytes() == data
    assert report.resumed_bytes == (50 - 20) * 4096, "all that is there and no zeros"
    assert report.bytes == len(data) - report.resumed_bytes
    zeros = repository.content(bytes(4096))
    assert [repository.data[cid] for cid in repository.fetched if cid != zeros].count(data[:4096]) == 0
    assert len(repository.fetched) - repository.fetched.count(zeros) == 30


@pytest.mark.usefixtures("small_windows")
async def test_the_first_window_of_which_nothing_is_there_ends_the_looking(
    repository: MemoryRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = blocks(80)
    root = repository.directory("", [repository.file("x", data, 4096)])
    image = tmp_path / "image"
    image.write_bytes(b"?" * 4096 * 8 + data[4096 * 8 :])
    looked_at: list[int] = []
    read_at = DeviceWriter.read_at
    monkeypatch.setattr(
        DeviceWriter, "read_at", lambda self, at, length: (looked_at.append(at), read_at(self, at, length))[1]
    )
    report = await restore_device(repository, root, str(image), overwrite=True)
    assert image.read_bytes() == data
    assert (len(looked_at), report.resumed_bytes) == (8, 0)
    looked_at.clear()
    await restore_device(repository, root, str(tmp_path / "new"))
    assert looked_at == []


async def test_a_tree_is_refused(repository: MemoryRepository, tmp_path: Path) -> None:
    for entries in ([], [repository.file("a", b""), repository.file("b", b"")], [repository.directory("d", [])]):
        with pytest.raises(SnapshotError, match="block device"):
            await restore_device(repository, repository.directory("", entries), str(tmp_path / "image"))
    assert not (tmp_path / "image").exists()


async def test_a_missing_piece_ends_the_restore(repository: MemoryRepository, tmp_path: Path) -> None:
    root = block(repository)
    leaves = next(iter(repository.lists.values()))
    del repository.data[leaves[1].content]
    with pytest.raises(ContentNotFound):
        await restore_device(repository, root, str(tmp_path / "image"))
