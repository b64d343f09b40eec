"""Session markers, clocks, object lock and format changes, as a store sees them."""

from dataclasses import replace

import pytest

from agent.base.errors import ClockDrift, RepositoryLocked, WriteConflict
from agent.repository.format_blob import ObjectLock
from agent.repository.session import parse_marker
from agent.testing.clock import START_NS, VirtualClock
from agent.testing.memory_storage import MemoryStorage
from tests.unit.repository.writing_kit import FixedFormat, in_thread, make_format, open_kit


class Recorder(MemoryStorage):
    """Remembers in which order blobs came and went."""

    def __init__(self, clock: VirtualClock | None = None) -> None:
        super().__init__(clock)
        self.events: list[str] = []
        self.seen: dict[str, bytes] = {}

    async def put(self, blob_id, data, *, if_absent=False, retention=None):  # type: ignore[no-untyped-def]
        await super().put(blob_id, data, if_absent=if_absent, retention=retention)
        self.events.append(f"put {blob_id[0]}")
        self.seen[blob_id] = self.blobs[blob_id]

    async def stat(self, blob_id):  # type: ignore[no-untyped-def]
        self.events.append(f"stat {blob_id[0]}")
        return await super().stat(blob_id)

    async def delete(self, blob_ids):  # type: ignore[no-untyped-def]
        await super().delete(blob_ids)
        self.events += [f"delete {blob_id[0]}" for blob_id in blob_ids]


async def test_marker_then_packs_then_index_then_the_marker_goes() -> None:
    storage = Recorder()
    kit = await open_kit(storage)
    async with kit.writer() as writer:
        await in_thread(writer.write_contents, [bytes([n]) * 40_000 for n in range(5)])
    assert storage.events == ["put s", "stat s", *["put p"] * 3, "put x", "delete s"]


async def test_each_flush_has_its_own_session_and_marker() -> None:
    storage = Recorder()
    kit = await open_kit(storage)
    async with kit.writer() as writer:
        await in_thread(writer.write_content, b"one")
        await writer.flush()
        await in_thread(writer.write_content, b"two")
    assert storage.events == ["put s", "stat s", "put p", "put x", "delete s"] * 2


async def test_a_marker_says_who_writes_since_when() -> None:
    clock = VirtualClock(jump=False)
    storage = Recorder(clock)
    kit = await open_kit(storage, clock=clock)
    async with kit.writer() as writer:
        await in_thread(writer.write_content, b"one")
    ((name, sealed),) = [(name, blob) for name, blob in storage.seen.items() if name[0] == "s"]
    marker = parse_marker(kit.parts.sealer.open(name, sealed), name)
    assert name.endswith("-" + marker.id)
    assert (marker.username, marker.hostname, marker.start_ns, marker.checkpoint_ns) == ("u", "h", START_NS, START_NS)


@pytest.mark.parametrize("seconds", [-301, 301])
async def test_clocks_five_minutes_apart_stop_the_writer_before_anything_is_written(seconds: int) -> None:
    clock = VirtualClock(jump=False)
    storage = Recorder(VirtualClock(START_NS + seconds * 10**9, jump=False))
    kit = await open_kit(storage, clock=clock)
    with pytest.raises(ClockDrift, match="301 seconds"):
        async with kit.writer() as writer:
            await in_thread(writer.write_content, b"one")
    assert storage.events == ["put s", "stat s", "delete s"]
    assert not storage.blobs


@pytest.mark.parametrize("seconds", [-299, 299])
async def test_clocks_less_apart_are_good_enough(seconds: int) -> None:
    storage = Recorder(VirtualClock(START_NS + seconds * 10**9, jump=False))
    kit = await open_kit(storage, clock=VirtualClock(jump=False))
    async with kit.writer() as writer:
        await in_thread(writer.write_content, b"one")
    assert storage.events[-1] == "delete s"


async def test_object_lock_goes_along_with_packs_and_indexes_and_not_with_markers() -> None:
    clock = VirtualClock(jump=False)
    storage = Recorder(clock)
    kit = await open_kit(storage, FixedFormat(make_format(), ObjectLock("COMPLIANCE", 86_400 * 10**9)), clock=clock)
    async with kit.writer() as writer:
        await in_thread(writer.write_content, b"one")
        await in_thread(writer.write_content, b"two", ord("k"))
    assert sorted(name[0] for name in storage.retentions) == ["p", "q", "x"]
    assert {(r.mode, r.until_ns) for r in storage.retentions.values()} == {("COMPLIANCE", START_NS + 86_400 * 10**9)}


class LockedFormat(FixedFormat):
    async def current(self):  # type: ignore[no-untyped-def]
        raise RepositoryLocked("an upgrade has begun")


async def test_an_upgrade_lock_stops_the_writer_before_its_next_put() -> None:
    storage = Recorder()
    kit = await open_kit(storage, LockedFormat(make_format()))
    with pytest.raises(RepositoryLocked):
        async with kit.writer() as writer:
            await in_thread(writer.write_content, b"one")
    assert not storage.events


async def test_a_format_that_was_upgraded_meanwhile_stops_the_writer() -> None:
    storage = Recorder()
    formats = FixedFormat(make_format(version=1))
    kit = await open_kit(storage, formats)
    with pytest.raises(WriteConflict, match="open it again"):
        async with kit.writer() as writer:
            await in_thread(writer.write_content, b"one")
            formats.format = replace(make_format(), secret=formats.format.secret)
    assert not storage.events
