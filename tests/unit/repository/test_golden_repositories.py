"""Everything a real kopia wrote is read back: indexes, contents, manifests, every object of every snapshot."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from agent.base.times import parse_rfc3339
from agent.repository.index_read import MappedIndex
from agent.repository.repository import OpenOptions, Repository
from agent.storage.open import open_storage
from tests.unit.repository.golden_walk import Json, Walk, load_expected

REPOSITORIES = [
    "default-v3",
    "v1",
    "v2",
    "compressors",
    "compressors-v1",
    "ecc",
    "epochs",
    "legacy-v1",
    "upgraded-v1-to-v2",
    "upgraded-v1-to-v3",
    "password-changed",
    "retention-blobcfg",
    "incomplete",
    "small-v3",
    "small-v1",
    "algorithms/BLAKE2B-256_AES256",
    "algorithms/BLAKE2B-256-128_AES256",
    "algorithms/BLAKE2S-128_AES256",
    "algorithms/BLAKE2S-256_AES256",
    "algorithms/BLAKE3-256_AES256",
    "algorithms/BLAKE3-256-128_AES256",
    "algorithms/HMAC-SHA224_AES256",
    "algorithms/HMAC-SHA256_AES256",
    "algorithms/HMAC-SHA256-128_AES256",
    "algorithms/HMAC-SHA3-224_AES256",
    "algorithms/HMAC-SHA3-256_AES256",
    "algorithms/BLAKE2B-256-128_CHACHA20",
    "algorithms/HMAC-SHA3-224_CHACHA20",
    "algorithms/BLAKE3-256_CHACHA20",
    "algorithms/BLAKE2B-256-128_AES256_pbkdf2",
    "algorithms/HMAC-SHA256_CHACHA20_v1",
]


@asynccontextmanager
async def opened(folder: Path, expected: Json, options: OpenOptions | None = None) -> AsyncIterator[Repository]:
    storage = await open_storage(folder.as_uri())
    async with Repository.open(storage, expected["password"], options=options) as repository:
        yield repository
    await storage.close()


def check_contents(repository: Repository, expected: Json) -> None:
    assert repository.index.blob_ids == sorted(expected["active_index_blobs"])
    assert repository.index.watermark_s == expected["contents"]["watermark"]
    entries = list(repository.index.iterate())
    assert sum(not entry.deleted for entry in entries) == expected["contents"]["visible"]
    assert sum(entry.deleted for entry in entries) == expected["contents"]["deleted_still_present"]
    rows = {entry.content for blob_id in repository.index.blob_ids for entry in index_of(repository, blob_id).entries()}
    assert len(rows) - len(entries) == expected["contents"]["hidden_by_watermark"]
    contents = [entry.content for entry in entries]
    assert contents == sorted(contents)
    assert repository.index.find_many(contents) == entries
    assert [repository.index.find(content) for content in contents[:50]] == entries[:50]


def index_of(repository: Repository, blob_id: str) -> MappedIndex:
    return repository.index._loaded.indexes[blob_id]  # type: ignore[index]


def check_manifests(repository: Repository, expected: Json) -> None:
    found = {manifest.id: manifest for manifest in repository.manifests.find({"type": "snapshot"})}
    assert found.keys() == {snapshot["id"] for snapshot in expected["snapshots"]}
    for snapshot in expected["snapshots"]:
        manifest = found[snapshot["id"]]
        assert repository.manifests.get(manifest.id) is manifest
        assert manifest.labels == snapshot["labels"]
        assert manifest.modified_ns == parse_rfc3339(snapshot["modified"])
        data = msgspec.json.decode(manifest.data)
        assert data["rootEntry"]["obj"] == snapshot["root"]
        assert data["startTime"] == snapshot["startTime"]


@pytest.mark.check(43)
@pytest.mark.parametrize("name", REPOSITORIES)
async def test_a_repository_written_by_kopia_is_read_completely(golden: Path, golden_repository, name: str) -> None:
    expected = load_expected(golden, name)
    async with opened(golden_repository(name), expected) as repository:
        check_contents(repository, expected)
        check_manifests(repository, expected)
        walk = Walk(repository)
        for snapshot in expected["snapshots"]:
            assert await walk.differences(expected, snapshot) == []
        assert walk.errors == []


async def test_every_golden_algorithm_is_among_the_tests(golden: Path) -> None:
    names = {name.partition("/")[2] for name in REPOSITORIES if "/" in name}
    assert names == {item["repository"] for item in json.loads((golden / "repos/algorithms.expected.json").read_text())}


async def test_a_second_open_with_a_cache_folder_fetches_no_index_and_no_metadata(
    golden: Path, golden_repository, tmp_path: Path
) -> None:
    expected = load_expected(golden, "epochs")
    folder = golden_repository("epochs")
    options = OpenOptions(cache_dir=tmp_path / "cache")
    async with opened(folder, expected, options) as repository:
        for snapshot in expected["snapshots"]:
            assert await Walk(repository).differences(expected, snapshot) == []
    for blob in [*folder.glob("q/**/*.f"), *folder.glob("x/**/*.f")]:
        blob.write_bytes(b"only the cache knows better")
    async with opened(folder, expected, options) as repository:
        check_contents(repository, expected)
        check_manifests(repository, expected)


async def test_all_contents_are_read_in_batches_each_once(golden: Path, golden_repository) -> None:
    expected = load_expected(golden, "compressors")
    async with opened(golden_repository("compressors"), expected) as repository:
        wanted = [entry.content for entry in repository.index.iterate()]
        got = [cid async for cid, _ in repository.contents.read_many(wanted + wanted)]
        assert sorted(got) == wanted
        packs = [repository.contents.find(cid).pack for cid in got]  # type: ignore[union-attr]
        changes = sum(one != other for one, other in pairwise(packs))
        assert changes == len(set(packs)) - 1


async def test_extents_and_ranges_of_a_list_of_lists_agree_with_the_whole_object(
    golden: Path, golden_repository
) -> None:
    expected = load_expected(golden, "v2")
    oid = next(row["obj"] for row in expected["table"] if row["obj"].startswith("II"))
    async with opened(golden_repository("v2"), expected) as repository:
        whole = await repository.objects.read(oid)
        table = await repository.objects.extents(oid)
        assert table.length == len(whole)
        assert [extent.offset for extent in table] == [0, *(e.offset + e.length for e in table[:-1])]
        middle = table[len(table) // 2]
        assert table[table.number_at(middle.offset)] == middle
        start = middle.offset - 1000
        assert await repository.objects.read_range(oid, start, 300_000) == whole[start : start + 300_000]
        assert await repository.objects.read_range(oid, len(whole) - 7, 100) == whole[-7:]
        assert await repository.objects.read_range(oid, len(whole), 100) == b""
        assert b"".join([chunk async for chunk in repository.objects.chunks(oid)]) == whole
