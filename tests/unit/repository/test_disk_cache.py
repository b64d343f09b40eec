"""The local cache: verified, limited, shared by processes, safe to lose."""

import multiprocessing
import os
from pathlib import Path

import pytest

from agent.repository.disk_cache import DiskCache, LocalCache, PrivateCache

KEY = b"0123456789abcdef"


def cache(folder: Path, limit: int = 1 << 20, key: bytes = KEY) -> DiskCache:
    return DiskCache(str(folder), key, limit)


def total(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if not file.name.startswith(".lock"))


@pytest.mark.parametrize("kind", ["folder", "private"])
def test_what_was_put_comes_back_until_discarded(tmp_path: Path, kind: str) -> None:
    files: LocalCache = cache(tmp_path / "c") if kind == "folder" else PrivateCache(1 << 20)
    assert files.get("a") is None
    view = files.put("a", b"some bytes")
    assert bytes(view) == b"some bytes"
    found = files.get("a")
    assert found is not None
    assert bytes(found) == b"some bytes"
    files.discard("a")
    files.discard("a")
    assert files.get("a") is None
    assert bytes(view) == b"some bytes"
    files.put("empty", b"")
    assert files.get("empty") == b""


def test_another_process_finds_it(tmp_path: Path) -> None:
    cache(tmp_path).put("a", b"some bytes")
    assert cache(tmp_path).get("a") == b"some bytes"


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 42])
def test_a_damaged_file_counts_as_absent_and_is_removed(tmp_path: Path, damage: bytes) -> None:
    files = cache(tmp_path)
    files.put("a", b"some bytes")
    (tmp_path / "a").write_bytes(damage)
    assert files.get("a") is None
    assert not (tmp_path / "a").exists()
    files.put("a", b"some bytes")
    assert files.get("a") == b"some bytes"


def test_every_byte_of_a_large_file_is_verified(tmp_path: Path) -> None:
    files = cache(tmp_path, limit=4 << 20)
    data = os.urandom((1 << 20) + 17)
    files.put("a", data)
    found = files.get("a")
    assert found is not None
    assert found == data
    for position in (0, 1 << 19, len(data) - 1, len(data) + 31):
        files.put("a", data)
        with (tmp_path / "a").open("r+b") as file:
            file.seek(position)
            byte = file.read(1)[0]
            file.seek(position)
            file.write(bytes([byte ^ 1]))
        assert files.get("a") is None
        assert not (tmp_path / "a").exists()


def test_a_file_under_another_name_or_of_another_repository_counts_as_absent(tmp_path: Path) -> None:
    cache(tmp_path).put("a", b"some bytes")
    os.rename(tmp_path / "a", tmp_path / "b")
    assert cache(tmp_path).get("b") is None
    cache(tmp_path).put("a", b"some bytes")
    assert cache(tmp_path, key=b"another").get("a") is None


def test_names_that_are_no_file_names_stay_inside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    for name in ("../evil", ".lock", "a/b", "", "\0"):
        cache(folder).put(name, b"bytes of " + name.encode())
        assert cache(folder).get(name) == b"bytes of " + name.encode()
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_the_least_recently_used_files_give_way_to_new_ones(tmp_path: Path) -> None:
    files = cache(tmp_path, limit=10_000)
    for number in range(9):
        files.put(f"f{number}", bytes(1000))
        os.utime(tmp_path / f"f{number}", ns=(number, number))
    assert files.get("f0") is not None
    files.put("new", bytes(1000))
    assert files.get("f0") is not None
    assert files.get("new") is not None
    assert files.get("f1") is None
    assert total(tmp_path) <= 10_000


def test_an_eviction_leaves_mappings_good_and_what_is_too_large_is_not_kept(tmp_path: Path) -> None:
    files = cache(tmp_path, limit=10_000)
    view = files.put("a", b"a" * 5000)
    files.put("b", b"b" * 9000)
    assert files.get("a") is None
    assert bytes(view) == b"a" * 5000
    assert bytes(files.put("c", b"c" * 20_000)) == b"c" * 20_000
    assert files.get("c") is None
    assert files.get("b") is not None


def test_after_a_crash_the_bytes_are_counted_again(tmp_path: Path) -> None:
    files = cache(tmp_path, limit=10_000)
    files.put("a", bytes(5000))
    (tmp_path / ".lock").write_bytes(b"?032")
    (tmp_path / ".new").write_bytes(bytes(3000))
    files.put("b", bytes(5000))
    assert not (tmp_path / ".new").exists()
    assert total(tmp_path) <= 10_000


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    files = cache(tmp_path / "c")
    (tmp_path / "c" / ".lock").mkdir()
    assert bytes(files.put("a", b"some bytes")) == b"some bytes"
    assert files.get("a") is None


def put_many(folder: str, start: int) -> None:
    files = DiskCache(folder, KEY, 50_000)
    for number in range(start, start + 100):
        data = number.to_bytes(2) * 500
        assert files.put(f"f{number}", data) == data
        found = files.get(f"f{number % 37}")
        assert found is None or len(found) == 1000


def test_several_processes_keep_the_limit_together(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=put_many, args=(str(tmp_path), start)) for start in (0, 60, 120)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert total(tmp_path) <= 50_000
    assert int((tmp_path / ".lock").read_bytes()) == total(tmp_path)
