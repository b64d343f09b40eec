"""Memory in a nameless file: where it can be had, and what is there instead."""

import mmap
import resource
import tempfile
from pathlib import Path

import pytest

from agent.base.scratch import FileMemory, scratch, unnamed_mapping

SIZE = 3 * mmap.PAGESIZE + 17


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go for now."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def works(memory: mmap.mmap) -> bool:
    assert len(memory) == SIZE
    assert memory[:] == bytes(SIZE)
    memory[:] = b"x" * SIZE
    return memory[:] == b"x" * SIZE


def test_on_a_disk_it_is_a_file_that_leaves_nothing_behind(temporary: Path) -> None:
    memory = scratch(SIZE)
    assert isinstance(memory, FileMemory)
    assert works(memory)
    assert not list(temporary.iterdir())


def test_a_place_that_is_memory_itself_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        memory = scratch(SIZE)
        assert not isinstance(memory, FileMemory)
        assert works(memory)


def test_without_a_place_it_is_anonymous(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "missing"))
    memory = scratch(SIZE)
    assert not isinstance(memory, FileMemory)
    assert works(memory)
    assert unnamed_mapping(b"some bytes") == b"some bytes"


@pytest.mark.usefixtures("temporary")
def test_without_room_it_is_anonymous_before_anything_is_written() -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (mmap.PAGESIZE, before[1]))
    try:
        memory, copy = scratch(SIZE), unnamed_mapping(b"x" * SIZE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not isinstance(memory, FileMemory)
    assert works(memory)
    assert copy == b"x" * SIZE


@pytest.mark.usefixtures("temporary")
def test_a_mapping_of_a_copy_cannot_be_written() -> None:
    data = bytearray(b"some bytes")
    copy = unnamed_mapping(data)
    data[:] = bytes(len(data))
    assert copy == b"some bytes"
    assert copy.readonly
    assert unnamed_mapping(b"") == b""
