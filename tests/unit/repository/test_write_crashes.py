"""The writer dies, is canceled, or shares the repository: what was flushed stays whole, the rest leaves no damage."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agent.repository.ids import ContentId
from agent.repository.session import parse_marker
from agent.testing.faulty_storage import FaultyStorage, KillAt, Killed
from agent.testing.memory_storage import MemoryStorage
from tests.unit.repository.writing_kit import Kit, in_thread, open_kit

OLD = [b"old %d" % n * 50 for n in range(20)]
LABELS = {"type": "snapshot"}


async def read_all(kit: Kit) -> dict[ContentId, bytes]:
    """Every content that any index names, read and verified; every marker parsed as maintenance parses it."""
    found = {}
    for entry in kit.index.iterate():
        assert entry.pack in kit.parts.storage.blobs, "an index refers to a missing pack"  # type: ignore[attr-defined]
        if not entry.deleted:
            found[entry.content] = await kit.contents.get(entry.content)
    async for marker in kit.parts.storage.list("s"):
        sealed = await kit.parts.storage.get(marker.blob_id)
        parse_marker(kit.parts.sealer.open(marker.blob_id, sealed), marker.blob_id)
    return found


def new_data(seed: int) -> list[bytes]:
    return [b"new %d %d " % (seed, n) * 1500 for n in range(12)]


async def small_backup(kit: Kit, seed: int, flushed: list[int]) -> None:
    """Two flushes with contents in several packs, a manifest, a deletion."""
    async with kit.writer(parallel_uploads=2) as writer:
        for part in (0, 1):
            await in_thread(writer.write_contents, new_data(seed * 10 + part))
            await in_thread(writer.write_content, b"directory %d" % part, ord("k"))
            await writer.put_manifest(LABELS, {"seed": seed, "part": part})
            await writer.flush()
            flushed.append(part)


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


class SlowPacks(MemoryStorage):
    """Packs take longer to arrive than anything else, so that whoever does not wait for them is found out."""

    async def put(self, blob_id, data, *, if_absent=False, retention=None):  # type: ignore[no-untyped-def]
        if blob_id[0] in "pq":
            await asyncio.sleep(0.005)
        await super().put(blob_id, data, if_absent=if_absent, retention=retention)


async def old_repository() -> MemoryStorage:
    storage = SlowPacks()
    kit = await open_kit(storage)
    async with kit.writer() as writer:
        await in_thread(writer.write_contents, OLD)
        await writer.put_manifest(LABELS, {"old": True})
        await writer.flush()
    return storage


@pytest.mark.parametrize("after_effect", [False, True])
async def test_killed_at_any_storage_operation_nothing_flushed_is_lost_and_the_next_run_completes(
    after_effect: bool,
) -> None:
    operation = 0
    while True:
        inner = await old_repository()
        storage = FaultyStorage(inner, kill_at=KillAt(operation, after_effect=after_effect))
        flushed: list[int] = []
        finished = False
        with dying():
            await small_backup(await open_kit(storage), 1, flushed)
            finished = True
        kit = await open_kit(inner)
        contents = await read_all(kit)
        await kit.manifests.load()
        manifests = [bytes(item.data) for item in kit.manifests.find(LABELS)]
        assert b'{"old":true}' in manifests
        for item in OLD:
            assert contents[ContentId(b"\0" + kit.parts.hasher(item))] == item
        for part in (0, 1):
            visible = b'{"part":%d,"seed":1}' % part in manifests
            assert visible or part not in flushed
            if visible:
                for item in new_data(10 + part):
                    assert contents[ContentId(b"\0" + kit.parts.hasher(item))] == item
        again: list[int] = []
        await small_backup(kit, 1, again)
        assert again == [0, 1]
        if finished:
            break
        operation += 1
    assert operation > 12


async def test_canceled_at_any_storage_operation_the_writer_ends_at_once_and_nothing_flushed_is_lost() -> None:
    operation = 0
    finished = False
    while not finished:
        inner = await old_repository()

        class Canceling(FaultyStorage):
            """Cancels the backup when it comes to the operation, which then never ends."""

            async def put(self, blob_id, data, *, if_absent=False, retention=None):  # type: ignore[no-untyped-def]
                await self.perhaps_cancel()
                await super().put(blob_id, data, if_absent=if_absent, retention=retention)

            async def delete(self, blob_ids):  # type: ignore[no-untyped-def]
                await self.perhaps_cancel()
                await super().delete(blob_ids)

            async def perhaps_cancel(self) -> None:
                self.count = getattr(self, "count", -1) + 1
                if self.count == operation:  # noqa: B023 - used within the round
                    backup.cancel()  # noqa: B023
                    await asyncio.Event().wait()

        kit = await open_kit(Canceling(inner))
        flushed: list[int] = []
        backup = asyncio.create_task(small_backup(kit, 1, flushed))
        async with asyncio.timeout(60):
            await asyncio.wait([backup])
        finished = not backup.cancelled()
        other = await open_kit(inner)
        contents = await read_all(other)
        for part in flushed:
            for item in new_data(10 + part):
                assert contents[ContentId(b"\0" + kit.parts.hasher(item))] == item
        operation += 1
    assert backup.exception() is None
    assert operation > 10


async def test_a_canceled_flush_is_completed_by_the_next() -> None:
    storage = MemoryStorage()
    kit = await open_kit(storage)
    for rounds in range(40):
        async with kit.writer() as writer:
            cid = await in_thread(writer.write_content, b"round %d" % rounds)
            await writer.put_manifest(LABELS, {"round": rounds})
            flush = asyncio.create_task(writer.flush())
            for _ in range(rounds):
                await asyncio.sleep(0)
            flush.cancel()
            await asyncio.wait([flush])
            await writer.flush()
            assert await kit.contents.get(cid) == b"round %d" % rounds
    assert not [name for name in storage.blobs if name[0] == "s"]
    other = await open_kit(storage)
    await read_all(other)
    await other.manifests.load()
    assert len({bytes(item.data) for item in other.manifests.find(LABELS)}) == 40


async def test_two_writers_at_once_both_keep_everything() -> None:
    storage = MemoryStorage()
    kits = [await open_kit(storage), await open_kit(storage)]
    shared = [b"shared %d" % n * 300 for n in range(60)]

    async def backup(kit: Kit, number: int) -> None:
        async with kit.writer(parallel_uploads=1) as writer:
            for n in range(0, 60, 10):
                await in_thread(writer.write_contents, [*shared[n : n + 10], *new_data(number * 100 + n)])
                await writer.put_manifest(LABELS, {"writer": number, "n": n})
                await writer.flush()

    async with asyncio.TaskGroup() as tasks:
        for number, kit in enumerate(kits):
            tasks.create_task(backup(kit, number))
    other = await open_kit(storage)
    contents = await read_all(other)
    for item in [*shared, *(item for w in (0, 1) for n in range(0, 60, 10) for item in new_data(w * 100 + n))]:
        assert contents[ContentId(b"\0" + other.parts.hasher(item))] == item
    await other.manifests.load()
    assert len(other.manifests.find(LABELS)) == 12
    assert not [name for name in storage.blobs if name[0] == "s"]


class WritingMachine(RuleBasedStateMachine):
    """Writes, deletes, flushes, crashes and reopens in any order, against a dict."""

    @initialize()
    def start(self) -> None:
        self.runner = asyncio.Runner()
        self.storage = MemoryStorage()
        self.committed: dict[ContentId, bytes] = {}
        self.pending: dict[ContentId, bytes | None] = {}
        self.run(self.reopen())

    def run(self, what):  # type: ignore[no-untyped-def]
        return self.runner.run(what)

    async def reopen(self) -> None:
        self.kit = await open_kit(self.storage)
        self.block = self.kit.writer(flush_entries=1 << 30)
        self.owner = asyncio.Event()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def own() -> None:
            async with self.block as self.writer:
                started.set_result(None)
                await self.owner.wait()

        self.task = asyncio.create_task(own())
        await started

    @rule(numbers=st.lists(st.integers(0, 40), min_size=1, max_size=12), prefix=st.sampled_from([0, ord("k")]))
    def write(self, numbers: list[int], prefix: int) -> None:
        data = [b"%d" % n * (n * n + 1) * 9 for n in numbers]
        ids = self.run(in_thread(self.writer.write_contents, data, prefix))
        self.pending |= dict(zip(ids, data, strict=True))

    @rule(choice=st.integers(0, 1000))
    def delete(self, choice: int) -> None:
        live = sorted(self.committed.keys() - self.pending.keys())
        if live:
            content = live[choice % len(live)]
            self.run(in_thread(self.writer._contents.delete_content, self.kit.index.find(content)))
            self.pending[content] = None

    @rule()
    def flush(self) -> None:
        self.run(self.writer.flush())
        self.settle()

    @rule()
    def leave(self) -> None:
        async def leave() -> None:
            self.owner.set()
            await self.task
            await self.reopen()

        self.run(leave())
        self.settle()

    @rule()
    def crash(self) -> None:
        async def crash() -> None:
            self.task.cancel()
            await asyncio.wait([self.task])
            await self.reopen()

        self.run(crash())
        self.pending.clear()

    def settle(self) -> None:
        for content, data in self.pending.items():
            if data is None:
                del self.committed[content]
            else:
                self.committed[content] = data
        self.pending.clear()

    @invariant()
    def what_was_flushed_is_there_and_nothing_else(self) -> None:
        async def look() -> dict[ContentId, bytes]:
            return await read_all(await open_kit(self.storage))

        assert self.run(look()) == self.committed

    def teardown(self) -> None:
        if hasattr(self, "task"):
            self.task.cancel()
            self.run(asyncio.wait([self.task]))
            self.runner.close()


WritingMachine.TestCase.settings = settings(
    max_examples=15, stateful_step_count=12, suppress_health_check=list(HealthCheck)
)
TestWriting = WritingMachine.TestCase
