"""Uses damaged repositories within a limit of memory.

    python -m tests.unit.fuzz.damaged_repositories FOLDER SEED ROUNDS

Each round damages something in a golden repository: stored bytes, or what a peer who has the password could have
written (an index, a directory, a list, a manifest), and then does everything a reader does. Only leaves of
`LighterageError` may come of it, after a bounded number of operations. A process of its own, since the limit stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import resource
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path

import msgspec

from agent.base.errors import LighterageError
from agent.repository import format_manager, kdf
from agent.repository.ids import content_text
from agent.repository.maintenance import MANIFEST_LABELS, parse_parameters, read_schedule
from agent.repository.repository import OpenOptions, Repository
from agent.snapshots.browse import list_entries
from agent.snapshots.restore import restore
from agent.snapshots.store import list_snapshots, list_sources
from agent.snapshots.verify import verify_snapshots
from agent.storage.filesystem import FilesystemStorage
from agent.testing.faulty_storage import FaultyStorage
from agent.testing.memory_storage import MemoryStorage
from tests.unit.fuzz.mutation import mutate

PASSWORD = "static-passw0rd"
MEMORY = 1 << 30
"""Bytes of address space beyond what is there at the start."""
OPERATIONS = 2_000


class Fuzz:
    """One golden repository and its ways to be damaged."""

    def __init__(self, blobs: dict[str, bytes]) -> None:
        self._blobs = blobs

    def storage(self) -> MemoryStorage:
        storage = MemoryStorage()
        storage.blobs.update(self._blobs)  # type: ignore[arg-type]
        storage.timestamps_ns.update(dict.fromkeys(self._blobs, 10**18))  # type: ignore[arg-type]
        return storage

    async def damaged(self, rng: random.Random) -> tuple[str, MemoryStorage]:
        """What was damaged, and the result."""
        way = rng.choice((self._bytes, self._index, self._directory, self._directory, self._list, self._manifest))
        storage = self.storage()
        return await way(rng, storage), storage

    async def _bytes(self, rng: random.Random, storage: MemoryStorage) -> str:
        name = rng.choice(sorted(storage.blobs))
        storage.blobs[name] = mutate(rng, storage.blobs[name])
        return f"bytes of {name}"

    async def _index(self, rng: random.Random, storage: MemoryStorage) -> str:
        async with Repository.open(storage, PASSWORD) as repo:
            name = rng.choice(list(repo.index.blob_ids))
            plaintext = mutate(rng, repo.sealer.open(name, storage.blobs.pop(name)))
            prefix = "n" if name.startswith("n") else "xn0_"
            other, sealed = repo.sealer.name_and_seal(
                prefix, plaintext, "s0011223344556677123-c1" if prefix != "n" else ""
            )
            storage.blobs[other] = bytes(sealed)  # type: ignore[index]
            storage.timestamps_ns[other] = 10**18  # type: ignore[index]
        return f"index {name}"

    async def _directory(self, rng: random.Random, storage: MemoryStorage) -> str:
        return await self._object(rng, storage, "k", "directory")

    async def _list(self, rng: random.Random, storage: MemoryStorage) -> str:
        return await self._object(rng, storage, "x", "list")

    async def _object(self, rng: random.Random, storage: MemoryStorage, prefix: str, what: str) -> str:
        async with Repository.open(storage, PASSWORD) as repo, repo.writer() as writer:
            snapshot = rng.choice(list_snapshots(repo.manifests).snapshots)
            assert snapshot.root is not None
            if prefix == "k":
                data = mutate(rng, await repo.objects.read(snapshot.root.obj))
                indirection = ""
            else:
                row = {"s": 0, "l": 100, "o": str(snapshot.root.obj)}
                rows = [{**row, "s": 100 * i} for i in range(rng.randint(0, 40))]
                data = mutate(rng, json.dumps({"stream": "kopia:indirect", "entries": rows}).encode())
                indirection = "I" * rng.randint(1, 3)
            cid = await asyncio.to_thread(writer.write_content, data, ord(prefix))
            manifest = repo.manifests.get(snapshot.id)
            stored = msgspec.json.decode(manifest.data)
            stored["rootEntry"]["obj"] = indirection + content_text(cid)
            await writer.put_manifest(manifest.labels, msgspec.Raw(msgspec.json.encode(stored)))
        return f"{what} of {snapshot.id}"

    async def _manifest(self, rng: random.Random, storage: MemoryStorage) -> str:
        async with Repository.open(storage, PASSWORD) as repo, repo.writer() as writer:
            manifest = rng.choice(repo.manifests.find({}))
            if rng.random() < 0.5:
                damaged = mutate(rng, bytes(manifest.data))
                with contextlib.suppress(LighterageError):
                    await writer.put_manifest(manifest.labels, msgspec.Raw(damaged))
            else:
                chosen = rng.choice(sorted(repo.manifests.contents))
                data = mutate(rng, await repo.contents.get(chosen))
                await asyncio.to_thread(writer.write_content, data, ord("m"))
        return f"manifest {manifest.id}"


async def use(storage: FaultyStorage, target: Path) -> None:
    """Everything a reader does. Raises what is not a named error."""
    for tolerant in (False, True):
        try:
            options = OpenOptions(ignore_damaged_manifests=tolerant, read_only=True)
            async with Repository.open(storage, PASSWORD, options=options) as repo:
                await _read(repo, target)
        except LighterageError as error:
            _check(error)


async def _read(repo: Repository, target: Path) -> None:
    try:
        await read_schedule(repo.storage, repo.format)
        for manifest in repo.manifests.find(MANIFEST_LABELS):
            parse_parameters(manifest.data)
    except LighterageError as error:
        _check(error)
    list_sources(repo.manifests)
    snapshots = list_snapshots(repo.manifests).snapshots
    await verify_snapshots(repo, snapshots)
    for number, snapshot in enumerate(snapshots):
        if snapshot.root is None:
            continue
        try:
            async for _ in list_entries(repo.objects, snapshot.root, recursive=True):
                pass
        except LighterageError as error:
            _check(error)
        try:
            await restore(repo, snapshot.root, str(target / f"{number}"))
        except LighterageError as error:
            _check(error)


def _check(error: LighterageError) -> None:
    assert error.code != "internal", error
    assert str(error)
    assert len(str(error)) < 20_000, "a message that nobody can read"


async def run(folder: str, seed: int, rounds: int) -> int:
    """How many rounds went wrong; each is told on stderr."""
    source = await FilesystemStorage.open(folder)
    blobs: dict[str, bytes] = {}
    async for blob in source.list():
        blobs[blob.blob_id] = bytes(await source.get(blob.blob_id))
    await source.close()
    fuzz, wrong = Fuzz(blobs), 0
    async with Repository.open(fuzz.storage(), PASSWORD):
        pass
    limit = _address_space() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in range(seed, seed + rounds):
        what, storage = await fuzz.damaged(random.Random(number))
        counted = FaultyStorage(storage)
        with tempfile.TemporaryDirectory() as target:
            try:
                await use(counted, Path(target))
                assert counted.operations <= OPERATIONS, f"{counted.operations} operations"
            except Exception:  # noqa: BLE001 - told, and the others are tried
                wrong += 1
                sys.stderr.write(f"---- seed {number}: {what}\n")
                traceback.print_exc()
    return wrong


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def main() -> None:
    """Exit status 1 when any round went wrong."""
    format_manager.derive_password_key = cache(kdf.derive_password_key)  # type: ignore[attr-defined]
    folder, seed, rounds = sys.argv[1:]
    sys.exit(bool(asyncio.run(run(folder, int(seed), int(rounds)))))


if __name__ == "__main__":
    main()
