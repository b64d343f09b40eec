"""Manifests: merged by time, found by label, and damage that is told to who asks."""

import gzip
import json

import pytest
from msgspec.structs import replace

from agent.base.errors import CorruptContent, CorruptManifest, ManifestNotFound
from agent.repository import manifests
from agent.repository.ids import ManifestId
from agent.repository.manifests import ManifestStore
from agent.storage.base import BlobId
from tests.unit.repository.made_repository import MadeRepository


def packed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def item(number: int, second: int, *, deleted: bool = False, **labels: str) -> dict[str, object]:
    return {
        "id": f"{number:032x}",
        "labels": None if deleted else {"type": "t", **labels},
        "modified": f"2026-01-01T00:00:{second:02}Z",
        **({"deleted": True} if deleted else {}),
        "data": None if deleted else {"second": second},
    }


def content(*items: dict[str, object]) -> bytes:
    return packed(json.dumps({"entries": items}).encode())


def put(made: MadeRepository, name: str, plaintext: bytes) -> None:
    made.index(made.pack(name, [plaintext], prefix=ord("m")))


async def load(made: MadeRepository, *, ignore_damaged: bool = False) -> ManifestStore:
    await made.index_set.refresh()
    store = ManifestStore(made.contents, ignore_damaged=ignore_damaged)
    await store.load()
    return store


def seconds(store: ManifestStore, **labels: str) -> list[int]:
    return [json.loads(manifest.data)["second"] for manifest in store.find(labels)]


async def test_the_latest_of_each_id_counts_and_tombstones_hide() -> None:
    made = MadeRepository()
    put(made, "q1", content(item(1, 5), item(2, 1, kind="a"), item(3, 9)))
    put(made, "q2", content(item(1, 7), item(2, 0), item(3, 8, deleted=True), item(4, 2)))
    put(made, "q3", content(item(4, 3, deleted=True)))
    store = await load(made)
    assert seconds(store) == [1, 7, 9]
    assert seconds(store, kind="a") == [1]
    assert seconds(store, kind="b") == []
    assert store.get(ManifestId(f"{2:032x}")).type == "t"
    with pytest.raises(ManifestNotFound):
        store.get(ManifestId(f"{4:032x}"))


async def test_a_reload_reads_only_new_contents() -> None:
    made = MadeRepository()
    put(made, "q1", content(item(1, 1)))
    store = await load(made)
    put(made, "q2", content(item(1, 2, deleted=True), item(2, 3)))
    await made.index_set.refresh()
    made.storage.gets.clear()
    await store.load()
    await store.load()
    assert made.storage.gets == [("q2", 0, None)]
    assert seconds(store) == [3]
    assert len(store.contents) == 2


async def test_contents_replaced_by_a_compaction_meanwhile_are_read_anew() -> None:
    made = MadeRepository()
    [old] = made.pack("q1", [content(item(1, 1))], prefix=ord("m"))
    made.index([old])
    await made.index_set.refresh()
    made.index([replace(old, deleted=True, time_s=old.time_s + 1)])
    put(made, "q2", content(item(1, 1), item(2, 2)))
    del made.storage.blobs[BlobId("q1")]
    store = ManifestStore(made.contents)
    await store.load()
    assert seconds(store) == [1, 2]
    assert store.damaged == ()


@pytest.mark.parametrize(
    "plaintext",
    [
        b"",
        b"not gzip",
        content(item(1, 1))[:-4],
        packed(b"{}"),
        packed(b"[]"),
        packed(b'{"entries":[],"more":{}}'),
        packed(b'{"entries":[{"id":1}]}'),
        content({**item(1, 1), "modified": "yesterday"}),
        content({**item(1, 1), "labels": {"type": 1}}),
    ],
)
async def test_a_content_that_makes_no_sense_is_raised_by_find_unless_ignored(plaintext: bytes) -> None:
    made = MadeRepository()
    put(made, "q1", plaintext)
    put(made, "q2", content(item(2, 2)))
    store = await load(made)
    with pytest.raises(CorruptManifest):
        store.find({})
    assert store.get(ManifestId(f"{2:032x}")).modified_ns > 0
    with pytest.raises(CorruptManifest):
        store.get(ManifestId("unknown"))
    lenient = await load(made, ignore_damaged=True)
    assert seconds(lenient) == [2]
    assert len(lenient.damaged) == 1


async def test_a_damaged_content_is_raised_by_find_until_it_is_well_again() -> None:
    made = MadeRepository()
    put(made, "q1", content(item(1, 1)))
    good = made.storage.blobs[BlobId("q1")]
    made.storage.blobs[BlobId("q1")] = good[:-1] + b"?"
    store = await load(made)
    with pytest.raises(CorruptContent):
        store.find({})
    made.storage.blobs[BlobId("q1")] = good
    await store.load()
    assert seconds(store) == [1]


async def test_a_content_that_never_ends_when_unpacked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "_MAX_LENGTH", 1 << 20)
    made = MadeRepository()
    put(made, "q1", packed(bytes(2 << 20)))
    store = await load(made)
    with pytest.raises(CorruptManifest, match="larger"):
        store.find({})


async def test_several_gzip_members_are_one_content() -> None:
    made = MadeRepository()
    text = json.dumps({"entries": [item(1, 1)]}).encode()
    put(made, "q1", packed(text[:20]) + packed(text[20:]))
    assert seconds(await load(made)) == [1]
