"""Directory objects while they are made: the same whatever their length and however they grow."""

import random

import pytest

from agent.repository.ids import ObjectId
from agent.repository.splitter import new_splitter
from agent.snapshots.directory import DirectoryEncoder
from agent.snapshots.directory_write import DIRECTORY_PREFIX, DirectoryObject
from agent.snapshots.model import DirectorySummary
from agent.testing.memory_storage import MemoryStorage
from tests.unit.repository.writing_kit import FixedFormat, in_thread, make_format, open_kit

SPLITTER = "DYNAMIC-4M-BUZHASH"
SUMMARY = DirectorySummary(
    size=1, files=1, symlinks=0, dirs=1, max_time_ns=5, incomplete="", failed=0, ignored_errors=0, errors=()
)


def entry(rng: random.Random, length: int) -> bytes:
    return b'{"name":"%s"}' % rng.randbytes(length // 2).hex().encode()


@pytest.mark.parametrize(("entries", "length"), [(0, 0), (1, 100), (9_000, 100), (120_000, 100), (3, 12 << 20)])
async def test_a_directory_is_cut_as_its_bytes_are(entries: int, length: int) -> None:
    """Below the 1 MiB that stay in memory, in a file, and with entries that do not fit the usual file."""
    rng = random.Random(entries)
    raws = [b",".join(entry(rng, length) for _ in range(min(50, entries - at))) for at in range(0, entries, 50)]
    encoder = DirectoryEncoder()
    data = b"".join([*(encoder.entries(raw) for raw in raws), encoder.end(SUMMARY)])
    kit = await open_kit(MemoryStorage(), FixedFormat(make_format(splitter=SPLITTER, max_pack_size=8 << 20)))
    async with kit.writer() as writer:

        def make() -> tuple[ObjectId, ObjectId, ObjectId]:
            directory = DirectoryObject(writer, new_splitter(SPLITTER), 0)
            for raw in raws[: len(raws) // 2]:
                directory.add(raw)
            checkpoint = directory.checkpoint(raws[len(raws) // 2 :], SUMMARY)
            for raw in raws[len(raws) // 2 :]:
                directory.add(raw)
            plain = writer.new_object(prefix=DIRECTORY_PREFIX)
            plain.write(data)
            return directory.finish(SUMMARY), checkpoint, plain.finish()

        made, checkpoint, plain = await in_thread(make)
    assert made == checkpoint == plain
    assert await kit.objects.read(made) == data
