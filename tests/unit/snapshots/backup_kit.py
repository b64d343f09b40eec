"""A small repository in memory, and what tests of backups do with it again and again."""

import asyncio
import errno
import os
import random
from contextlib import asynccontextmanager

import msgspec

from agent import _native
from agent.repository.create import CreateOptions, create_repository
from agent.repository.repository import OpenOptions, Repository
from agent.snapshots.directory import parse_directory
from agent.snapshots.model import DIRECTORY, Source
from agent.snapshots.policy import policy_labels
from agent.snapshots.progress import UploadProgress
from agent.snapshots.store import list_snapshots
from agent.snapshots.upload import UploadOptions, upload_tree
from agent.testing.memory_storage import MemoryStorage
from agent.volumes.tree_read import DirectoryReader, Unreadable

PASSWORD = "password"
SOURCE = Source("host", "user", "/data")
SPLITTER = "DYNAMIC-128K-BUZHASH"
BIG = random.Random(7).randbytes(1_500_000)


def new_blobs(**options):
    """The blobs of an empty repository whose chunks are small."""
    storage = MemoryStorage()

    async def put(labels, data):
        async with opened(storage) as (_, writer):
            await writer.put_manifest(labels, data)

    asyncio.run(create_repository(storage, PASSWORD, CreateOptions(**{"splitter": SPLITTER, **options}), put))
    return dict(storage.blobs)


def storage_with(blobs):
    storage = MemoryStorage()
    storage.blobs.update(blobs)
    storage.timestamps_ns.update(dict.fromkeys(blobs, 0))
    return storage


@asynccontextmanager
async def opened(storage, clock=None):
    options = OpenOptions() if clock is None else OpenOptions(clock=clock)
    async with Repository.open(storage, PASSWORD, options=options) as repo, repo.writer() as writer:
        yield repo, writer


async def back_up(storage, path, *, clock=None, cancellation=None, progress=None, source=SOURCE, **options):
    """One backup in a session of its own: the result, and the progress."""
    progress = progress or UploadProgress()
    async with opened(storage, clock) as (repo, writer):
        result = await upload_tree(
            repo,
            writer,
            source,
            str(path),
            options=UploadOptions(**{"parallel": 2, **options}),
            progress=progress,
            cancellation=cancellation,
        )
    return result, progress


async def snapshots(storage):
    async with Repository.open(storage, PASSWORD) as repo:
        return list_snapshots(repo.manifests).snapshots


async def contents_of(storage, root):
    """{path: (entry, bytes or None)} of everything below a root entry."""
    found = {}
    async with Repository.open(storage, PASSWORD) as repo:
        waiting = [("", root)]
        while waiting:
            path, entry = waiting.pop()
            if entry.type != DIRECTORY:
                found[path] = (entry, await repo.objects.read(entry.obj))
                continue
            found[path] = (entry, None)
            async for child in parse_directory(repo.objects.chunks(entry.obj)):
                waiting.append((f"{path}/{child.name}", child))
    return found


def fill(folder, files):
    """Make files from {path: bytes}, links from {path: str}, empty folders from {path: None}; times in the past."""
    for name, content in files.items():
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(path if content is None else os.path.dirname(path), exist_ok=True)
        if isinstance(content, str):
            os.symlink(content, path)
        elif content is not None:
            with open(path, "wb") as file:
                file.write(content)
            os.utime(path, ns=(0, 1_700_000_000_123_456_789))


def blobs_of(storage, prefix):
    return {blob_id for blob_id in storage.blobs if blob_id.startswith(prefix)}


async def put_policy(storage, data, path="/data"):
    async with opened(storage) as (_, writer):
        source = msgspec.structs.replace(SOURCE, path=path)
        await writer.put_manifest(policy_labels(source), msgspec.Raw(msgspec.json.encode(data)))


def deny(monkeypatch, *names, error=errno.EACCES):
    """These files cannot be read; permissions would not keep root away."""
    read_many = _native.read_many

    def read(fd, wanted, *arguments):
        found = read_many(fd, wanted, *arguments)
        return [error if name in names else item for name, item in zip(wanted, found, strict=True)]

    open_file = DirectoryReader.open_file
    monkeypatch.setattr(_native, "read_many", read)
    monkeypatch.setattr(
        DirectoryReader,
        "open_file",
        lambda self, name: Unreadable(name, error) if name in names else open_file(self, name),
    )
