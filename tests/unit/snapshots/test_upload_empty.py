"""Files without length: opened only where that may tell more."""

from pathlib import Path

import pytest

from agent import _native
from agent.volumes import tree_read
from agent.volumes.tree_read import DirectoryReader
from tests.unit.snapshots.backup_kit import back_up, contents_of, fill, new_blobs, put_policy

EXT4_SUPER_MAGIC = 0xEF53
PROC_SUPER_MAGIC = 0x9FA0
EMPTY_AND_NOT = {b"full": b"x", b"none": b"", b"sub/none": b""}


@pytest.fixture
def files_read(monkeypatch):
    """Names of the files that were opened to be stored."""
    read: list[bytes] = []
    read_many = _native.read_many

    def spy(fd, names, *arguments):
        read.extend(name for name in names if name != b"CACHEDIR.TAG")
        return read_many(fd, names, *arguments)

    monkeypatch.setattr(_native, "read_many", spy)
    return read


@pytest.fixture
def known(monkeypatch):
    """Root, on a local file system, wherever the tests run."""
    monkeypatch.setattr(_native, "file_system_magic", lambda fd: EXT4_SUPER_MAGIC)
    monkeypatch.setattr(tree_read, "_reads_everything", lambda: True)


@pytest.fixture(scope="module", params=[1, 3], ids=["compressed as objects", "compressed as contents"])
def blobs(request):
    return new_blobs(format_version=request.param)


@pytest.mark.usefixtures("known")
async def test_a_file_that_is_known_to_be_empty_is_stored_without_being_opened(tmp_path, files_read, storage):
    fill(tmp_path / "data", EMPTY_AND_NOT)
    await put_policy(storage, {"compression": {"compressorName": "zstd-fastest"}})
    result, progress = await back_up(storage, tmp_path / "data")
    assert files_read == [b"full"]
    found = await contents_of(storage, result.snapshot.root)
    files = {path: data for path, (_, data) in found.items() if data is not None}
    assert files == {"/full": b"x", "/none": b"", "/sub/none": b""}
    stats = result.snapshot.stats
    assert (stats.file_count, stats.non_cached_files, progress.files) == (3, 3, 3)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("what", ["file system", "rights", "mount"])
async def test_a_file_without_length_is_opened_where_that_may_tell_more(
    tmp_path, monkeypatch, files_read, storage, what
):
    fill(tmp_path / "data", EMPTY_AND_NOT)
    if what == "file system":
        monkeypatch.setattr(_native, "file_system_magic", lambda fd: PROC_SUPER_MAGIC)
    elif what == "rights":
        monkeypatch.setattr(tree_read, "_reads_everything", lambda: False)
    else:
        monkeypatch.setattr(DirectoryReader, "crosses_mount", lambda self, attributes: not attributes.is_directory)
    await back_up(storage, tmp_path / "data")
    assert sorted(files_read) == [b"full", b"none", b"none"]


async def test_files_whose_length_nobody_knows_are_backed_up(storage):
    folder = Path("/proc/sys/fs/inotify")
    expected = {f"/{path.name}": path.read_bytes() for path in folder.iterdir()}
    assert expected
    assert {path.stat().st_size for path in folder.iterdir()} == {0}
    result, _ = await back_up(storage, folder)
    found = await contents_of(storage, result.snapshot.root)
    assert {path: data for path, (_, data) in found.items() if data is not None} == expected
