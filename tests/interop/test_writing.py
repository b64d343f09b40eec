"""What our writer writes, as a live kopia sees it."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.base.times import format_rfc3339
from agent.repository.ids import ObjectId
from agent.repository.repository import Repository
from agent.repository.writer import RepositoryWriter, WriterOptions
from agent.storage.filesystem import FilesystemStorage
from agent.testing.kopia_client import KopiaClient

pytestmark = pytest.mark.kopia
PASSWORD = "static-passw0rd"
SOURCE = {"hostname": "h", "username": "u", "path": "/data"}


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Repository]:
    async with Repository.open(FilesystemStorage(str(folder)), PASSWORD) as repository:
        yield repository


async def write_object(writer: RepositoryWriter, data: bytes, prefix: int = 0, compression: int = 0) -> ObjectId:
    def write() -> ObjectId:
        target = writer.new_object(prefix, compression)
        target.write(data)
        return target.finish()

    return await asyncio.to_thread(write)


async def save(writer: RepositoryWriter, files: dict[str, bytes], start_ns: int, compression: int = 0) -> str:
    """A snapshot of a flat directory, by hand."""
    time = format_rfc3339(start_ns)
    entries = []
    for name, data in sorted(files.items()):
        oid = await write_object(writer, data, 0, compression)
        entry = {"name": name, "type": "f", "mode": "0644", "size": len(data), "mtime": time, "obj": oid}
        entries.append({key: value for key, value in entry.items() if value != 0})
    size = sum(map(len, files.values()))
    summary = {"size": size, "files": len(files), "symlinks": 0, "dirs": 1, "maxTime": time, "numFailed": 0}
    directory = {"stream": "kopia:directory", "entries": entries, "summary": summary}
    root = await write_object(writer, json.dumps(directory).encode(), ord("k"), 0x1101)
    entry = {"name": "data", "type": "d", "mode": "0755", "mtime": time, "obj": root, "summ": summary}
    data = {
        "id": "",
        "source": {"host": "h", "userName": "u", "path": "/data"},
        "description": "",
        "startTime": time,
        "endTime": time,
        "stats": {"totalSize": size, "fileCount": len(files), "dirCount": 1},
        "rootEntry": entry,
    }
    return await writer.put_manifest({"type": "snapshot", **SOURCE}, data)


@pytest.mark.parametrize("version", ["1", "2", "3"])
async def test_kopia_verifies_lists_and_restores_what_we_wrote(
    kopia: Callable[..., KopiaClient], tmp_path: Path, version: str
) -> None:
    folder = tmp_path / "repository"
    client = kopia(folder).create(f"--format-version={version}")
    files = {
        "empty": b"",
        "small": b"hello",
        "text": b"some text " * 100_000,
        "large": os.urandom(30_000_000),
        **{f"many-{n}": os.urandom(n) for n in range(1, 300)},
    }
    async with opened(folder) as repository, repository.writer() as writer:
        mid = await save(writer, files, repository.options.clock.now_ns(), 0x1100)
        await writer.flush()
    client.run("content", "verify", "--full")
    client.run("snapshot", "verify", "--verify-files-percent=100")
    snapshots = client.json("snapshot", "list", "--all")
    assert [snapshot["id"] for snapshot in snapshots] == [mid]
    client.run("restore", mid, str(tmp_path / "out"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files
    assert client.run("index", "list").count("\n") >= 2
    client.run("index", "inspect", "--all")


async def test_indexes_lost_after_our_run_are_recovered_by_kopia_from_our_packs(
    kopia: Callable[..., KopiaClient], tmp_path: Path
) -> None:
    folder = tmp_path / "repository"
    client = kopia(folder).create()
    async with opened(folder) as repository, repository.writer() as writer:
        before = set(repository.index.blob_ids)
        mid = await save(writer, {"a": b"one", "b": os.urandom(3_000_000)}, repository.options.clock.now_ns())
        await writer.flush()
        lost = set(repository.index.blob_ids) - before
        await repository.storage.delete(sorted(lost))
    client.run("index", "recover", "--commit", "--dangerous-commands=enabled")
    client.run("content", "verify", "--full")
    assert [snapshot["id"] for snapshot in client.json("snapshot", "list", "--all")] == [mid]


async def test_kopia_s_maintenance_keeps_what_we_wrote_while_a_session_of_ours_is_open(
    kopia: Callable[..., KopiaClient], tmp_path: Path
) -> None:
    folder = tmp_path / "repository"
    client = kopia(folder).create()
    async with opened(folder) as repository, repository.writer(WriterOptions(parallel_uploads=3)) as writer:
        await save(writer, {"a": os.urandom(50_000_000)}, repository.options.clock.now_ns())
        client.run("maintenance", "run", "--full")
        await writer.flush()
        client.run("maintenance", "run", "--full")
        for n in range(17):
            await save(writer, {"a": b"%d" % n}, repository.options.clock.now_ns())
            await writer.flush()
        assert await writer.compact_manifests()
    client.run("snapshot", "verify", "--verify-files-percent=100")
    assert len(client.json("snapshot", "list", "--all")) == 18
    assert len(client.run("content", "list", "--prefix=m").splitlines()) < 5
