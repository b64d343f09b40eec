import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.base.errors import AccessDenied, BlobNotFound, BucketNotFound, StorageUnsupported, UsageError
from agent.storage.base import BlobId, Retention
from agent.storage.filesystem import FilesystemStorage
from agent.storage.limit import Limits
from agent.storage.open import open_storage

PACK = BlobId("p3c92c8baa4cf86d6bb6c295f1e7b6f10-sc5b5ef52f1dcd742147")


async def test_first_put_into_an_empty_folder_writes_kopias_default_layout(tmp_path: Path) -> None:
    storage = await open_storage(f"file://{tmp_path}")
    with pytest.raises(BlobNotFound):
        await storage.get(PACK)
    assert not os.listdir(tmp_path)
    await storage.put(PACK, [b"x"])
    assert (tmp_path / ".shards").read_text() == '{"default":[1,3],"maxNonShardedLength":20}\n'
    path = tmp_path / "p/3c9/2c8baa4cf86d6bb6c295f1e7b6f10-sc5b5ef52f1dcd742147.f"
    assert path.read_bytes() == b"x"
    assert path.stat().st_mode & 0o7777 == 0o600
    await storage.close()


async def test_a_location_without_shards_file_is_read_and_extended_in_its_own_layout(tmp_path: Path) -> None:
    (tmp_path / "p3c/92c").mkdir(parents=True)
    (tmp_path / f"p3c/92c/{PACK[6:]}.f").write_bytes(b"legacy")
    storage = await open_storage(f"file://{tmp_path}")
    assert await storage.get(PACK) == b"legacy"
    await storage.put(BlobId("q" + PACK[1:]), [b"new"])
    assert (tmp_path / f"q3c/92c/{PACK[6:]}.f").read_bytes() == b"new"
    assert not (tmp_path / ".shards").exists()
    await storage.close()


async def test_a_lost_shards_file_is_told_once_with_the_line_that_brings_it_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = await open_storage(f"file://{tmp_path}")
    await storage.put(PACK, [b"x"])
    assert not caplog.records
    shards = (tmp_path / ".shards").read_text()
    (tmp_path / ".shards").unlink()
    storage = await open_storage(f"file://{tmp_path}")
    assert await storage.get(PACK) == await storage.get(PACK) == b"x"
    (message,) = caplog.messages
    assert str(tmp_path) in message
    assert message.endswith(shards.strip())
    await storage.close()


async def test_golden_repository_lists_as_its_files_say(golden_repository: Callable[[str], Path]) -> None:
    root = next(golden_repository("small-v3").parent.rglob(".shards")).parent
    storage = await FilesystemStorage.open(str(root))
    expected = {
        str(path.relative_to(root)).replace("/", "").removesuffix(".f"): path.stat() for path in root.rglob("*.f")
    }
    listed = {blob.blob_id: blob async for blob in storage.list()}
    assert set(listed) == set(expected)
    for blob_id, stat in expected.items():
        assert (listed[BlobId(blob_id)].length, listed[BlobId(blob_id)].timestamp_ns) == (
            stat.st_size,
            stat.st_mtime_ns,
        )
        assert len(await storage.get(BlobId(blob_id))) == stat.st_size
    await storage.close()


@pytest.mark.parametrize("skipped", [0, 1])
@pytest.mark.parametrize("rest", [0, 1, 4095])
async def test_a_pack_is_written_whole_wherever_its_memory_begins_and_ends(
    tmp_path: Path, skipped: int, rest: int
) -> None:
    storage = await open_storage(f"file://{tmp_path}")
    memory = mmap.mmap(-1, (5 << 20) + 8192)
    memory[:] = os.urandom(256) * (len(memory) // 256)
    with memoryview(memory) as view, view[skipped : skipped + (5 << 20) + rest] as body:
        await storage.put(PACK, [body, b"tail"])
        assert await storage.get(PACK) == bytes(body) + b"tail"
    memory.close()
    await storage.close()


async def test_a_pack_whose_bytes_are_paced_is_written_whole(tmp_path: Path) -> None:
    stack = await open_storage(f"file://{tmp_path}")
    await stack.set_limits(Limits(upload_bytes=40e6))
    memory = mmap.mmap(-1, 9 << 20)
    memory[:] = os.urandom(512) * (len(memory) // 512)
    await stack.put(PACK, [memoryview(memory)])
    assert await stack.get(PACK) == memory[:]
    await stack.close()


@pytest.mark.parametrize("length", [4 << 20, (4 << 20) + 1, (9 << 20) + 4095])
async def test_a_large_range_comes_whole_in_memory_that_may_be_written_over(tmp_path: Path, length: int) -> None:
    storage = await open_storage(f"file://{tmp_path}")
    pack = os.urandom(length + 2)
    await storage.put(PACK, [pack])
    data = await storage.get(PACK, 1, length)
    assert data == pack[1:-1]
    assert not memoryview(data).readonly  # contents are decrypted where they lie
    await storage.close()


async def test_temporary_files_and_strangers_are_not_listed(tmp_path: Path) -> None:
    storage = await open_storage(f"file://{tmp_path}")
    await storage.put(PACK, [b"x"])
    (tmp_path / "p/3c9/x.f.tmp.0011223344556677").touch()
    (tmp_path / "a file.f").touch()
    (tmp_path / "README").touch()
    (tmp_path / "link.f").symlink_to("/etc/passwd")
    assert [blob.blob_id async for blob in storage.list()] == [PACK]
    await storage.close()


async def test_what_is_no_file_is_no_blob_and_is_not_waited_for(tmp_path: Path) -> None:
    storage = await open_storage(f"file://{tmp_path}")
    await storage.put(PACK, [b"x"])
    path = tmp_path / f"p/3c9/{PACK[4:]}.f"
    for make in (os.mkfifo, os.mkdir):
        path.unlink()
        make(path)
        for length in (None, 1):
            with pytest.raises(BlobNotFound):
                await storage.get(PACK, 0, length)
        assert [blob async for blob in storage.list()] == []
    await storage.close()


async def test_listing_enters_only_folders_that_can_match(tmp_path: Path) -> None:
    storage = await open_storage(f"file://{tmp_path}")
    await storage.put(PACK, [b"x"])
    await storage.put(BlobId("q" + PACK[1:]), [b"x"])
    (tmp_path / "q/3c9").chmod(0)
    (tmp_path / "q").rename(tmp_path / "gone")
    (tmp_path / "q").symlink_to("gone")
    assert [blob.blob_id async for blob in storage.list("p3")] == [PACK]
    (tmp_path / "gone/3c9").chmod(0o700)
    await storage.close()


async def test_no_temporary_file_is_left_after_a_failed_put(tmp_path: Path) -> None:
    storage = await open_storage(f"file://{tmp_path}")
    await storage.put(PACK, [b"x"])
    target = tmp_path / "kopia.maintenance.f"
    target.mkdir()
    with pytest.raises(Exception, match=r"kopia\.maintenance"):
        await storage.put(BlobId("kopia.maintenance"), [b"x"])
    assert sorted(os.listdir(tmp_path)) == [".shards", "kopia.maintenance.f", "p"]
    await storage.close()


async def test_a_missing_folder_is_no_bucket(tmp_path: Path) -> None:
    with pytest.raises(BucketNotFound, match="nowhere"):
        await open_storage(f"file://{tmp_path}/nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(BucketNotFound):
        await open_storage(f"file://{tmp_path}/file")
    storage = await open_storage(f"file://{tmp_path}/made/deeply", create=True)
    os.rmdir(tmp_path / "made/deeply")
    with pytest.raises(BucketNotFound):
        await storage.get(PACK)
    with pytest.raises(BucketNotFound):
        await storage.put(PACK, [b""])
    await storage.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
async def test_a_forbidden_folder_is_access_denied(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    try:
        with pytest.raises(AccessDenied):
            await open_storage(f"file://{tmp_path}")
    finally:
        tmp_path.chmod(0o700)


async def test_folders_cannot_lock_objects(tmp_path: Path) -> None:
    storage = await open_storage(f"file://{tmp_path}")
    with pytest.raises(StorageUnsupported, match="no object lock"):
        await storage.put(PACK, [b""], retention=Retention("COMPLIANCE", 0))
    await storage.close()


async def test_percent_escapes_in_the_url_are_the_paths_characters(tmp_path: Path) -> None:
    (tmp_path / "a b#c").mkdir()
    storage = await open_storage(f"file://{tmp_path}/a%20b%23c")
    assert storage.location == f"file://{tmp_path}/a b#c"
    await storage.close()


@pytest.mark.parametrize("url", ["file:relative", "file://host/path", "/plain", "ftp://x/y", "", "file:///a%00b"])
async def test_urls_that_cannot_be_understood_are_refused(url: str) -> None:
    with pytest.raises(UsageError):
        await open_storage(url)


async def test_temporary_files_of_crashed_writers_go_after_a_day(tmp_path: Path) -> None:
    folder = tmp_path / "p" / "3c9"
    folder.mkdir(parents=True)
    stem = "2c8baa4cf86d6bb6c295f1e7b6f10-s1.f"
    ages = {
        f"{stem}.tmp.0123456789abcdef": 25,
        f"{stem}.tmp.fedcba9876543210": 23,  # perhaps still being written
        f"{stem}.tmp.notes": 1000,  # not ours
        "old.f": 1000,
    }
    now = time.time()
    for name, hours in ages.items():
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (now - hours * 3600,) * 2)
    (tmp_path / ".shards").write_text('{"default":[1,3],"maxNonShardedLength":20}')
    storage = await FilesystemStorage.open(str(tmp_path))
    assert [blob.blob_id async for blob in storage.list("p")] == ["p3c9old"]
    assert len(list(folder.iterdir())) == 4  # readers leave them alone
    await storage.put(BlobId("p3c9" + "0" * 40), [b"new"])
    names = {path.name for path in folder.iterdir()}
    assert names == {*ages, "0" * 40 + ".f"} - {f"{stem}.tmp.0123456789abcdef"}
    await storage.close()
