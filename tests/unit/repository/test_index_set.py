"""All indexes as one: merged, refreshed, and steady while they change."""

import asyncio
import gc
import tracemalloc

import pytest
from msgspec.structs import replace

from agent.base.errors import CorruptIndex
from agent.repository.index_build import build_index
from agent.storage.base import BlobId, BlobMetadata
from tests.unit.repository.made_repository import MadeRepository


async def test_the_later_entry_wins_over_all_blobs_and_old_deletions_are_hidden() -> None:
    made = MadeRepository()
    [old] = made.pack("p1", [b"one"], time_s=100)
    newer = replace(old, pack=BlobId("p2"), time_s=200)
    [gone] = made.pack("p3", [b"two"], time_s=100)
    dropped = replace(gone, deleted=True, time_s=150)
    [kept] = made.pack("p4", [b"three"], time_s=100)
    marked = replace(kept, deleted=True, time_s=151)
    made.index([newer, gone])
    made.index([old, dropped, kept])
    made.index([marked])
    made.put("xw150", b"deletion-watermark")
    await made.index_set.refresh()
    wanted = [newer.content, gone.content, kept.content]
    assert made.index_set.find_many(wanted) == [newer, None, marked]
    assert [made.index_set.find(cid) for cid in wanted] == [newer, None, marked]
    assert list(made.index_set.iterate()) == sorted([newer, marked], key=lambda entry: entry.content)
    assert made.index_set.packs() == {"p2", "p4"}


async def test_a_refresh_fetches_only_what_is_new() -> None:
    made = MadeRepository()
    first = made.index(made.pack("p1", [b"one"]))
    await made.index_set.refresh()
    generation = made.index_set.generation
    second = made.index(made.pack("p2", [b"two"]))
    made.storage.gets.clear()
    await made.index_set.refresh()
    assert [name for name, _, _ in made.storage.gets] == [second]
    assert made.index_set.generation == generation + 1
    assert made.index_set.blob_ids == sorted([first, second])
    await made.index_set.refresh()
    assert made.index_set.generation == generation + 1


async def test_a_refresh_happens_only_when_the_last_one_is_old() -> None:
    made = MadeRepository()
    assert await made.index_set.refresh_if_older(900)
    assert not await made.index_set.refresh_if_older(900)
    made.clock.advance(900)
    assert await made.index_set.refresh_if_older(900)


async def test_a_blob_that_vanishes_between_listing_and_reading_is_listed_anew() -> None:
    made = MadeRepository()
    entries = made.pack("p1", [b"one"])
    stale = made.index(entries)
    listed = made.storage.list

    async def list_then_compact(prefix: str = ""):  # type: ignore[no-untyped-def]
        blobs = [blob async for blob in listed(prefix)]
        if stale in made.storage.blobs:
            del made.storage.blobs[stale]
            name, sealed = made.sealer.name_and_seal("xn0_", build_index(entries, 2) + b"z", "sff-c1")
            made.put(name, sealed)
        for blob in blobs:
            yield blob

    made.storage.list = list_then_compact  # type: ignore[method-assign]
    await made.index_set.refresh()
    assert made.index_set.find(entries[0].content) == entries[0]


async def test_blobs_that_never_stop_vanishing_end_in_an_error() -> None:
    made = MadeRepository()

    async def ghost(prefix: str = ""):  # type: ignore[no-untyped-def]
        yield BlobMetadata(BlobId("xn0_" + "0" * 32 + "-s1-c1"), 10, 0)

    made.storage.list = ghost  # type: ignore[method-assign]
    with pytest.raises(CorruptIndex, match="vanish"):
        await made.index_set.refresh()
    assert made.clock.monotonic() == pytest.approx(0.1 * (2**9 - 1))


async def test_a_damaged_index_blob_is_named_and_the_old_state_stays() -> None:
    made = MadeRepository()
    entries = made.pack("p1", [b"one"])
    made.index(entries)
    await made.index_set.refresh()
    bad = made.index(made.pack("p2", [b"two"]))
    made.storage.blobs[bad] = made.storage.blobs[bad][:-1]
    with pytest.raises(CorruptIndex, match=bad):
        await made.index_set.refresh()
    assert made.index_set.find(entries[0].content) == entries[0]


async def test_own_blobs_are_there_at_once_and_stay_until_a_later_listing() -> None:
    made = MadeRepository()
    entries = made.pack("p1", [b"one"])
    plaintext = build_index(entries, 2)
    listed = made.storage.list

    async def add_while_listing(prefix: str = ""):  # type: ignore[no-untyped-def]
        blobs = [blob async for blob in listed(prefix)]
        made.index_set.add([(BlobId("xn0_own"), plaintext)])
        for blob in blobs:
            yield blob

    made.storage.list = add_while_listing  # type: ignore[method-assign]
    await made.index_set.refresh()
    assert made.index_set.find(entries[0].content) == entries[0]
    made.storage.list = listed  # type: ignore[method-assign]
    await made.index_set.refresh()
    assert made.index_set.find(entries[0].content) is None


async def test_a_canceled_refresh_leaves_no_task_behind() -> None:
    made = MadeRepository()
    for number in range(20):
        made.index(made.pack(f"p{number}", [b"%d" % number]))
    task = asyncio.create_task(made.index_set.refresh())
    for _ in range(6):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await made.index_set.refresh()
    assert len(made.index_set.blob_ids) == 20


async def test_what_stays_in_memory_does_not_grow_with_the_number_of_contents() -> None:
    async def kept(count: int) -> int:
        made = MadeRepository()
        contents = made.pack("p1", [b"%d" % n for n in range(count)])
        made.index(contents)
        wanted = [entry.content for entry in contents[:200]]
        del contents
        tracemalloc.start()
        try:
            await made.index_set.refresh()
            assert all(made.index_set.find(cid) for cid in wanted)
            assert sum(1 for _ in made.index_set.iterate()) == count
            gc.collect()
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    await kept(200)
    few, many = await kept(200), await kept(6_000)
    assert abs(many - few) < 6_000 * 4
