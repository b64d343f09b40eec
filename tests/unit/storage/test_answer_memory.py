"""Where answers go: parts of blobs into memory that is used again, large whole blobs off the heap."""

import tempfile
from pathlib import Path

import pytest

from agent.base.scratch import FileMemory
from agent.storage.answer_memory import AnswerMemory
from agent.storage.base import BlobId
from agent.storage.filesystem import FilesystemStorage

MIB = 1 << 20


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_only_large_whole_blobs_lie_in_a_file() -> None:
    memory = AnswerMemory()
    assert isinstance(memory.take(5 * MIB, whole=True).obj, FileMemory)
    for view in (memory.take(5 * MIB, whole=False), memory.take(MIB, whole=True), memory.take(0, whole=True)):
        assert not isinstance(view.obj, FileMemory)


async def test_the_event_loop_gets_the_same() -> None:
    memory = AnswerMemory()
    for length, whole in ((5 * MIB, True), (5 * MIB, False), (MIB, True)):
        view = await memory.take_on_loop(length, whole=whole)
        assert len(view) == length
        assert isinstance(view.obj, FileMemory) == (whole and length > MIB)


async def test_a_blob_is_the_same_either_way(tmp_path: Path) -> None:
    data = bytes(range(256)) * (5 * MIB // 256)
    storage = await FilesystemStorage.open(str(tmp_path / "blobs"), create=True)
    try:
        await storage.put(BlobId("a"), [data])
        whole, part = await storage.get(BlobId("a")), await storage.get(BlobId("a"), 1)
    finally:
        await storage.close()
    assert isinstance(memoryview(whole).obj, FileMemory)
    assert not isinstance(memoryview(part).obj, FileMemory)
    assert whole == data
    assert part == data[1:]
