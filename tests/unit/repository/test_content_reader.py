"""Contents by id: planned by pack, fetched once, verified, and read from where they moved to."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.base.errors import ContentNotFound, CorruptContent, RepositoryError
from agent.repository.content_codec import IN_PLACE, ContentCodec
from agent.repository.content_reader import ContentReader, ReadLimits
from agent.repository.ids import ContentId
from agent.repository.index_entry import IndexEntry
from agent.repository.range_plan import RangeLimits, plan_ranges
from agent.storage.base import BlobId, Buffer
from tests.unit.repository.made_repository import CountingStorage, MadeRepository

ITEMS = [b"content %d " % number * 50 for number in range(30)]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5000), st.integers(0, 300)), max_size=40),
    st.builds(RangeLimits, st.integers(0, 200), st.integers(1, 2000), st.integers(1, 5), st.integers(1, 5000)),
)
def test_a_plan_covers_every_entry_once_within_its_bounds(
    rows: list[tuple[int, int, int]], limits: RangeLimits
) -> None:
    entries = [
        IndexEntry(ContentId(bytes((0, number))), BlobId(f"p{pack}"), offset, length, length, 1)
        for number, (pack, offset, length) in enumerate(rows)
    ]
    plan = plan_ranges(entries, limits)
    planned = [entry for piece in plan for entry in piece.entries]
    assert sorted(planned, key=lambda entry: entry.content) == entries
    for piece in plan:
        assert all(entry.pack == piece.pack for entry in piece.entries)
        assert min(entry.offset for entry in piece.entries) == piece.offset
        assert max(entry.offset + entry.packed_length for entry in piece.entries) == piece.offset + piece.length
        longest = max(limits.length, limits.length_of_few) if len(piece.entries) <= limits.few else limits.length
        assert len(piece.entries) == 1 or piece.length <= longest


def test_few_large_contents_come_together_and_many_small_ones_in_shorter_ranges() -> None:
    large = [IndexEntry(ContentId(b"\0L%d" % n), BlobId("p1"), n << 22, 1 << 22, 1 << 22, 1) for n in range(5)]
    small = [IndexEntry(ContentId(b"\0S%d" % n), BlobId("p2"), n << 19, 1 << 19, 1 << 19, 1) for n in range(20)]
    assert [len(piece.entries) for piece in plan_ranges(large)] == [4, 1]
    assert [len(piece.entries) for piece in plan_ranges(small)] == [8, 8, 4]


async def opened(made: MadeRepository) -> MadeRepository:
    await made.index_set.refresh()
    made.storage.gets.clear()
    made.storage.lists = 0
    return made


async def test_neighbours_come_in_one_request_and_each_byte_once() -> None:
    made = MadeRepository()
    made.index(made.pack("p1", ITEMS))
    made.index(made.pack("p2", [b"far one", b"far two"], gap=300_000))
    await opened(made)
    wanted = [made.cid(item) for item in [*ITEMS, b"far one", b"far two"]]
    got = dict([item async for item in made.contents.read_many([*reversed(wanted), *wanted])])
    assert got == dict(zip(wanted, [*ITEMS, b"far one", b"far two"], strict=True))
    assert sorted(name for name, _, _ in made.storage.gets) == ["p1", "p2", "p2"]


async def test_a_metadata_pack_is_fetched_whole_and_once() -> None:
    made = MadeRepository()
    made.index(made.pack("q1", ITEMS, prefix=ord("k")))
    await opened(made)
    cids = [made.cid(item, ord("k")) for item in ITEMS]
    assert made.contents.get_cached(cids[0]) is None
    assert await asyncio.gather(*map(made.contents.get, cids)) == ITEMS
    assert made.storage.gets == [("q1", 0, None)]
    assert made.contents.get_cached(cids[5]) == ITEMS[5]


async def test_what_is_damaged_in_a_cached_pack_is_taken_from_the_storage() -> None:
    made = MadeRepository()
    [entry] = made.pack("q1", [b"one"], prefix=ord("k"))
    made.index([entry])
    await opened(made)
    good = made.storage.blobs[BlobId("q1")]
    made.storage.blobs[BlobId("q1")] = good[:-1] + b"?"
    await made.packs.fetch(BlobId("q1"))
    assert made.contents.get_cached(entry.content) is None
    made.storage.blobs[BlobId("q1")] = good
    assert await made.contents.get(entry.content) == b"one"
    assert made.contents.get_cached(entry.content) == b"one"


async def test_contents_of_a_rewritten_pack_are_found_after_one_refresh() -> None:
    made = MadeRepository()
    made.index(made.pack("p1", ITEMS, time_s=100))
    await opened(made)
    del made.storage.blobs[BlobId("p1")]
    made.index(made.pack("p2", ITEMS, time_s=101))
    cids = [made.cid(item) for item in ITEMS]
    assert dict([item async for item in made.contents.read_many(cids)]) == dict(zip(cids, ITEMS, strict=True))
    assert await made.contents.get(cids[3]) == ITEMS[3]


async def test_a_lost_pack_costs_one_request_and_one_refresh_whatever_it_held() -> None:
    made = MadeRepository()
    made.index(made.pack("p1", ITEMS))
    await opened(made)
    del made.storage.blobs[BlobId("p1")]
    failed: dict[ContentId, RepositoryError] = {}
    cids = [made.cid(item) for item in ITEMS]
    for _ in range(2):
        assert [cid async for cid, _ in made.contents.read_many(cids, on_error=failed.__setitem__)] == []
    assert failed.keys() == set(cids)
    assert len(made.storage.gets) == 2
    assert made.storage.lists == 1


async def test_a_lost_pack_is_named_with_content_and_offset() -> None:
    made = MadeRepository()
    [entry] = made.pack("p1", [b"one"])
    made.index([entry])
    await opened(made)
    del made.storage.blobs[BlobId("p1")]
    with pytest.raises(ContentNotFound, match=rf"{entry.content[1:].hex()} \(pack p1 at {entry.offset}"):
        await made.contents.get(entry.content)
    with pytest.raises(ContentNotFound, match="in no index"):
        await made.contents.get(made.cid(b"never written"))


async def test_a_short_or_damaged_pack_costs_only_the_contents_it_hits() -> None:
    made = MadeRepository()
    entries = made.pack("p1", ITEMS)
    made.index(entries)
    await opened(made)
    blob = bytearray(made.storage.blobs[BlobId("p1")])
    blob[entries[4].offset + 5] ^= 1
    made.storage.blobs[BlobId("p1")] = bytes(blob[: entries[20].offset + 10])
    failed: dict[ContentId, RepositoryError] = {}
    cids = [entry.content for entry in entries]
    got = [cid async for cid, _ in made.contents.read_many(cids, on_error=failed.__setitem__)]
    assert got == [*cids[:4], *cids[5:20]]
    assert failed.keys() == {cids[4], *cids[20:]}
    assert all(type(error) is CorruptContent and "pack p1 at" in error.message for error in failed.values())
    with pytest.raises(CorruptContent):
        _ = [cid async for cid, _ in made.contents.read_many(cids)]


async def test_a_content_sealed_under_another_id_is_corrupt() -> None:
    made = MadeRepository()
    [entry] = made.pack("p1", [b"one"])
    claimed = made.hasher(b"two")
    made.put("p2", made.cipher.seal(b"one", claimed))
    wrong = IndexEntry(made.cid(b"two"), BlobId("p2"), 0, entry.packed_length, 3, 1)
    made.index([wrong])
    await opened(made)
    with pytest.raises(CorruptContent, match="other bytes"):
        await made.contents.get(wrong.content)


async def test_leaving_a_batched_read_early_leaves_no_task_behind() -> None:
    made = MadeRepository()
    for number, item in enumerate(ITEMS):
        made.index(made.pack(f"p{number}", [item]))
    await opened(made)
    stream = made.contents.read_many([made.cid(item) for item in ITEMS])
    assert (await anext(stream))[1] in ITEMS
    await stream.aclose()  # type: ignore[attr-defined]
    assert asyncio.all_tasks() == {asyncio.current_task()}


class OwnBuffers(CountingStorage):
    """Hands out buffers that the reader may overwrite, as folders and buckets do."""

    async def get(self, blob_id: BlobId, offset: int = 0, length: int | None = None) -> Buffer:
        return bytearray(await super().get(blob_id, offset, length))


async def test_large_contents_come_as_parts_of_their_range_and_equal_their_copies() -> None:
    repo = MadeRepository(OwnBuffers())
    items = [bytes([number]) * (IN_PLACE + number) for number in range(5)] + [b"small"]
    entries = repo.pack("p1", items)
    repo.index(entries)
    await repo.index_set.refresh()
    cids = [entry.content for entry in entries]
    views = {cid: data async for batch in repo.contents.read_views(cids) for cid, data in batch}
    copies = {cid: data async for batch in repo.contents.read_batches(cids) for cid, data in batch}
    assert {cid: bytes(data) for cid, data in views.items()} == copies == dict(zip(cids, items, strict=True))
    assert [isinstance(views[cid], memoryview) for cid in cids] == [True] * 5 + [False]


async def test_a_damaged_content_that_is_decrypted_in_place_costs_only_itself() -> None:
    repo = MadeRepository(OwnBuffers())
    items = [bytes([number]) * IN_PLACE for number in range(3)]
    entries = repo.pack("p1", items)
    repo.index(entries)
    await repo.index_set.refresh()
    blob = bytearray(repo.storage.blobs[BlobId("p1")])
    blob[entries[1].offset + 40] ^= 1
    repo.put("p1", bytes(blob))
    failed: list[ContentId] = []
    cids = [entry.content for entry in entries]
    views = repo.contents.read_views(cids, on_error=lambda cid, _: failed.append(cid))
    found = {cid: bytes(data) async for batch in views for cid, data in batch}
    assert found == {cids[0]: items[0], cids[2]: items[2]}
    assert failed == [cids[1]]


async def test_all_reads_together_keep_to_the_bytes_ahead() -> None:
    repo = MadeRepository()
    entries = [e for number in range(8) for e in repo.pack(f"p{number}", [bytes([number]) * 1000])]
    repo.index(entries)
    await repo.index_set.refresh()
    contents = ContentReader(
        repo.storage,
        repo.index_set,
        ContentCodec(repo.hasher, repo.cipher),
        repo.packs,
        ReadLimits(parallel=8, bytes_ahead=6500),
    )
    cids = [entry.content for entry in entries]
    first, second = contents.read_batches(cids[:4]), contents.read_batches(cids[4:])
    await anext(first)
    assert len(repo.storage.gets) == 3 + len(repo.index_set.blob_ids)
    await anext(second)
    assert len(repo.storage.gets) == 4 + len(repo.index_set.blob_ids)
    await first.aclose()
    await second.aclose()
    assert [len(batch) async for batch in contents.read_batches(cids)] == [1] * 8
