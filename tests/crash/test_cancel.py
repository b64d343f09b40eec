"""Canceled at any point: the work ends soon, keeps what was promised, and leaves nothing of itself behind."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.snapshots.model import INCOMPLETE_CANCELED, Snapshot
from agent.snapshots.progress import Cancellation, UploadProgress
from agent.storage.base import BlobId, Buffer, Retention
from agent.storage.filesystem import FilesystemStorage
from agent.testing.trees import Folder, noise, plant, scan, seeded
from tests.crash.kit import Backup, check_survival, create, opened, read_everything, restored, snapshots

MIB = 1 << 20
AFTER_CANCEL = 24 * MIB
"""Bytes that may still be read when somebody has canceled: what two readers have begun."""
ROUNDS = 6


@contextmanager
def leaving_nothing() -> Iterator[None]:
    """Nothing of what runs inside outlives it: no descriptor, thread or temporary file."""
    gc.collect()
    descriptors, threads = _descriptors(), set(threading.enumerate())
    temporary = set(os.listdir(tempfile.gettempdir()))
    yield
    for thread in set(threading.enumerate()) - threads:
        thread.join(60)
        assert not thread.is_alive(), thread
    gc.collect()
    left = {fd: what for fd, what in _descriptors().items() if descriptors.get(fd) != what}
    assert not left
    made = {name for name in set(os.listdir(tempfile.gettempdir())) - temporary if name.startswith("tmp")}
    assert not {name for name in made if _ours(Path(tempfile.gettempdir(), name))}


def _ours(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.getuid() and str(os.getpid()) in path.name
    except FileNotFoundError:
        return False


def _descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
    return found


async def _no_tasks_left() -> None:
    assert asyncio.all_tasks() == {asyncio.current_task()}


class CancelAt(UploadProgress):
    """Cancels when so many bytes were read, and counts what is read from then on."""

    def __init__(self, threshold: int) -> None:
        super().__init__()
        self.cancellation = Cancellation()
        self.bytes_after = 0
        self._threshold = threshold

    def read(self, count: int) -> None:
        super().read(count)
        if self.cancellation.is_canceled:
            self.bytes_after += count
        elif self.bytes_read >= self._threshold:
            self.cancellation.cancel()


class CountedStorage(FilesystemStorage):
    """Calls `on_operation` with the number of each put and get."""

    on_operation: Callable[[int], Awaitable[None]] | None = None
    operations = 0

    async def _count(self) -> None:
        self.operations += 1
        if self.on_operation is not None:
            await self.on_operation(self.operations)

    async def get(self, blob_id: BlobId, offset: int = 0, length: int | None = None) -> Buffer:
        await self._count()
        return await super().get(blob_id, offset, length)

    async def put(
        self,
        blob_id: BlobId,
        data: Sequence[Buffer],
        *,
        if_absent: bool = False,
        retention: Retention | None = None,
    ) -> None:
        await self._count()
        await super().put(blob_id, data, if_absent=if_absent, retention=retention)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    large = {b"large-%d" % n: noise(12 * MIB, n) for n in range(4)}
    plant(folder, Folder({**seeded(9, 600).entries, **large}))
    return folder


def test_a_canceled_backup_ends_soon_is_saved_as_incomplete_and_leaves_nothing(
    tmp_path: Path, data: Path, rng: random.Random
) -> None:
    total = sum(seen.size for seen in scan(data).values() if seen.kind == "f")

    async def round_of(number: int) -> None:
        storage = await FilesystemStorage.open(str(tmp_path / f"repository-{number}"), create=True)
        await create(storage)
        progress = CancelAt(rng.randrange(total - AFTER_CANCEL))
        patient = {"save_within": 600}  # disks of busy machines are slow
        backup = Backup(storage, data, patient, progress=progress, cancellation=progress.cancellation)
        result = await backup.run()
        assert progress.bytes_after <= AFTER_CANCEL
        assert result.snapshot.incomplete == INCOMPLETE_CANCELED
        async with opened(storage) as repo:
            assert [s.id for s in await snapshots(repo)] == [result.snapshot.id]
            await read_everything(repo)
        again = Backup(storage, data)
        whole = await again.run()
        assert result.snapshot.root is not None
        assert result.snapshot.root.summ is not None
        assert again.progress.files_cached == result.snapshot.root.summ.files + result.snapshot.root.summ.symlinks
        await check_survival(storage, {whole.snapshot.id: scan(data)}, tmp_path)
        await storage.close()
        await _no_tasks_left()

    for number in range(3):
        with leaving_nothing():
            asyncio.run(round_of(number))
        assert not list((tmp_path / f"repository-{number}").rglob("*.tmp.*"))


def test_a_backup_whose_task_is_canceled_leaves_nothing_and_can_be_done_again(
    tmp_path: Path, data: Path, rng: random.Random
) -> None:
    async def counted() -> int:
        storage = CountedStorage(str(tmp_path / "counted"))
        (tmp_path / "counted").mkdir()
        await create(storage)
        storage.operations = 0
        await Backup(storage, data).run()
        await storage.close()
        return storage.operations

    operations = asyncio.run(counted())

    async def round_of(number: int) -> None:
        folder = tmp_path / f"repository-{number}"
        folder.mkdir()
        storage = CountedStorage(str(folder))
        await create(storage)
        storage.operations = 0
        at = rng.randint(1, operations)

        async def cancel(operation: int) -> None:
            if operation == at:
                task.cancel()

        storage.on_operation = cancel
        task = asyncio.create_task(Backup(storage, data).run())
        await asyncio.wait([task])
        storage.on_operation = None
        assert task.cancelled() or task.exception() is None
        assert not list(folder.rglob("*.tmp.*"))
        whole = await Backup(storage, data, {"parallel": 1}).run()
        async with opened(storage) as repo:
            assert whole.snapshot.id in {s.id for s in await snapshots(repo)}
            await read_everything(repo)
        await storage.close()
        await _no_tasks_left()

    for number in range(ROUNDS):
        with leaving_nothing():
            asyncio.run(round_of(number))


def test_a_canceled_restore_leaves_nothing_and_is_resumed(tmp_path: Path, data: Path, rng: random.Random) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()

    async def prepared() -> Snapshot:
        storage = CountedStorage(str(folder))
        await create(storage)
        snapshot = (await Backup(storage, data).run()).snapshot
        await storage.close()
        return snapshot

    snapshot, wanted = asyncio.run(prepared()), scan(data)

    async def round_of(number: int) -> None:
        target = tmp_path / f"target-{number}"
        storage = CountedStorage(str(folder))
        async with opened(storage) as repo:
            begun, at = storage.operations, rng.randint(1, 16)

            async def cancel(operation: int) -> None:
                if operation - begun == at:
                    task.cancel()

            storage.on_operation = cancel
            task = asyncio.create_task(restored(repo, snapshot, target))
            await asyncio.wait([task])
            storage.on_operation = None
            assert task.cancelled() or task.result() == wanted
            assert await restored(repo, snapshot, target) == wanted
        await storage.close()
        await _no_tasks_left()

    for number in range(ROUNDS):
        with leaving_nothing():
            asyncio.run(round_of(number))
