"""What passes through once leaves nothing behind where the system can do that, and is the same bytes everywhere."""

import errno
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import _native
from agent.base import page_cache
from agent.base.page_cache import flags_for, read_once, write_once
from tests.unit.page_cache_kit import cached_pages, forget

DATA = bytes(range(256)) * 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file on disk, of which nothing is cached."""
    made = tmp_path / "f"
    made.write_bytes(DATA)
    forget(made)
    return made


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder of a file system that cannot do without the page cache, because it is in it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def needs_support(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.preadv(fd, [bytearray(1)], 0, page_cache.ONCE or pytest.skip("this kernel is too old"))
    except OSError as error:
        pytest.skip(f"this file system cannot: {error.strerror}")
    finally:
        os.close(fd)
        forget(path)


@pytest.mark.parametrize(
    ("release", "asks"),
    [
        ("6.16.0", True),
        ("6.18.44-fc-v669", True),
        ("7.0-rc1", True),
        ("6.15.9", False),
        ("6.8.0-45-generic", False),
        ("5.14.0-503.el9.x86_64", False),
        ("unknown", False),
    ],
)
def test_only_kernels_that_do_it_well_are_asked(release: str, asks: bool) -> None:
    assert bool(flags_for(release)) is asks


def test_what_was_read_once_is_not_cached_and_what_was_cached_stays(path: Path) -> None:
    needs_support(path)
    with path.open("rb") as file:
        buffer = bytearray(len(DATA))
        assert read_once(file.fileno(), buffer, 0) == len(DATA)
        assert buffer == DATA
        assert cached_pages(path) == 0
        assert os.pread(file.fileno(), mmap.PAGESIZE, 0) == DATA[: mmap.PAGESIZE]
        before = cached_pages(path)
        assert before >= 1
        read_once(file.fileno(), memoryview(buffer)[: mmap.PAGESIZE], 0)
        assert cached_pages(path) == before


def test_small_files_that_were_read_are_not_cached(path: Path) -> None:
    needs_support(path)
    folder = os.open(path.parent, os.O_RDONLY)
    second = path.with_name("g")
    second.write_bytes(DATA)
    forget(second)
    found = _native.read_many(folder, [b"f", b"g"], len(DATA), 2 * len(DATA), page_cache.ONCE, 2)
    os.close(folder)
    assert [item if isinstance(item, int) else item[1] for item in found] == [DATA, DATA]
    assert cached_pages(path) == cached_pages(second) == 0


def test_what_was_written_whole_is_not_cached_from_half_a_mebibyte_on(path: Path) -> None:
    needs_support(path)
    folder = os.open(path.parent, os.O_RDONLY)
    items = [(name, data, 0o600, 0, 0, 0) for name, data in ((b"large", DATA), (b"small", DATA[:4096]))]
    assert _native.create_many(folder, items, 0, page_cache.ONCE) == [0, 0]
    with (path.parent / "large").open("rb") as file:
        os.fsync(file.fileno())  # pages go when they are written
    os.close(folder)
    assert cached_pages(path.parent / "large") < len(DATA) // mmap.PAGESIZE
    assert cached_pages(path.parent / "small") == 1
    assert (path.parent / "large").read_bytes() == DATA
    assert (path.parent / "small").read_bytes() == DATA[:4096]


def test_files_written_whole_come_out_whole_where_the_file_system_cannot(in_memory: Path) -> None:
    folder = os.open(in_memory, os.O_RDONLY)
    items = [(name, DATA[:length], 0o600, 0, 0, 0) for name, length in ((b"a", 1 << 20), (b"b", (512 << 10) + 1))]
    assert _native.create_many(folder, items, 0, flags_for("6.18")) == [0, 0]
    os.close(folder)
    assert (in_memory / "a").read_bytes() == DATA
    assert (in_memory / "b").read_bytes() == DATA[: (512 << 10) + 1]


def test_a_file_system_that_cannot_gets_plain_calls(in_memory: Path) -> None:
    path = in_memory / "f"
    with path.open("w+b") as file:
        assert write_once(file.fileno(), DATA, 0) == len(DATA)
        buffer = bytearray(len(DATA) - 3)
        assert read_once(file.fileno(), buffer, 3) == len(DATA) - 3
        assert buffer == DATA[3:]
        assert read_once(file.fileno(), buffer, len(DATA)) == 0
    folder = os.open(in_memory, os.O_RDONLY)
    (found,) = _native.read_many(folder, [b"f"], len(DATA), len(DATA), flags_for("6.18"), 1)
    os.close(folder)
    assert not isinstance(found, int)
    assert found[1] == DATA


def test_other_errors_are_those_of_the_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(page_cache, "ONCE", flags_for("6.18"))
    (tmp_path / "f").touch()
    with (tmp_path / "f").open("rb") as file:
        with pytest.raises(OSError, match="Bad file") as raised:
            write_once(file.fileno(), b"x", 0)
        assert raised.value.errno == errno.EBADF
    with pytest.raises(OSError, match="Bad file"):
        read_once(-1, bytearray(1), 0)
