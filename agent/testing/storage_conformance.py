"""The `BlobStorage` contract as tests that any implementation has to pass.

Derive a class whose name starts with `Test` and give it a `storage` fixture of an empty storage (pytest-asyncio in auto
mode)::

    class TestMine(StorageConformance):
        @pytest.fixture
        async def storage(self): ...
"""

from __future__ import annotations

import asyncio
import os
from itertools import pairwise

import pytest

from agent.base.errors import BlobExists, BlobIdInvalid, BlobNotFound, BlobTooShort
from agent.storage.base import BlobId, BlobStorage

PACK = BlobId("p3c92c8baa4cf86d6bb6c295f1e7b6f10-sc5b5ef52f1dcd742147")
UNUSUAL_IDS = (
    "_",
    "a",
    "kopia.repository",
    "a" * 20,
    "a" * 21,
    "p" * 200,
    "xn0_3f33+aa-sdb2a010d51f76585147-c1",
    "n%2Fescaped%00percent-not-decoded",
    "q~!$&'()*,;=:@-._[]{}|^`<>\"#?",
    "P" + PACK[1:],
)


async def _ids(storage: BlobStorage, prefix: str = "") -> list[str]:
    return sorted([blob.blob_id async for blob in storage.list(prefix)])


class StorageConformance:
    """Semantics of `agent.storage.base.BlobStorage`, each test on an empty storage."""

    conditional_put = True
    """Whether the store keeps the promise of `if_absent`."""
    atomic_overwrite = True
    """Whether readers of a blob that is being replaced see the old or the new one."""
    many_keys = 1100
    """Blobs of the pagination test; more than one page of an S3 listing."""
    big = 9 << 20
    """Bytes of the large blob."""

    async def test_a_put_blob_is_read_listed_and_looked_up_at_once(self, storage: BlobStorage) -> None:
        await storage.put(PACK, [b"hello, ", bytearray(b"wor"), memoryview(b"ld")])
        assert bytes(await storage.get(PACK)) == b"hello, world"
        found = [blob async for blob in storage.list("p")]
        assert [(blob.blob_id, blob.length) for blob in found] == [(PACK, 12)]
        stat = await storage.stat(PACK)
        assert (stat.blob_id, stat.length) == (PACK, 12)
        # listings and look-ups may differ in precision, not by more
        assert abs(stat.timestamp_ns - found[0].timestamp_ns) < 1_000_000_000

    async def test_an_empty_blob_is_a_blob(self, storage: BlobStorage) -> None:
        await storage.put(BlobId("empty"), [])
        await storage.put(BlobId("empty2"), [b"", b""])
        assert bytes(await storage.get(BlobId("empty"))) == b""
        assert bytes(await storage.get(BlobId("empty"), 0, 0)) == b""
        assert (await storage.stat(BlobId("empty2"))).length == 0
        assert await _ids(storage) == ["empty", "empty2"]

    @pytest.mark.parametrize(
        ("offset", "length", "expected"),
        [(0, None, b"0123456789"), (3, None, b"3456789"), (0, 1, b"0"), (3, 4, b"3456"), (9, 1, b"9"), (4, 0, b"")],
    )
    async def test_exactly_the_asked_range_is_returned(
        self, storage: BlobStorage, offset: int, length: int | None, expected: bytes
    ) -> None:
        await storage.put(PACK, [b"0123456789"])
        assert bytes(await storage.get(PACK, offset, length)) == expected

    async def test_the_end_of_a_blob_is_a_range_without_bytes(self, storage: BlobStorage) -> None:
        await storage.put(PACK, [b"0123456789"])
        assert bytes(await storage.get(PACK, 10)) == b""
        assert bytes(await storage.get(PACK, 10, 0)) == b""

    @pytest.mark.parametrize(("offset", "length"), [(0, 11), (9, 2), (10, 1), (11, None), (11, 0), (5000, 5000)])
    async def test_a_range_beyond_the_end_is_refused(
        self, storage: BlobStorage, offset: int, length: int | None
    ) -> None:
        await storage.put(PACK, [b"0123456789"])
        with pytest.raises(BlobTooShort):
            await storage.get(PACK, offset, length)

    async def test_a_missing_blob_is_named(self, storage: BlobStorage) -> None:
        await storage.put(BlobId("other"), [b"x"])
        for call in (storage.get(PACK), storage.get(PACK, 1, 1), storage.get(PACK, 0, 0), storage.stat(PACK)):
            with pytest.raises(BlobNotFound, match=PACK):
                await call

    async def test_a_put_replaces(self, storage: BlobStorage) -> None:
        await storage.put(PACK, [b"long first version"])
        await storage.put(PACK, [b"second"])
        assert bytes(await storage.get(PACK)) == b"second"
        assert (await storage.stat(PACK)).length == 6

    async def test_put_if_absent_keeps_what_is_there(self, storage: BlobStorage) -> None:
        await storage.put(PACK, [b"first"], if_absent=True)
        if not self.conditional_put:
            return
        with pytest.raises(BlobExists, match=PACK):
            await storage.put(PACK, [b"second"], if_absent=True)
        assert bytes(await storage.get(PACK)) == b"first"

    async def test_of_many_conditional_puts_one_wins(self, storage: BlobStorage) -> None:
        if not self.conditional_put:
            return
        bodies = [bytes([65 + i]) * 5000 for i in range(8)]
        results = await asyncio.gather(
            *(storage.put(PACK, [body], if_absent=True) for body in bodies), return_exceptions=True
        )
        winners = [body for body, result in zip(bodies, results, strict=True) if result is None]
        assert len(winners) == 1
        assert all(isinstance(result, BlobExists) for result in results if result is not None)
        assert bytes(await storage.get(PACK)) == winners[0]

    async def test_deleted_blobs_are_gone_and_deleting_again_is_no_error(self, storage: BlobStorage) -> None:
        ids = [BlobId(f"p{i:032x}-s1") for i in range(5)]
        for blob_id in ids:
            await storage.put(blob_id, [b"x"])
        await storage.delete([ids[0], ids[2], BlobId("never-there")])
        await storage.delete([ids[0]])
        await storage.delete([])
        assert await _ids(storage) == [ids[1], ids[3], ids[4]]
        with pytest.raises(BlobNotFound):
            await storage.get(ids[0])

    async def test_listing_is_by_prefix(self, storage: BlobStorage) -> None:
        ids = [
            "kopia.repository",
            "kopia.blobcfg",
            *(f"{p}{i:032x}-s1" for p in ("p", "q", "xn0_", "xn1_") for i in (1, 2)),
        ]
        for blob_id in ids:
            await storage.put(BlobId(blob_id), [b"x"])
        for prefix in (
            "",
            "p",
            "x",
            "xn0_",
            "xn1_0000",
            "kopia.",
            "kopia.repository",
            "p" + "0" * 31 + "1",
            "nothing",
            "k",
        ):
            assert await _ids(storage, prefix) == sorted(i for i in ids if i.startswith(prefix))

    async def test_a_listing_of_many_pages_is_complete(self, storage: BlobStorage) -> None:
        ids = [BlobId(f"s{i:08x}{'0' * 16}-marker") for i in range(self.many_keys)]
        gate = asyncio.Semaphore(32)

        async def put(blob_id: BlobId) -> None:
            async with gate:
                await storage.put(blob_id, [b"m"])

        await asyncio.gather(*(put(blob_id) for blob_id in ids))
        assert await _ids(storage, "s") == ids
        await storage.delete(ids)
        assert await _ids(storage) == []

    async def test_a_listing_may_be_left_early(self, storage: BlobStorage) -> None:
        for i in range(5):
            await storage.put(BlobId(f"p{i:032x}-s1"), [b"x"])
        async for _ in storage.list("p"):
            break
        assert len(await _ids(storage)) == 5

    async def test_unusual_ids_round_trip(self, storage: BlobStorage) -> None:
        for blob_id in UNUSUAL_IDS:
            await storage.put(BlobId(blob_id), [blob_id.encode()])
        assert await _ids(storage) == sorted(UNUSUAL_IDS)
        for blob_id in UNUSUAL_IDS:
            assert bytes(await storage.get(BlobId(blob_id))) == blob_id.encode()
            assert (await storage.stat(BlobId(blob_id))).length == len(blob_id)
        await storage.delete([BlobId(blob_id) for blob_id in UNUSUAL_IDS])
        assert await _ids(storage) == []

    @pytest.mark.parametrize(
        "bad", ["", ".", "..", ".hidden", "a/b", "a\\b", "../up", "a\0b", "a b", "é", "a\n", "x" * 201]
    )
    async def test_ids_that_are_no_names_are_refused(self, storage: BlobStorage, bad: str) -> None:
        blob_id = BlobId(bad)
        for call in (
            storage.get(blob_id),
            storage.put(blob_id, [b""]),
            storage.stat(blob_id),
            storage.delete([blob_id]),
        ):
            with pytest.raises(BlobIdInvalid):
                await call

    async def test_times_are_the_storages_and_do_not_run_back(self, storage: BlobStorage) -> None:
        await storage.put(BlobId("first"), [b"x"])
        await storage.put(BlobId("second"), [b"x"])
        first, second = await storage.stat(BlobId("first")), await storage.stat(BlobId("second"))
        assert 0 < first.timestamp_ns <= second.timestamp_ns

    async def test_a_large_blob_of_many_buffers_round_trips(self, storage: BlobStorage) -> None:
        data = os.urandom(self.big)
        cuts = [0, 1, 4096, 100_000, 5 << 20, (5 << 20) + 1, len(data)]
        await storage.put(PACK, [memoryview(data)[a:b] for a, b in pairwise(cuts)])
        assert await storage.get(PACK) == data
        assert await storage.get(PACK, (5 << 20) - 7, 1 << 20) == data[(5 << 20) - 7 : (6 << 20) - 7]

    async def test_readers_never_see_a_part_of_a_blob(self, storage: BlobStorage) -> None:
        if not self.atomic_overwrite:
            return
        versions = [bytes([65 + i]) * (100_000 + i) for i in range(4)]
        await storage.put(PACK, [versions[0]])

        async def write() -> None:
            for version in versions:
                await storage.put(PACK, [version])

        async def read() -> None:
            for _ in range(8):
                assert await storage.get(PACK) in versions

        await asyncio.gather(write(), read(), read())

    async def test_a_canceled_put_leaves_all_or_nothing(self, storage: BlobStorage) -> None:
        data = bytearray(os.urandom(3 << 20))
        for rounds in (0, 1, 2, 5, 20):
            blob_id = BlobId(f"p{rounds:032x}-canceled")
            original = bytes(data)
            task = asyncio.ensure_future(storage.put(blob_id, [data]))
            for _ in range(rounds):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled() or task.exception() is None
            data[:] = os.urandom(len(data))  # the caller's again
            present = blob_id in await _ids(storage, "p")
            assert present or task.cancelled()
            if present:
                assert await storage.get(blob_id) == original

    async def test_a_canceled_get_leaves_the_storage_usable(self, storage: BlobStorage) -> None:
        await storage.put(PACK, [bytes(1 << 20)])
        for rounds in (0, 1, 3, 10):
            task = asyncio.ensure_future(storage.get(PACK))
            for _ in range(rounds):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert len(await storage.get(PACK)) == 1 << 20

    async def test_location_is_for_people(self, storage: BlobStorage) -> None:
        assert "://" in storage.location

    async def test_closing_twice_is_no_error(self, storage: BlobStorage) -> None:
        await storage.close()
        await storage.close()
