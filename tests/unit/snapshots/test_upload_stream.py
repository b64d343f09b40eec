"""How a large file is read: what the page cache has read ahead is used before it is dropped."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.repository.splitter import new_splitter
from agent.snapshots.progress import Cancellation, UploadProgress
from agent.snapshots.upload_chunks import Chunks, Holes, Slabs
from agent.snapshots.upload_plan import FilePlan
from agent.snapshots.upload_stream import LARGEST_CHUNK, READ_PIECE, StreamUpload
from agent.testing.memory_storage import MemoryStorage
from tests.unit.repository.writing_kit import in_thread, open_kit

MIB = 1 << 20


class RecordingSource:
    """So many zeros, and what was read of them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.reads: list[tuple[int, int]] = []

    def readinto_at(self, buffer: memoryview, offset: int) -> int:
        got = min(len(buffer), self.size - offset)
        self.reads.append((offset, got))
        buffer[:got] = bytes(got)
        return got


@pytest.mark.parametrize(
    ("start", "end", "size"),
    [
        pytest.param(0, None, 9 * MIB + 5, id="a whole file"),
        pytest.param(3 * MIB + 7, 12 * MIB, 13 * MIB, id="a part that begins within a piece"),
    ],
)
async def test_no_piece_of_a_large_file_is_read_in_two(start: int, end: int | None, size: int) -> None:
    kit = await open_kit(MemoryStorage())
    source, chunks = RecordingSource(size), Chunks()
    cancellation = Cancellation()
    async with kit.writer() as writer:
        with ThreadPoolExecutor(1) as helpers:
            slabs = Slabs(LARGEST_CHUNK + READ_PIECE, 2, cancellation)
            stream = StreamUpload(writer, cancellation, UploadProgress(), slabs, helpers)
            plan = FilePlan(new_splitter("DYNAMIC-4M-BUZHASH"))
            await in_thread(lambda: stream.read(source, start, end, holes=Holes(), plan=plan, chunks=chunks))
            await in_thread(chunks.wait, cancellation)
    stop = size if end is None else end
    assert chunks.length == stop - start
    borders = [offset for offset, got in source.reads if got][1:]
    assert borders == list(range((start // READ_PIECE + 1) * READ_PIECE, stop, READ_PIECE))


def test_a_slab_that_is_given_back_keeps_no_memory_for_long_chunks() -> None:
    slabs = Slabs(16 * MIB, 1, Cancellation())
    slab = slabs.take()
    slab[:] = b"x" * len(slab)
    slabs.give_back(slab)
    again = slabs.take_if_free()
    assert again is not None
    assert again.obj is slab.obj
    assert again[: 6 * MIB] == b"x" * 6 * MIB
    assert not any(again[6 * MIB :])
    assert slabs.take_if_free() is None
