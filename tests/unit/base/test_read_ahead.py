"""Modules that are read before they are imported: the right ones, and nothing but read."""

import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import _native
from agent.base import read_ahead
from tests.unit.page_cache_kit import cached_pages, forget

_IMPORTED = """
import sys
import agent.cli.backup, agent.cli.restore, agent.repository.repository, agent.repository.writer
import agent.snapshots.restore, agent.snapshots.upload
if sys.argv[1:]:
    import uvloop, agent.storage.s3
for module in list(sys.modules.values()):
    path = getattr(module, "__file__", None)
    if path and module.__name__ != "__main__":
        print(path)
"""


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_what_a_command_imports_is_known(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()

    def ask(folders: list[bytes], threads: int) -> None:
        assert threads
        asked.update(os.path.normpath(os.fsdecode(folder)) for folder in folders)

    monkeypatch.setattr(_native, "read_ahead", ask)
    read_ahead.read_command()
    if kind == "s3":
        read_ahead.read_s3_client()
    command = [sys.executable, "-c", _IMPORTED, *(["s3"] if kind == "s3" else [])]
    files = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    missed = [file for file in files if os.path.dirname(file) not in asked]
    assert len(files) > 300
    assert len(missed) < len(files) // 20, missed


def _on_disk(path: Path) -> Path:
    """The file, with nothing of it in the page cache."""
    forget(path)
    if cached_pages(path):
        pytest.skip("this file system is in memory")
    return path


def _soon(true: Callable[[], bool]) -> bool:
    """Whether it comes true within ten seconds."""
    for _ in range(1000):
        if true():
            return True
        time.sleep(0.01)
    return true()


def test_files_are_in_the_page_cache_soon(tmp_path: Path) -> None:
    made = [tmp_path / "a" / name for name in ("m.so", "data.json", "data.json.gz", "__pycache__/m.cpython-311.pyc")]
    other = [tmp_path / "a" / name for name in ("m.py", "notes.txt", "__pycache__/m.cpython-311.opt-1.pyc")]
    for path in (*made, *other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 20_000)
        _on_disk(path)
    _native.read_ahead([os.fsencode(tmp_path / "a"), os.fsencode(tmp_path / "missing"), b""], 3)
    assert _soon(lambda: all(map(cached_pages, made)))
    assert not any(map(cached_pages, other))


def _library(path: Path, loaded: int, size: int) -> Path:
    """A file that begins as a shared library of one loaded segment does."""
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, loaded, loaded, 4096)
    path.write_bytes((header + segment).ljust(4096, b"\0"))
    os.truncate(path, size)
    return _on_disk(path)


def test_of_a_library_only_what_is_loaded_is_read_and_nothing_of_a_huge_one(tmp_path: Path) -> None:
    with_symbols = _library(tmp_path / "a.so", 1 << 20, 8 << 20)
    huge = _library(tmp_path / "b.so", 17 << 20, 20 << 20)
    _native.read_ahead([os.fsencode(tmp_path)], 1)
    assert _soon(lambda: cached_pages(with_symbols) >= 256 and cached_pages(huge) > 0)
    assert cached_pages(with_symbols) < 1024
    assert cached_pages(huge) < 1024


def test_it_may_be_done_before_the_last_thread_has_started() -> None:
    before = len(os.listdir("/proc/self/task"))
    for number in range(2_000):
        _native.read_ahead([], 1 + number % 64)
    assert _soon(lambda: len(os.listdir("/proc/self/task")) <= before)


def test_threads_and_folders_are_checked() -> None:
    for threads in (0, 65):
        with pytest.raises(ValueError, match="1 to 64 threads"):
            _native.read_ahead([], threads)
    with pytest.raises(TypeError, match="folder 1 is no bytes"):
        _native.read_ahead([b"", "text"], 1)  # type: ignore[list-item]
    with pytest.raises(TypeError, match="sequence"):
        _native.read_ahead(1, 1)  # type: ignore[arg-type]
    _native.read_ahead([], 64)
