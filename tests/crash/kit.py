"""A repository in memory, backups that may die in it, and what has to be true of it afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from agent.base.clock import Clock, SystemClock
from agent.repository.create import CreateOptions, create_repository
from agent.repository.repository import OpenOptions, Repository
from agent.repository.session import parse_marker
from agent.repository.writer import RepositoryWriter
from agent.snapshots.model import DIRECTORY, FILE, SYMLINK, Entry, Snapshot, Source
from agent.snapshots.progress import Cancellation, UploadProgress
from agent.snapshots.restore import restore
from agent.snapshots.store import list_snapshots
from agent.snapshots.tree import list_directory
from agent.snapshots.upload import UploadOptions, UploadResult, upload_tree
from agent.storage.base import BlobStorage
from agent.storage.filesystem import FilesystemStorage
from agent.testing.faulty_storage import Killed
from agent.testing.memory_storage import MemoryStorage
from agent.testing.trees import Seen, scan

PASSWORD = "static-passw0rd"
SOURCE = Source("default", "default", "/data")


@contextmanager
def dying() -> Iterator[None]:
    """Swallows the end of the process, however task groups wrapped it."""
    try:
        yield
    except BaseExceptionGroup as group:
        if group.split(Killed)[1] is not None:
            raise
    except Killed:
        pass


@asynccontextmanager
async def opened(
    storage: BlobStorage, *, cache_dir: Path | None = None, clock: Clock | None = None, password: str = PASSWORD
) -> AsyncIterator[Repository]:
    """The repository as a fresh process finds it."""
    options = OpenOptions(cache_dir=cache_dir, clock=clock or SystemClock())
    async with Repository.open(storage, password, options=options) as repo:
        yield repo


@asynccontextmanager
async def writing(
    storage: BlobStorage, *, cache_dir: Path | None = None, clock: Clock | None = None
) -> AsyncIterator[tuple[Repository, RepositoryWriter]]:
    async with opened(storage, cache_dir=cache_dir, clock=clock) as repo, repo.writer() as writer:
        yield repo, writer


async def create(storage: BlobStorage, **options: object) -> None:
    """An empty repository with small chunks."""

    async def put(labels: Mapping[str, str], data: msgspec.Raw) -> None:
        async with writing(storage) as (_, writer):
            await writer.put_manifest(labels, data)

    chosen = CreateOptions(**{"splitter": "DYNAMIC-128K-BUZHASH", **options})  # type: ignore[arg-type]
    await create_repository(storage, PASSWORD, chosen, put)


@dataclass
class Backup:
    """One backup in a session of its own."""

    storage: BlobStorage
    path: Path
    options: Mapping[str, object] = field(default_factory=dict)
    cache_dir: Path | None = None
    clock: Clock | None = None
    progress: UploadProgress = field(default_factory=UploadProgress)
    cancellation: Cancellation = field(default_factory=Cancellation)

    async def run(self) -> UploadResult:
        async with writing(self.storage, cache_dir=self.cache_dir, clock=self.clock) as (repo, writer):
            return await upload_tree(
                repo,
                writer,
                SOURCE,
                str(self.path),
                options=UploadOptions(**{"parallel": 2, **self.options}),  # type: ignore[arg-type]
                progress=self.progress,
                cancellation=self.cancellation,
            )


class Store(MemoryStorage):
    """All copies of one store stand at one place: what a client caches of one is good for the next."""

    @property
    def location(self) -> str:
        return "memory://store"


def copied(storage: MemoryStorage) -> Store:
    """Another store with the same blobs."""
    copy = Store()
    copy.blobs.update(storage.blobs)
    copy.timestamps_ns.update(storage.timestamps_ns)
    return copy


async def snapshots(repo: Repository) -> list[Snapshot]:
    found = list_snapshots(repo.manifests)
    assert not found.warnings
    return list(found.snapshots)


async def read_everything(repo: Repository) -> int:
    """Read and verify each object that any visible snapshot refers to; how many different ones there are."""
    waiting = [s.root for s in await snapshots(repo) if s.root is not None]
    seen = set()
    while waiting:
        entry = waiting.pop()
        if entry.obj in seen:
            continue
        seen.add(entry.obj)
        if entry.type == DIRECTORY:
            async for batch in list_directory(repo.objects, entry.obj, entry.name):
                waiting.extend(batch)
        else:
            length = len(await repo.objects.read(entry.obj))
            assert length == entry.size or entry.type == SYMLINK
    return len(seen)


async def whole_files(repo: Repository, snapshot: Snapshot | None) -> list[Entry]:
    """The files of a snapshot, without what a checkpoint keeps alive of those that were on their way."""
    found: list[Entry] = []
    waiting = [snapshot.root] if snapshot is not None and snapshot.root is not None else []
    while waiting:
        folder = waiting.pop()
        async for batch in list_directory(repo.objects, folder.obj, folder.name):
            waiting += [entry for entry in batch if entry.type == DIRECTORY]
            found += [entry for entry in batch if entry.type == FILE and not entry.name.startswith(".checkpointed.")]
    return found


async def check_markers(repo: Repository) -> None:
    """Every session marker left behind can be parsed, as maintenance of any client will."""
    async for marker in repo.storage.list("s"):
        parse_marker(repo.sealer.open(marker.blob_id, await repo.storage.get(marker.blob_id)), marker.blob_id)


async def restored(repo: Repository, snapshot: Snapshot, target: Path) -> dict[bytes, Seen]:
    assert snapshot.root is not None
    await restore(repo, snapshot.root, str(target))
    return scan(target)


async def check_survival(
    storage: BlobStorage,
    expected: Mapping[str, Mapping[bytes, Seen]],
    scratch: Path,
    *,
    cache_dir: Path | None = None,
) -> None:
    """A new client finds a whole repository with the `expected` snapshots: {id: what lay at its source}."""
    async with opened(storage, cache_dir=cache_dir) as repo:
        found = {s.id: s for s in await snapshots(repo)}
        for number, (mid, tree) in enumerate(expected.items()):
            target = scratch / f"restored-{number}"
            assert await restored(repo, found[mid], target) == tree
            await asyncio.to_thread(remove, target)
        await read_everything(repo)
        await check_markers(repo)


def remove(path: Path) -> None:
    """`rm -r`, whatever the modes."""
    for below in sorted(path.rglob("*"), reverse=True):
        if below.is_dir() and not below.is_symlink():
            below.rmdir()
        else:
            below.unlink()
    path.rmdir()


async def export(storage: MemoryStorage, folder: Path) -> None:
    """The same repository as a folder, so that another client can judge it."""
    target = await FilesystemStorage.open(str(folder), create=True)
    for blob_id, data in storage.blobs.items():
        await target.put(blob_id, [data])
    await target.close()
