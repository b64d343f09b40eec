"""The two sides of an interop test: our library behind plain calls, and what is asked of kopia again and again.

`Ours` opens the repository anew for each call, as separate commands would, so that nothing is remembered between them.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from agent.base.clock import SystemClock
from agent.repository.create import CreateOptions, create_repository
from agent.repository.ecc import new_cipher
from agent.repository.encryption import Cipher
from agent.repository.format_manager import FormatManager, change_password
from agent.repository.hashing import new_hasher
from agent.repository.ids import ManifestId
from agent.repository.index_commit import IndexCommitter
from agent.repository.repair import RepairParts, RepairReport, repair_index
from agent.repository.repository import OpenOptions, Repository
from agent.repository.sealer import BlobSealer
from agent.repository.session import new_session_id
from agent.repository.writer import RepositoryWriter
from agent.snapshots.model import DIRECTORY, Entry, Snapshot, Source
from agent.snapshots.progress import UploadProgress
from agent.snapshots.restore import RestoreOptions, restore
from agent.snapshots.restore_report import RestoreReport
from agent.snapshots.store import find_snapshot, forget_snapshots, list_snapshots
from agent.snapshots.tree import list_directory
from agent.snapshots.upload import UploadOptions, UploadResult, upload_tree
from agent.storage.filesystem import FilesystemStorage
from agent.testing.kopia_client import KopiaClient
from agent.testing.trees import Folder, Seen, plant, scan, stored_name

PASSWORD = "static-passw0rd"
T = TypeVar("T")


def source_of(path: Path) -> Source:
    """The source as which kopia backs a folder up, given the identity of `KopiaClient`."""
    return Source("default", "default", str(path))


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup of ours: what came of it and what it cost."""

    result: UploadResult
    new_bytes: int
    """Plaintext of contents that were not there before."""
    data_bytes_read: int

    @property
    def snapshot(self) -> Snapshot:
        return self.result.snapshot

    @property
    def root(self) -> str:
        assert self.snapshot.root is not None
        return str(self.snapshot.root.obj)


class Ours:
    """Our side of one repository folder."""

    def __init__(self, folder: Path, password: str = PASSWORD) -> None:
        self.folder = folder
        self.password = password

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Repository]:
        storage = await FilesystemStorage.open(str(self.folder))
        async with Repository.open(storage, self.password, options=OpenOptions()) as repo:
            yield repo

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[tuple[Repository, RepositoryWriter]]:
        async with self.opened() as repo, repo.writer() as writer:
            yield repo, writer

    def create(self, **options: object) -> Ours:
        async def put(labels: Mapping[str, str], data: msgspec.Raw) -> None:
            async with self.writing() as (_, writer):
                await writer.put_manifest(labels, data)

        async def run() -> None:
            storage = await FilesystemStorage.open(str(self.folder), create=True)
            await create_repository(storage, self.password, CreateOptions(**options), put)  # type: ignore[arg-type]

        asyncio.run(run())
        return self

    def back_up(self, path: Path, source: Source | None = None, **options: object) -> Backup:
        return asyncio.run(self.back_up_async(path, source, **options))

    async def back_up_async(self, path: Path, source: Source | None = None, **options: object) -> Backup:
        progress = UploadProgress()
        async with self.writing() as (repo, writer):
            result = await upload_tree(
                repo,
                writer,
                source or source_of(path),
                str(path),
                options=UploadOptions(**{"parallel": 2, **options}),  # type: ignore[arg-type]
                progress=progress,
            )
            return Backup(result, writer.stats.bytes_new, progress.bytes_read)

    def restore(self, snapshot: str, target: Path, **options: object) -> RestoreReport:
        async def run(repo: Repository) -> RestoreReport:
            root = find_snapshot(repo.manifests, snapshot).root
            assert root is not None
            return await restore(repo, root, str(target), options=RestoreOptions(**options))  # type: ignore[arg-type]

        return self.reading(run)

    def snapshots(self, source: Source | None = None) -> list[Snapshot]:
        async def run(repo: Repository) -> list[Snapshot]:
            found = list_snapshots(repo.manifests, source)
            assert not found.warnings
            return list(found.snapshots)

        return self.reading(run)

    def snapshot(self, mid: str) -> Snapshot:
        """One snapshot, whoever wrote it."""
        return next(snapshot for snapshot in self.snapshots() if snapshot.id == mid)

    def entries(self, root: Entry) -> dict[str, Entry]:
        """All entries below a root by path as stored, `""` for the root."""

        async def run(repo: Repository) -> dict[str, Entry]:
            found, waiting = {"": root}, [("", root)]
            while waiting:
                path, folder = waiting.pop()
                if folder.type != DIRECTORY:
                    continue
                async for batch in list_directory(repo.objects, folder.obj, path):
                    for entry in batch:
                        below = f"{path}/{entry.name}" if path else entry.name
                        assert below not in found
                        found[below] = entry
                        waiting.append((below, entry))
            return found

        return self.reading(run)

    def directory(self, oid: str) -> bytes:
        """A directory object as it stands."""
        return self.reading(lambda repo: repo.objects.read(oid))  # type: ignore[arg-type, return-value]

    def forget(self, ids: Iterable[str]) -> None:
        async def run() -> None:
            async with self.writing() as (repo, writer):
                await forget_snapshots(writer, [find_snapshot(repo.manifests, mid) for mid in ids])

        asyncio.run(run())

    def read_everything(self) -> int:
        """Read and verify each object of each snapshot; how many different ones there are."""

        async def run(repo: Repository) -> int:
            waiting = [s.root for s in list_snapshots(repo.manifests).snapshots if s.root is not None]
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
                    length = 0
                    async for chunk in repo.objects.chunks(entry.obj):
                        length += len(chunk)
                    assert length == entry.size or entry.type != "f"
            return len(seen)

        return self.reading(run)

    def put_manifest(self, labels: Mapping[str, str], data: bytes) -> ManifestId:
        async def run() -> ManifestId:
            async with self.writing() as (_, writer):
                return await writer.put_manifest(labels, msgspec.Raw(data))

        return asyncio.run(run())

    def change_password(self, new: str) -> None:
        async def run() -> None:
            await change_password(await FilesystemStorage.open(str(self.folder)), self.password, new)

        asyncio.run(run())
        self.password = new

    def repair_index(self) -> RepairReport:
        """Rebuild what the index lacks, with the index in any state."""

        async def run() -> RepairReport:
            storage, clock = await FilesystemStorage.open(str(self.folder)), SystemClock()
            form = (await FormatManager.load(storage, self.password)).format
            hasher = new_hasher(form.hash, form.secret)
            cipher: Cipher = new_cipher(
                form.encryption, form.master_key, ecc=form.ecc, overhead_percent=form.ecc_overhead_percent
            )
            sealer = BlobSealer(hasher, cipher)
            epochs = form.epoch_parameters
            committer = IndexCommitter(
                storage,
                sealer,
                clock,
                epochs=epochs.enabled,
                refresh_frequency_ns=epochs.epoch_refresh_frequency,
            )
            return await repair_index(
                RepairParts(storage, form, hasher, cipher, sealer),
                committer=committer,
                new_session=lambda: new_session_id(clock.now_ns(), os.urandom),
            )

        return asyncio.run(run())

    def reading(self, ask: Callable[[Repository], Awaitable[T]]) -> T:
        async def run() -> T:
            async with self.opened() as repo:
                return await ask(repo)

        return asyncio.run(run())


# ---- blobs ----


def blobs(folder: Path, prefix: str = "") -> dict[str, int]:
    """The blobs in a repository folder: {id: bytes}."""
    found = {}
    for path in folder.rglob("*.f"):
        name = "".join(path.relative_to(folder).parts).removesuffix(".f")
        if name.startswith(prefix):
            found[name] = path.stat().st_size
    return found


def blob_path(folder: Path, blob_id: str) -> Path:
    """The file that holds a blob."""
    for path in folder.rglob("*.f"):
        if "".join(path.relative_to(folder).parts).removesuffix(".f") == blob_id:
            return path
    raise KeyError(blob_id)


# ---- kopia ----


@dataclass(frozen=True, slots=True)
class TheirSnapshot:
    """What `kopia snapshot create --json` answers."""

    id: str
    root: str


class _Root(msgspec.Struct):
    obj: str


class _Manifest(msgspec.Struct, rename="camel"):
    id: str
    root_entry: _Root


def snapshot_by_kopia(kopia: KopiaClient, path: Path, *options: str) -> TheirSnapshot:
    """Let kopia back a folder up."""
    said = kopia.run("snapshot", "create", str(path), "--json", *options)
    found = msgspec.json.decode(said, type=_Manifest)
    return TheirSnapshot(found.id, found.root_entry.obj)


def snapshots_by_kopia(kopia: KopiaClient, *options: str) -> list[dict[str, object]]:
    """Every snapshot that kopia sees."""
    return msgspec.json.decode(
        kopia.run("snapshot", "list", "--all", "--incomplete", "--json", *options), type=list[dict[str, object]]
    )


def kopia_finds_no_fault(kopia: KopiaClient) -> None:
    """Every file of every snapshot read, every content read, every index understood."""
    kopia.run("snapshot", "verify", "--verify-files-percent=100")
    kopia.run("content", "verify", "--full")
    kopia.run("index", "inspect", "--all")


# ---- what must come back ----


def stored(seen: Mapping[bytes, Seen]) -> dict[str, Seen]:
    """What a backup of these keeps: names as stored, without pipes and sockets."""
    return {stored_name(path): entry for path, entry in seen.items() if entry.kind != "o"}


def restored_by_kopia(seen: Mapping[bytes, Seen]) -> dict[str, Seen]:
    """What kopia makes of a backup of these (§13.7): folders below the root get the newest time inside them, links
    have microseconds.
    """
    kept = stored(seen)
    newest = _newest_times(kept)
    found = {}
    for path, entry in kept.items():
        if entry.kind == "d" and path:
            found[path] = entry.aged(newest[path])
        else:
            found[path] = entry.aged(_microseconds(entry.mtime_ns)) if entry.kind == "s" else entry
    return found


def _newest_times(kept: Mapping[str, Seen]) -> dict[str, int]:
    """`summ.maxTime` of each folder (§7.3, §14.2)."""
    below: dict[str, list[str]] = {path: [] for path, entry in kept.items() if entry.kind == "d"}
    for path in kept:
        if path:
            below[path.rpartition("/")[0]].append(path)
    newest: dict[str, int] = {}
    for path in sorted(below, key=lambda p: p.count("/") if p else -1, reverse=True):
        inside = [kept[child].mtime_ns for child in below[path]]
        inside += [newest[child] for child in below[path] if child in below]
        newest[path] = max(0, *inside) if inside else kept[path].mtime_ns
    return newest


def _microseconds(ns: int) -> int:
    """Rounded as Go's `NsecToTimeval` does: up, but towards zero before 1970."""
    up = ns + 999
    return (up // 1000 if up >= 0 else -(-up // 1000)) * 1000


def by_stored_name(seen: Mapping[bytes, Seen]) -> dict[str, Seen]:
    """A scan of a restored tree: names are UTF-8 by now."""
    return {path.decode(): entry for path, entry in seen.items()}


def assert_same(found: Mapping[str, Seen], wanted: Mapping[str, Seen], *, ignoring: Collection[str] = ()) -> None:
    """Both scans are equal; else each difference is told."""
    lines = []
    for path in sorted(found.keys() | wanted.keys()):
        one, other = found.get(path), wanted.get(path)
        if one != other and path not in ignoring:
            lines.append(f"{path!r}:\n  is     {one}\n  wanted {other}")
    assert not lines, f"{len(lines)} of {len(wanted)} entries differ\n" + "\n".join(lines[:20])


def assert_entries_match(entries: Mapping[str, Entry], seen: Mapping[bytes, Seen]) -> None:
    """What directories say is what `os.lstat` said of the source."""
    wanted = {
        path: (e.kind, e.mode if e.kind != "s" else None, e.size if e.kind != "d" else None, e.mtime_ns, e.uid, e.gid)
        for path, e in stored(seen).items()
    }
    found = {
        path: (
            e.type,
            _posix_mode(e.mode) if e.type != "s" else None,
            e.size if e.type != "d" else None,
            e.mtime_ns,
            e.uid,
            e.gid,
        )
        for path, e in entries.items()
    }
    assert found == wanted


def _posix_mode(mode: int) -> int:
    """Go's permission bits as POSIX ones (§7.3)."""
    return (mode & 0o777) | (mode >> 23 & 1) << 11 | (mode >> 22 & 1) << 10 | (mode >> 20 & 1) << 9


def ago(days: float) -> str:
    """A `--start-time` so long before now."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time.time() - days * 86400))


def both_ways(ours: Ours, kopia: KopiaClient, place: Path, tree: Folder, *, same_objects: bool = True) -> None:
    """Back a tree up by both sides, which must come to the same object, and let each restore what the other wrote.

    Objects differ only where compressed bytes are hashed: two implementations of one compressor need not agree.
    """
    plant(place / "tree", tree)
    seen = scan(place / "tree")
    by_us = ours.back_up(place / "tree", Source("default", "default", "/by-us"))
    assert by_us.result.errors == 0
    by_kopia = snapshot_by_kopia(kopia, place / "tree")
    their_root = ours.snapshot(by_kopia.id).root
    assert their_root is not None
    assert_entries_match(ours.entries(their_root), seen)
    assert (by_us.root == by_kopia.root) == same_objects

    kopia.run("snapshot", "restore", by_us.snapshot.id, str(place / "by-kopia"))
    assert_same(by_stored_name(scan(place / "by-kopia")), restored_by_kopia(seen))
    ours.restore(by_kopia.id, place / "by-us")
    assert_same(by_stored_name(scan(place / "by-us")), stored(seen))
