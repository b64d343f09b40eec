"""Manifests: put, seen after the flush, tombstoned, compacted (§7.1, §14.15)."""

import gzip

import msgspec
import pytest

from agent.base.errors import CorruptManifest, ManifestNotFound, UsageError
from agent.repository.ids import ManifestId
from agent.repository.manifest_writer import encode_manifests
from agent.repository.manifests import Manifest
from agent.testing.memory_storage import MemoryStorage
from tests.unit.repository.writing_kit import Kit, in_thread, open_kit

LABELS = {"type": "snapshot", "path": "/a&b"}


async def manifests(kit: Kit) -> list[Manifest]:
    await kit.manifests.load()
    return kit.manifests.find({})


async def test_a_manifest_is_seen_after_the_flush_and_not_before() -> None:
    storage = MemoryStorage()
    kit = await open_kit(storage)
    async with kit.writer() as writer:
        mid = await writer.put_manifest(LABELS, {"b": [1, None], "a": "<x>"})
        assert not storage.blobs
        await writer.flush()
        other = await open_kit(storage)
        (found,) = await manifests(other)
    assert (found.id, dict(found.labels)) == (mid, LABELS)
    assert bytes(found.data) == b'{"a":"\\u003cx\\u003e","b":[1,null]}'


async def test_manifests_put_before_one_flush_share_a_content() -> None:
    storage = MemoryStorage()
    kit = await open_kit(storage)
    async with kit.writer() as writer:
        for n in range(5):
            await writer.put_manifest(LABELS, {"n": n})
        await writer.flush()
    assert len(await manifests(kit)) == 5
    assert len(kit.manifests.contents) == 1


async def test_what_a_manifest_refers_to_is_never_visible_later_than_the_manifest() -> None:
    storage = MemoryStorage()
    kit = await open_kit(storage)
    async with kit.writer() as writer:
        cid = await in_thread(writer.write_content, b"referred to")
        await writer.put_manifest(LABELS, {})
        await writer.flush()
    (index,) = [name for name in storage.blobs if name[0] == "x"]
    assert index in kit.index.blob_ids
    assert kit.index.find(cid) is not None


async def test_a_deleted_manifest_is_gone_after_the_flush() -> None:
    storage = MemoryStorage()
    kit = await open_kit(storage)
    async with kit.writer() as writer:
        mid = await writer.put_manifest(LABELS, {})
        await writer.flush()
        await writer.delete_manifest(mid)
        await writer.flush()
        with pytest.raises(ManifestNotFound):
            await writer.delete_manifest(mid)
    other = await open_kit(storage)
    assert await manifests(other) == []


async def test_a_manifest_deleted_before_its_flush_never_appears() -> None:
    kit = await open_kit(MemoryStorage())
    async with kit.writer() as writer:
        mid = await writer.put_manifest(LABELS, {})
        await writer.delete_manifest(mid)
        with pytest.raises(ManifestNotFound):
            await writer.delete_manifest(mid)
        await writer.flush()
    assert await manifests(kit) == []


async def test_an_unknown_manifest_cannot_be_deleted() -> None:
    kit = await open_kit(MemoryStorage())
    async with kit.writer() as writer:
        with pytest.raises(ManifestNotFound):
            await writer.delete_manifest(ManifestId("00" * 16))


async def test_a_manifest_without_a_type_is_refused() -> None:
    kit = await open_kit(MemoryStorage())
    async with kit.writer() as writer:
        with pytest.raises(UsageError, match="type"):
            await writer.put_manifest({"path": "/"}, {})


async def test_data_that_is_not_json_is_refused() -> None:
    kit = await open_kit(MemoryStorage())
    async with kit.writer() as writer:
        with pytest.raises(CorruptManifest):
            await writer.put_manifest(LABELS, msgspec.Raw(b'{"a":'))
        await writer.flush()
    assert await manifests(kit) == []


def test_manifests_are_the_json_that_kopia_writes() -> None:
    records = [
        Manifest(ManifestId("ab"), {"type": "policy", "a": "<"}, 1_700_000_000_500_000_000, msgspec.Raw(b'{"x": 1}')),
        Manifest(ManifestId("cd"), {}, 1_700_000_001_000_000_000, msgspec.Raw(b"null"), deleted=True),
    ]
    assert gzip.decompress(encode_manifests(records)).decode() == (
        '{"entries":[{"id":"ab","labels":{"a":"\\u003c","type":"policy"},"modified":"2023-11-14T22:13:20.5Z",'
        '"data":{"x":1}},{"id":"cd","labels":null,"modified":"2023-11-14T22:13:21Z","deleted":true,"data":null}]}\n'
    )


async def test_sixteen_contents_are_compacted_into_one_and_nothing_is_lost() -> None:
    storage = MemoryStorage()
    kit = await open_kit(storage)
    async with kit.writer() as writer:
        ids = []
        for n in range(15):
            ids.append(await writer.put_manifest(LABELS, {"n": n}))
            await writer.flush()
        assert not await writer.compact_manifests()
        await writer.delete_manifest(ids.pop())
        await writer.flush()
        before = len([name for name in storage.blobs if name[0] == "x"])
        assert await writer.compact_manifests()
        assert len([name for name in storage.blobs if name[0] == "x"]) == before + 1
    other = await open_kit(storage)
    assert sorted(item.id for item in await manifests(other)) == sorted(ids)
    assert len(other.manifests.contents) == 1
    assert not any(item.deleted for item in other.manifests._merged.values())


async def test_a_manifest_put_while_others_are_compacted_survives() -> None:
    storage = MemoryStorage()
    kit, second = await open_kit(storage), await open_kit(storage)
    async with kit.writer() as writer, second.writer() as rival:
        for n in range(16):
            await writer.put_manifest(LABELS, {"n": n})
            await writer.flush()
        await writer.put_manifest(LABELS, {"n": "pending"})
        await rival.put_manifest(LABELS, {"n": "rival"})
        await rival.flush()
        assert await writer.compact_manifests()
    other = await open_kit(storage)
    assert len(await manifests(other)) == 18


async def test_deletions_by_others_since_the_start_are_noticed_and_our_own_are_not() -> None:
    storage = MemoryStorage()
    kit = await open_kit(storage)
    async with kit.writer() as writer:
        cid = await in_thread(writer.write_content, b"x")
        await writer.flush()
        assert not await writer.contents_deleted_since(kit.parts.clock.now_ns())
        other = await open_kit(storage)
        async with other.writer() as rival:
            await in_thread(rival._contents.delete_content, other.index.find(cid))
        assert await writer.contents_deleted_since(kit.parts.clock.now_ns())
        assert kit.index.find(cid).deleted
