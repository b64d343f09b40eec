"""Contents through a writer into storage and back."""

import asyncio
import os
import threading
from collections.abc import Callable
from unittest import mock

import pytest

from agent.base.errors import CanceledError, StorageError, UsageError
from agent.repository.ids import NO_PREFIX
from agent.repository.index_entry import IndexEntry
from agent.repository.index_read import MappedIndex
from agent.repository.pack import find_postamble, find_recovery_block
from agent.repository.session import session_of_blob
from agent.testing.clock import START_NS, VirtualClock
from agent.testing.memory_storage import MemoryStorage
from tests.unit.repository.writing_kit import FixedFormat, Kit, in_thread, make_format, open_kit

M = ord("m")
K = ord("k")


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - threads do what is waited for
            await asyncio.sleep(0.001)


def packs(storage: MemoryStorage, letter: str = "pq") -> list[str]:
    return [name for name in storage.blobs if name[0] in letter]


async def reopen(kit: Kit) -> Kit:
    return await open_kit(kit.parts.storage, kit.parts.formats)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_what_was_flushed_is_read_back_by_another_client(version: int) -> None:
    storage = MemoryStorage()
    kit = await open_kit(storage, FixedFormat(make_format(version=version)))
    data = [os.urandom(n) for n in (0, 1, 100, 5000, 70_000, 200_000)]
    async with kit.writer() as writer:
        ids = await in_thread(writer.write_contents, data)
        prefixed = await in_thread(writer.write_content, data[2], K)
    other = await reopen(kit)
    assert [await other.contents.get(cid) for cid in ids] == data
    assert await other.contents.get(prefixed) == data[2]
    assert prefixed[1:] == ids[2][1:]


async def test_a_writer_reads_its_own_contents_after_the_flush_without_downloading_its_index() -> None:
    storage = MemoryStorage()
    kit = await open_kit(storage)
    async with kit.writer() as writer:
        cid = await in_thread(writer.write_content, b"hello")
        assert kit.contents.find(cid) is None
        await writer.flush()
        assert await kit.contents.get(cid) == b"hello"


async def test_prefixed_contents_go_to_q_packs_and_the_rest_to_p_packs() -> None:
    storage = MemoryStorage()
    kit = await open_kit(storage)
    async with kit.writer() as writer:
        data = await in_thread(writer.write_content, b"data")
        directory = await in_thread(writer.write_content, b"directory", K)
    assert kit.contents.find(data).pack[0] == "p"
    assert kit.contents.find(directory).pack[0] == "q"
    assert len(packs(storage)) == 2


async def test_after_a_flush_only_packs_and_one_index_of_the_same_session_are_left() -> None:
    storage = MemoryStorage()
    kit = await open_kit(storage)
    async with kit.writer() as writer:
        await in_thread(writer.write_contents, [os.urandom(30_000) for _ in range(10)])
    names = sorted(storage.blobs)
    assert {name[0] for name in names} == {"p", "x"}
    assert len([name for name in names if name.startswith("xn0_")]) == 1
    assert len({session_of_blob(name) for name in names}) == 1


async def test_packs_are_closed_at_the_pack_size_and_never_exceed_it_by_more_than_one_content() -> None:
    storage = MemoryStorage()
    kit = await open_kit(storage, FixedFormat(make_format(max_pack_size=1 << 16)))
    async with kit.writer() as writer:
        await in_thread(writer.write_contents, [os.urandom(9000) for _ in range(50)])
    lengths = sorted(len(storage.blobs[name]) for name in packs(storage))
    assert all(length > 1 << 16 for length in lengths[1:])
    assert lengths[-1] < (1 << 16) + 9028 + 4096 + 2048


async def test_a_content_larger_than_pack_and_buffer_gets_a_pack_of_its_own() -> None:
    storage = MemoryStorage()
    kit = await open_kit(storage)
    big = os.urandom(3 << 20)
    async with kit.writer() as writer:
        cid = await in_thread(writer.write_content, big)
        await in_thread(writer.write_content, b"after")
    assert await kit.contents.get(cid) == big


async def test_an_equal_content_is_written_once_whether_pending_flushing_or_flushed() -> None:
    storage = MemoryStorage()
    kit = await open_kit(storage)
    async with kit.writer() as writer:
        first = await in_thread(writer.write_contents, [b"same", b"same"])
        await writer.flush()
        again = await in_thread(writer.write_content, b"same")
    assert {*first, again} == {first[0]}
    assert (writer.stats.contents_written, writer.stats.contents_deduplicated) == (1, 2)
    assert len(packs(storage)) == 1


async def test_two_threads_that_write_the_same_contents_write_each_once() -> None:
    storage = MemoryStorage()
    kit = await open_kit(storage)
    data = [b"%d" % n * 50 for n in range(500)]
    barrier = threading.Barrier(2)

    def write(order: list[bytes]) -> None:
        barrier.wait()
        for item in order:
            writer.write_content(item)

    async with kit.writer() as writer:
        await asyncio.gather(asyncio.to_thread(write, data), asyncio.to_thread(write, data[::-1]))
        assert writer.stats.contents_written == 500
    other = await reopen(kit)
    ids = await in_thread(lambda: [kit.parts.hasher(item) for item in data])
    assert [await other.contents.get(bytes(1) + digest) for digest in ids] == data


async def test_a_deleted_content_is_written_anew_and_wins_over_its_deletion() -> None:
    clock = VirtualClock(jump=False)
    storage = MemoryStorage(clock)
    kit = await open_kit(storage, clock=clock)
    async with kit.writer() as writer:
        cid = await in_thread(writer.write_content, b"phoenix")
        await writer.flush()
        old = kit.index.find(cid)
        await in_thread(writer._contents.delete_content, old)
        await writer.flush()
        assert kit.index.find(cid).deleted
        await in_thread(writer.write_content, b"phoenix")
        await writer.flush()
    entry = (await open_kit(storage, clock=clock)).index.find(cid)
    assert not entry.deleted
    assert entry.pack != old.pack
    assert entry.time_s == START_NS // 10**9 + 2


async def test_writing_a_content_again_takes_back_a_deletion_that_is_not_in_force_yet() -> None:
    clock = VirtualClock(jump=False)
    storage = MemoryStorage(clock)
    kit = await open_kit(storage, clock=clock)
    async with kit.writer() as writer:
        data = [b"phoenix", b"ashes", b"egg"]
        ids = await in_thread(writer.write_contents, data[:2])
        await writer.flush()
        for cid in ids:
            await in_thread(writer._contents.delete_content, kit.index.find(cid))
        assert await in_thread(writer.write_contents, [data[0], data[2], data[0]]) == [ids[0], mock.ANY, ids[0]]
        assert (writer.stats.contents_written, writer.stats.contents_deduplicated) == (4, 1)
    other = await open_kit(storage, clock=clock)
    assert [other.index.find(cid).deleted for cid in ids] == [False, True]
    assert other.index.find(ids[0]).time_s == START_NS // 10**9 + 2
    assert [await other.contents.get(ids[0])] == data[:1]


async def test_a_flush_of_deletions_only_writes_an_index_and_no_pack() -> None:
    storage = MemoryStorage()
    kit = await open_kit(storage)
    async with kit.writer() as writer:
        cid = await in_thread(writer.write_content, b"x")
        await writer.flush()
        before = set(storage.blobs)
        await in_thread(writer._contents.delete_content, kit.index.find(cid))
        await writer.flush()
    assert {name[:2] for name in set(storage.blobs) - before} == {"xn"}


async def test_a_flush_with_nothing_to_do_writes_nothing() -> None:
    storage = MemoryStorage()
    kit = await open_kit(storage)
    async with kit.writer() as writer:
        await writer.flush()
    assert not storage.blobs


async def test_every_pack_carries_a_postamble_and_local_index_that_say_what_the_index_says() -> None:
    storage = MemoryStorage()
    kit = await open_kit(storage)
    async with kit.writer() as writer:
        ids = await in_thread(writer.write_contents, [os.urandom(n * 700) for n in range(60)])
    recovered: dict[bytes, IndexEntry] = {}
    for name in packs(storage):
        blob = storage.blobs[name]
        postamble = find_postamble(blob[-8192:])
        assert postamble is not None
        assert postamble.offset % 4096 == 0
        sealed = blob[postamble.offset : postamble.offset + postamble.length]
        local = MappedIndex(kit.parts.cipher.open(sealed, postamble.iv))
        recovered |= {entry.content: entry for entry in local.entries()}
    assert recovered == {cid: kit.index.find(cid) for cid in ids}


async def test_packs_of_version_1_start_with_a_copy_of_the_format_blob() -> None:
    storage = MemoryStorage()
    kit = await open_kit(storage, FixedFormat(make_format(version=1)))
    async with kit.writer() as writer:
        await in_thread(writer.write_content, b"x")
    (name,) = packs(storage)
    assert find_recovery_block(storage.blobs[name], b"") == b'{"format": "blob"}'
    assert [blob[0] for blob in sorted(storage.blobs)] == ["n", "p"]


async def test_a_content_beyond_the_limit_of_indexes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.repository.content_writer.MAX_CONTENT_LENGTH", 1000)
    kit = await open_kit(MemoryStorage())
    with pytest.raises(UsageError, match="1001 bytes"):
        async with kit.writer() as writer:
            await in_thread(writer.write_content, bytes(1001))


class StuckStorage(MemoryStorage):
    """Puts of packs wait until `release` is set, and count how many wait at once."""

    def __init__(self) -> None:
        super().__init__()
        self.release = asyncio.Event()
        self.waiting = 0

    async def put(self, blob_id, data, *, if_absent=False, retention=None):  # type: ignore[no-untyped-def]
        if blob_id[0] == "p":
            self.waiting += 1
            await self.release.wait()
        await super().put(blob_id, data, if_absent=if_absent, retention=retention)


async def test_threads_wait_while_uploads_lag_and_go_on_when_they_do_not() -> None:
    storage = StuckStorage()
    kit = await open_kit(storage)
    async with kit.writer(parallel_uploads=2) as writer:
        data = [os.urandom(70_000) for _ in range(20)]
        task = asyncio.create_task(in_thread(lambda: [writer.write_content(item) for item in data]))
        await eventually(lambda: storage.waiting >= 2)
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not task.done()
        assert writer.stats.contents_written <= 3
        assert storage.waiting == 2
        storage.release.set()
        ids = await task
    assert [await kit.contents.get(cid) for cid in ids] == data


async def test_contents_that_arrive_during_a_flush_go_to_the_next_session_and_do_not_wait() -> None:
    storage = StuckStorage()
    kit = await open_kit(storage)
    async with kit.writer(parallel_uploads=2) as writer:
        first = await in_thread(writer.write_content, b"first")
        flush = asyncio.create_task(writer.flush())
        await eventually(lambda: storage.waiting > 0)
        second = await in_thread(writer.write_content, b"second")
        assert await in_thread(writer.write_content, b"first") == first
        assert not flush.done()
        storage.release.set()
        await flush
        assert kit.contents.find(first) and not kit.contents.find(second)
        await writer.flush()
    assert len({session_of_blob(name) for name in packs(storage)}) == 2
    assert await kit.contents.get(second) == b"second"


class BrokenStorage(MemoryStorage):
    """Every put of a blob that starts with `broken` fails."""

    broken = "p"

    async def put(self, blob_id, data, *, if_absent=False, retention=None):  # type: ignore[no-untyped-def]
        if blob_id.startswith(self.broken):
            raise StorageError(f"put of {blob_id} failed")
        await super().put(blob_id, data, if_absent=if_absent, retention=retention)


async def test_a_failing_put_reaches_flush_and_every_later_write_and_leaves_no_index() -> None:
    storage = BrokenStorage()
    kit = await open_kit(storage)
    with pytest.raises(StorageError, match="put of p"):
        async with kit.writer() as writer:
            await in_thread(writer.write_content, b"x")
            with pytest.raises(StorageError, match="put of p"):
                await writer.flush()
            with pytest.raises(StorageError, match="put of p"):
                await in_thread(writer.write_content, b"y")
            await writer.flush()
    assert not [name for name in storage.blobs if name[0] == "x"]


async def test_a_thread_that_waits_for_uploads_wakes_with_the_error_of_one() -> None:
    storage = BrokenStorage()
    kit = await open_kit(storage)
    with pytest.raises(StorageError, match="put of p"):
        async with kit.writer(parallel_uploads=1) as writer:
            await in_thread(lambda: [writer.write_content(os.urandom(70_000)) for _ in range(10)])


async def test_a_flush_that_failed_at_the_index_is_completed_by_the_next() -> None:
    storage = BrokenStorage()
    storage.broken = "x"
    kit = await open_kit(storage)
    async with kit.writer() as writer:
        cid = await in_thread(writer.write_content, b"x")
        with pytest.raises(StorageError, match="put of x"):
            await writer.flush()
        assert await in_thread(writer.write_content, b"x") == cid
        storage.broken = "-"
        await writer.flush()
        assert len(packs(storage)) == 1
    assert await (await reopen(kit)).contents.get(cid) == b"x"
    assert not [name for name in storage.blobs if name[0] == "s"]


async def test_leaving_the_block_with_an_error_raises_that_error_and_commits_nothing() -> None:
    storage = MemoryStorage()
    kit = await open_kit(storage)
    with pytest.raises(KeyError, match="mine"):
        async with kit.writer() as writer:
            await in_thread(writer.write_content, b"x")
            raise KeyError("mine")
    assert not storage.blobs
    with pytest.raises(CanceledError):
        writer.write_content(b"y", NO_PREFIX)


async def test_pending_entries_are_flushed_by_themselves_when_there_are_many() -> None:
    storage = MemoryStorage()
    kit = await open_kit(storage)
    async with kit.writer(flush_entries=100) as writer:
        ids = await in_thread(lambda: [writer.write_content(b"%d" % n) for n in range(100)])
        await eventually(lambda: kit.contents.find(ids[0]) is not None)
        ids += await in_thread(lambda: [writer.write_content(b"%d" % n) for n in range(100, 110)])
    assert all(kit.contents.find_many(ids))
    assert len([name for name in storage.blobs if name[0] == "x"]) > 1


async def test_pending_entries_are_flushed_by_themselves_after_ten_minutes() -> None:
    clock = VirtualClock(jump=False)
    storage = MemoryStorage(clock)
    kit = await open_kit(storage, clock=clock)
    async with kit.writer() as writer:
        cid = await in_thread(writer.write_content, b"x")
        await asyncio.sleep(0)
        clock.advance(599)
        for _ in range(50):
            await asyncio.sleep(0)
        assert kit.contents.find(cid) is None
        clock.advance(2)
        await eventually(lambda: kit.contents.find(cid) is not None)
