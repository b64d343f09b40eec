"""Reading trees: order, batches, bounded memory and descriptors, changes and hostility underneath."""

import errno
import os
import resource
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agent.base.errors import SourceNotFound, SourceUnreadable
from agent.volumes.names import NameSpill, SortedNames
from agent.volumes.tree_read import DirectoryReader, FileContent, FileReader, TreeEntry, Unreadable, open_directory
from tests.unit.page_cache_kit import forget


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A folder in memory where there is one: these trees are too large for a disk to be quick."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as folder:
        try:
            yield Path(folder)
        finally:
            _flatten(Path(folder) / "deeper")


def _flatten(child: Path) -> None:
    """Take the levels below `child` away one by one: what removes trees in the standard library recurses."""
    below, aside = child / child.name, child.parent / "aside"
    while below.is_dir():
        os.rename(below, aside)
        shutil.rmtree(child)
        os.rename(aside, child)


def _names(reader: DirectoryReader, size: int = 2000) -> list[bytes]:
    return [entry.name for batch in reader.batches(size) for entry in batch]


def test_directories_come_first_and_both_groups_by_raw_bytes(tmp_path: Path) -> None:
    for name in (b"b", b"a-file", b"Z", b"\xff\xfe", "é".encode(), b"zz"):
        os.close(os.open(os.path.join(os.fsencode(tmp_path), name), os.O_CREAT))
    for name in (b"zdir", b"\xc3dir", b"Adir"):
        os.mkdir(os.path.join(os.fsencode(tmp_path), name))
    os.symlink("nowhere", tmp_path / "link")
    with open_directory(tmp_path.as_posix()) as root:
        assert _names(root, 3) == [
            *sorted([b"zdir", b"\xc3dir", b"Adir"]),
            *sorted([b"b", b"a-file", b"Z", b"\xff\xfe", "é".encode(), b"zz", b"link"]),
        ]
        assert _names(root, 2) == _names(root), "listing again starts anew"


def test_special_files_are_reported_with_their_kind(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind((tmp_path / "socket").as_posix())
        with open_directory(tmp_path.as_posix()) as root:
            found = [entry for batch in root.batches() for entry in batch if isinstance(entry, TreeEntry)]
            kinds = {entry.name: stat.S_IFMT(entry.attributes.mode) for entry in found}
            assert kinds == {b"fifo": stat.S_IFIFO, b"socket": stat.S_IFSOCK}
            assert root.open_file(b"fifo") == Unreadable(b"fifo", errno.ESTALE)
            assert root.read_files([b"fifo", b"socket"], 10, total=10) == [
                Unreadable(b"fifo", errno.ESTALE),
                Unreadable(b"socket", errno.ENXIO),
            ]


def test_small_files_are_read_whole_and_larger_ones_left_to_streaming(tmp_path: Path) -> None:
    sizes = {b"empty": 0, b"one": 1, b"limit": 1000, b"over": 1001}
    for name, size in sizes.items():
        (tmp_path / os.fsdecode(name)).write_bytes(b"x" * size)
    with open_directory(tmp_path.as_posix()) as root:
        read = root.read_files(list(sizes), 1000, total=1 << 20)
        assert all(isinstance(file, FileContent) for file in read)
        assert [file.data and len(file.data) for file in read if isinstance(file, FileContent)] == [b"", 1, 1000, None]
        assert [file.attributes.size for file in read if isinstance(file, FileContent)] == [0, 1, 1000, 1001]


def test_a_batch_never_holds_more_bytes_than_its_total(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"x" * 600)
    with open_directory(tmp_path.as_posix()) as root:
        read = root.read_files([b"a", b"b", b"c"], 1000, total=1200)
        assert [isinstance(file, FileContent) and file.data is not None for file in read] == [True, True, False]


def test_files_that_grow_while_they_are_read_take_no_more_than_the_total(tmp_path: Path) -> None:
    # /proc says size 0: all three have grown since they were opened.
    with open_directory("/proc/self") as root:
        length = len(Path("/proc/self/cmdline").read_bytes())
        read = root.read_files([b"cmdline"] * 3, 2 * length, total=2 * length, at_once=3)
        assert [file.data and len(file.data) for file in read if isinstance(file, FileContent)] == [
            length,
            length,
            None,
        ]


@pytest.mark.parametrize("at_once", [1, 64, 1000])
def test_many_files_that_are_not_cached_come_back_in_order(tmp_path: Path, at_once: int) -> None:
    contents = {f"{n:03d}".encode(): os.urandom(1 + 97 * n % 5000) for n in range(150)}
    for name, data in contents.items():
        path = tmp_path / os.fsdecode(name)
        path.write_bytes(data)
        forget(path)
    (tmp_path / "070").unlink()
    (tmp_path / "071").unlink()
    (tmp_path / "071").mkdir()
    expected = {**contents, b"070": Unreadable(b"070", errno.ENOENT), b"071": Unreadable(b"071", errno.EISDIR)}
    with open_directory(tmp_path.as_posix()) as root:
        read = root.read_files(list(contents), 5000, total=1 << 20, at_once=at_once)
    assert [file.data if isinstance(file, FileContent) else file for file in read] == list(expected.values())


def test_no_more_files_are_open_than_asked_for(tmp_path: Path) -> None:
    for n in range(200):
        (tmp_path / f"{n:03d}").write_bytes(b"x")
    names = sorted(os.fsencode(path.name) for path in tmp_path.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open_directory(tmp_path.as_posix()) as root:
        in_use = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 1 + 20, hard))
        try:
            read = root.read_files(names, 10, total=10_000, at_once=20)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [file.data for file in read if isinstance(file, FileContent)] == [b"x"] * 200


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/etc", b"a\0b"])
def test_names_that_lead_elsewhere_are_refused_by_every_call(tmp_path: Path, name: bytes) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"")
    with open_directory(tmp_path.as_posix()) as root:
        refused = Unreadable(name, errno.EINVAL)
        assert root.look_up(name) == refused
        assert root.read_files([name], 10, total=10) == [refused]
        assert root.read_links([name]) == [refused]
        assert root.open_file(name) == refused
        assert root.open_directory(name) == refused


def test_links_below_the_root_are_never_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    (tmp_path / "tree").mkdir()
    os.symlink("../outside", tmp_path / "tree" / "dir")
    os.symlink("../outside/secret", tmp_path / "tree" / "file")
    with open_directory((tmp_path / "tree").as_posix()) as root:
        assert isinstance(root.open_directory(b"dir"), Unreadable)
        assert root.open_file(b"file") == Unreadable(b"file", errno.ELOOP)
        assert root.read_files([b"file"], 10, total=10) == [Unreadable(b"file", errno.ELOOP)]
        assert [getattr(link, "target", None) for link in root.read_links([b"dir", b"file"])] == [
            b"../outside",
            b"../outside/secret",
        ]


def test_a_long_link_target_comes_back_whole(tmp_path: Path) -> None:
    target = "t" * 4000
    os.symlink(target, tmp_path / "long")
    (tmp_path / "file").touch()
    with open_directory(tmp_path.as_posix()) as root:
        long, file, gone = root.read_links([b"long", b"file", b"gone"])
        assert getattr(long, "target", None) == target.encode()
        assert (file, gone) == (Unreadable(b"file", errno.EINVAL), Unreadable(b"gone", errno.ENOENT))


def _open_files_below(folder: Path) -> int:
    """How many descriptors of this process are files that were made in `folder`, deleted ones included."""
    targets = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own
            targets.append(os.readlink(f"/proc/self/fd/{name}"))
    return sum(target.startswith(f"{folder}/") for target in targets)


def test_names_beyond_the_threshold_are_spilled_and_merged_in_order(memory_path: Path, tmp_path: Path) -> None:
    fd = os.open(memory_path, os.O_RDONLY)
    try:
        names = [b"%x-name-%d" % (i * 2654435761 % 2**32, i) for i in range(70_000)]
        for i, name in enumerate(names):
            # Links to one inode: creating 70,000 inodes would be slow, names are what counts here.
            if i % 30_000 == 0:
                first = name
                os.close(os.open(name, os.O_CREAT, 0o600, dir_fd=fd))
            else:
                os.link(first, name, src_dir_fd=fd, dst_dir_fd=fd)
        os.mkdir(b"zz-directory", dir_fd=fd)
    finally:
        os.close(fd)
    spill_folder = tmp_path / "spill"
    spill_folder.mkdir()
    with open_directory(memory_path.as_posix(), spill_folder=str(spill_folder)) as root:
        iterator = root.batches(4000)
        listed = [entry.name for entry in next(iterator)]
        assert _open_files_below(spill_folder) == 1, "one nameless file holds the runs"
        assert not list(spill_folder.iterdir())
        listed += [entry.name for batch in iterator for entry in batch]
    assert listed == [b"zz-directory", *sorted(names)]


def test_spilled_runs_give_their_room_back() -> None:
    spill = NameSpill()
    one, two = spill.write([b"a", b"c"]), spill.write([b"b"])
    assert (list(spill.read(*one)), list(spill.read(*two))) == ([b"a", b"c"], [b"b"])
    spill.release(2)
    assert spill.write([b"x"])[0] == 0
    spill.close()


def test_a_nested_listing_over_the_budget_spills_early(tmp_path: Path) -> None:
    for i in range(50):
        (tmp_path / f"{i:03}").touch()
    (tmp_path / "d").mkdir()
    for i in range(40):
        (tmp_path / "d" / f"{i:03}").touch()
    with open_directory(tmp_path.as_posix(), names_in_memory=16) as root:
        outer = root.batches(7)
        first = next(outer)
        child = root.open_directory(b"d")
        assert isinstance(child, DirectoryReader)
        assert _names(child, 9) == [b"%03d" % i for i in range(40)]
        rest = [entry.name for batch in outer for entry in batch]
        assert [entry.name for entry in first] + rest == [b"d", *(b"%03d" % i for i in range(50))]


def test_file_systems_without_types_in_their_listing_are_asked_by_stat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent import _native

    (tmp_path / "a-file").touch()
    (tmp_path / "z-dir").mkdir()
    batches = iter([[(b"a-file", 0), (b"z-dir", 0), (b"vanished", 0)], []])
    monkeypatch.setattr(_native, "list_names", lambda _fd: next(batches))
    fd = os.open(tmp_path, os.O_RDONLY)
    names = SortedNames(NameSpill())
    names.list(fd)
    os.close(fd)
    assert list(names) == [b"z-dir", b"a-file", b"vanished"]


def test_a_tree_deeper_than_the_descriptor_limit_is_walked_down_and_up(memory_path: Path) -> None:
    depth = 1_050
    at = os.open(memory_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(b"deeper", dir_fd=at)
        below = os.open(b"deeper", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open(b"bottom", os.O_CREAT, dir_fd=at))
    os.close(at)
    before = len(os.listdir("/proc/self/fd"))
    with open_directory(memory_path.as_posix(), open_directories=32) as root:
        chain = [root]
        for _ in range(depth):
            child = chain[-1].open_directory(b"deeper")
            assert isinstance(child, DirectoryReader)
            chain.append(child)
        assert len(os.listdir("/proc/self/fd")) <= before + 40
        assert _names(chain[-1]) == [b"bottom"]
        assert len(chain[-1].path) > depth * len("deeper")
        for reader in reversed(chain):
            assert isinstance(reader.look_up(b"deeper" if reader is not chain[-1] else b"bottom"), TreeEntry)
            if reader is not root:
                reader.close()
        assert len(os.listdir("/proc/self/fd")) <= before + 40
    _remove_deep(memory_path)


def test_a_directory_swapped_while_its_descriptor_was_given_up_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "evil" / "b").mkdir(parents=True)
    with open_directory(tmp_path.as_posix()) as root:
        a = root.open_directory(b"a")
        assert isinstance(a, DirectoryReader)
        a.close()
        os.rename(tmp_path / "a", tmp_path / "old")
        os.rename(tmp_path / "evil", tmp_path / "a")
        with pytest.raises(OSError, match="another directory") as raised:
            a.look_up(b"b")
        assert raised.value.errno == errno.ESTALE
        os.rename(tmp_path / "a", tmp_path / "evil")
        os.symlink("old", tmp_path / "a")
        with pytest.raises(OSError, match=r"directory|links"):
            a.look_up(b"b")


def test_what_vanishes_between_listing_and_stat_is_left_out(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).touch()
    with open_directory(tmp_path.as_posix()) as root:
        batches = root.batches(1)
        assert [entry.name for entry in next(batches)] == [b"a"]
        os.unlink(tmp_path / "b")
        assert [entry.name for batch in batches for entry in batch] == [b"c"]


def test_a_file_that_grows_after_its_stat_is_read_or_handed_to_streaming(tmp_path: Path) -> None:
    # /proc files say size 0 and have content: the same code path without a race.
    with open_directory("/proc/self") as root:
        (short,) = root.read_files([b"status"], 1 << 20, total=1 << 20)
        assert isinstance(short, FileContent)
        assert short.attributes.size == 0
        assert short.data is not None and short.data.startswith(b"Name:")
        (cut,) = root.read_files([b"status"], 16, total=1 << 20)
        assert isinstance(cut, FileContent) and cut.data is None


def test_large_files_are_read_in_order_and_by_position(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "big").write_bytes(data)
    with open_directory(tmp_path.as_posix()) as root, root.open_file(b"big") as file:  # type: ignore[union-attr]
        assert isinstance(file, FileReader)
        buffer = bytearray(200_000)
        assert file.readinto(buffer) == 200_000 and buffer == data[:200_000]
        assert file.readinto(buffer) == 100_000 and buffer[:100_000] == data[200_000:]
        assert file.readinto(buffer) == 0
        assert file.readinto_at(memoryview(buffer)[:10], 1000) == 10 and buffer[:10] == data[1000:1010]


def test_data_ranges_of_a_sparse_file_leave_out_its_holes(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as out:
        out.seek(1 << 20)
        out.write(b"x" * 4096)
        out.truncate(4 << 20)
    (tmp_path / "empty").touch()
    with open_directory(tmp_path.as_posix()) as root:
        sparse, empty = root.open_file(b"sparse"), root.open_file(b"empty")
        assert isinstance(sparse, FileReader) and isinstance(empty, FileReader)
        with sparse, empty:
            assert list(sparse.data_ranges()) == [(1 << 20, 4096)]
            assert sparse.may_have_holes and not empty.may_have_holes
            assert list(empty.data_ranges()) == []


def test_a_root_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SourceNotFound, match="nothing at"):
        open_directory((tmp_path / "gone").as_posix())
    with pytest.raises(SourceUnreadable, match="not a directory"):
        open_directory((tmp_path / "file").as_posix())


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_entries_without_permission_are_values(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "closed").mkdir()
    os.chmod(tmp_path / "secret", 0)
    os.chmod(tmp_path / "closed", 0)
    with open_directory(tmp_path.as_posix()) as root:
        assert root.open_file(b"secret") == Unreadable(b"secret", errno.EACCES)
        assert root.open_directory(b"closed") == Unreadable(b"closed", errno.EACCES)
    os.chmod(tmp_path / "closed", stat.S_IRWXU)


def _remove_deep(top: Path) -> None:
    from agent.volumes.handles import DirectoryHandles
    from agent.volumes.remove import remove_extra

    handles = DirectoryHandles(top.as_posix(), limit=16)
    assert remove_extra(handles, handles.root, ()) == 1
    handles.close()
