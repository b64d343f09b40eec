"""Devices and images as one streaming file (§10.7, §14.17)."""

import asyncio
import random

import pytest

from agent.base.errors import SourceNotFound, SourceUnreadable
from agent.snapshots.model import INCOMPLETE_CANCELED, UNKNOWN_TIME
from agent.snapshots.progress import Cancellation, UploadProgress
from agent.snapshots.upload import UploadOptions
from agent.snapshots.upload_device import upload_device
from tests.unit.snapshots.backup_kit import SOURCE, contents_of, opened, snapshots

DATA = random.Random(3).randbytes(700_000)


@pytest.fixture
def image(tmp_path):
    """Data, a hole, zeros that are written, data, a hole."""
    path = tmp_path / "disk.img"
    with open(path, "wb") as file:
        file.write(DATA)
        file.seek(20_000_000)
        file.write(bytes(9_000_000) + DATA)
        file.truncate(60_000_123)
    return path


async def back_up_device(storage, path, *, cancellation=None, **options):
    progress = UploadProgress()
    async with opened(storage) as (repo, writer):
        result = await upload_device(
            repo,
            writer,
            SOURCE,
            str(path),
            options=UploadOptions(**{"parallel": 2, **options}),
            progress=progress,
            cancellation=cancellation,
        )
    return result, progress


async def test_for_velero_an_image_is_what_its_agent_would_have_stored(storage, image):
    result, progress = await back_up_device(storage, image, velero=True)
    found = await contents_of(storage, result.snapshot.root)
    root = found.pop("")[0]
    assert (root.name, root.mode, root.mtime_ns, root.uid) == (str(image), 0o777, UNKNOWN_TIME, 0)
    ((entry, data),) = found.values()
    assert (entry.name, entry.type, entry.mode) == (str(image), "f", 0o777)
    assert entry.mtime_ns == result.snapshot.start_ns == root.summ.max_time_ns
    assert data == image.read_bytes()
    assert entry.size == root.summ.size == 60_000_123
    assert progress.bytes_read < 20_000_000
    assert progress.bytes_hashed == 60_000_123
    async with opened(storage) as (_, writer):

        def write():
            target = writer.new_object()
            target.write(data)
            return target.finish()

        assert entry.obj == await asyncio.to_thread(write)
    stats = result.snapshot.stats
    assert (stats.file_count, stats.non_cached_files, stats.dir_count, stats.total_size) == (1, 1, 1, 60_000_123)


async def test_elsewhere_it_is_cut_into_blocks_and_padded(storage, image):
    result, _ = await back_up_device(storage, image)
    found = await contents_of(storage, result.snapshot.root)
    ((entry, data),) = [item for path, item in found.items() if path]
    assert (found[""][0].name, entry.name, entry.size) == ("disk.img", "disk.img", 60_000_123)
    assert data == image.read_bytes().ljust(58 << 20, b"\0")
    async with opened(storage) as (repo, _):
        extents = await repo.objects.extents(entry.obj)
    assert {extent.length for extent in extents} == {1 << 20}
    assert len({extent.content for extent in extents}) < 8


async def test_an_empty_image_is_one_empty_file(storage, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    result, _ = await back_up_device(storage, tmp_path / "empty", velero=True)
    assert result.snapshot.root.summ.files == 1
    assert [data for _, data in (await contents_of(storage, result.snapshot.root)).values()] == [None, b""]


async def test_checkpoints_are_replaced_by_the_snapshot(storage, image):
    result, _ = await back_up_device(storage, image, checkpoint_interval=0)
    assert await snapshots(storage) == (result.snapshot,)


async def test_a_canceled_run_is_saved_as_such(storage, image):
    cancellation = Cancellation()
    cancellation.cancel()
    result, _ = await back_up_device(storage, image, cancellation=cancellation)
    (snapshot,) = await snapshots(storage)
    assert snapshot == result.snapshot
    assert (snapshot.incomplete, snapshot.root.summ.files) == (INCOMPLETE_CANCELED, 0)


async def test_what_is_no_device_is_refused(storage, tmp_path):
    with pytest.raises(SourceNotFound):
        await back_up_device(storage, tmp_path / "no")
    with pytest.raises(SourceUnreadable):
        await back_up_device(storage, tmp_path)
    assert await snapshots(storage) == ()
