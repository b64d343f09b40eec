"""Restore targets: everything stays below the root, what is there is treated as asked, metadata ends up exact."""

import errno
import os
import resource
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import _native
from agent.base.errors import TargetExists, UnsafeName, VolumeError, VolumeOutOfSpace
from agent.volumes.file_write import Metadata
from agent.volumes.tree_read import DirectoryReader, FileContent, LinkTarget, TreeEntry, open_directory
from agent.volumes.tree_write import DirectoryWriter, Existing, Failure, NewEntry, WriteOptions, open_target

ROOT = os.geteuid() == 0
UID, GID = (1234, 4321) if ROOT else (os.geteuid(), os.getegid())
PLAIN = Metadata(0o640, UID, GID, 1_700_000_000_123_456_789)
UNSAFE = [b"", b".", b"..", b"a/b", b"/etc/passwd", b"../up", b"nul\0", b"/"]


@pytest.fixture
def target(tmp_path: Path) -> Iterator[DirectoryWriter]:
    with open_target((tmp_path / "target").as_posix()) as root:
        yield root


def _new(name: bytes, data: bytes = b"data", metadata: Metadata = PLAIN) -> NewEntry:
    return NewEntry(name, data, metadata)


@pytest.mark.parametrize("name", UNSAFE)
def test_names_that_lead_elsewhere_are_refused_before_anything_is_written(
    target: DirectoryWriter, tmp_path: Path, name: bytes
) -> None:
    for attempt in (
        lambda: target.write_files([_new(b"good"), _new(name)]),
        lambda: target.write_links([_new(b"good"), _new(name)]),
        lambda: target.make_directory(name),
        lambda: target.create_file(name, 10),
    ):
        with pytest.raises(UnsafeName):
            attempt()
    assert sorted(os.listdir(tmp_path)) == ["target"]
    assert os.listdir(tmp_path / "target") == []


@pytest.mark.parametrize("name", UNSAFE)
def test_the_native_batches_refuse_such_names_themselves(tmp_path: Path, name: bytes) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert _native.create_many(fd, [(name, b"x", 0o600, 0, 0, 0)], 15) == [errno.EINVAL]
        assert _native.symlink_many(fd, [(name, b"x", 0o600, 0, 0, 0)], 15) == [errno.EINVAL]
    finally:
        os.close(fd)


@pytest.mark.parametrize("mode", [*(1 << bit for bit in range(12)), 0, 0o7777, 0o4755, 0o2755, 0o1777])
def test_every_mode_bit_owner_and_nanosecond_is_restored(target: DirectoryWriter, tmp_path: Path, mode: int) -> None:
    metadata = Metadata(mode, UID, GID, -1_500_000_001)
    assert target.write_files([_new(b"small", metadata=metadata)]).written == 1
    large = target.create_file(b"large", 5)
    assert large is not None
    large.write_at(0, b"large")
    assert large.finish(metadata)
    target.make_directory(b"directory").seal(metadata)
    for name in ("small", "large", "directory"):
        status = os.lstat(tmp_path / "target" / name)
        assert stat.S_IMODE(status.st_mode) == mode, name
        assert (status.st_uid, status.st_gid, status.st_mtime_ns) == (UID, GID, -1_500_000_001), name


def test_symbolic_links_keep_owner_and_time_and_their_target_is_untouched(
    target: DirectoryWriter, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    before = victim.stat()
    assert target.write_links([_new(b"link", os.fsencode(victim))]).written == 1
    status = os.lstat(tmp_path / "target" / "link")
    assert (status.st_uid, status.st_gid, status.st_mtime_ns) == (UID, GID, PLAIN.mtime_ns)
    assert os.readlink(tmp_path / "target" / "link") == victim.as_posix()
    after = victim.stat()
    assert (after.st_uid, after.st_mode, after.st_mtime_ns) == (before.st_uid, before.st_mode, before.st_mtime_ns)


@pytest.mark.parametrize("existing", Existing)
def test_what_is_already_there_is_overwritten_skipped_or_reported(tmp_path: Path, existing: Existing) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"outside")
    folder = tmp_path / "target"
    folder.mkdir()
    (folder / "file").write_bytes(b"old")
    (folder / "large").write_bytes(b"old")
    os.symlink(outside, folder / "link")
    os.link(outside, folder / "hard")
    names = [b"file", b"link", b"hard", b"new"]
    with open_target(folder.as_posix(), WriteOptions(existing=existing)) as root:
        assert not root.created
        result = root.write_files([_new(name) for name in names])
        if existing is Existing.FAIL:
            with pytest.raises(TargetExists):
                root.create_file(b"large", 3)
        else:
            large = root.create_file(b"large", 3)
            assert (large is None) == (existing is Existing.SKIP)
            if large is not None:
                large.write_at(0, b"new")
                large.finish(PLAIN)
    assert outside.read_bytes() == b"outside", "neither a link nor a shared inode is written through"
    if existing is Existing.OVERWRITE:
        assert (result.written, result.skipped, result.failures) == (4, 0, [])
        assert [(folder / os.fsdecode(name)).read_bytes() for name in names] == [b"data"] * 4
        assert (folder / "large").read_bytes() == b"new"
    elif existing is Existing.SKIP:
        assert (result.written, result.skipped, result.failures) == (1, 3, [])
    else:
        assert result.failures == [Failure(name, errno.EEXIST) for name in names[:3]]
        assert (folder / "file").read_bytes() == b"old"


def test_a_directory_in_the_way_of_a_file_goes_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "target" / "x" / "y" / "z").mkdir(parents=True)
    (tmp_path / "target" / "l").mkdir()
    path = (tmp_path / "target").as_posix()
    with open_target(path) as root:
        assert root.write_files([_new(b"x")]).failures == [Failure(b"x", errno.EISDIR)]
        with pytest.raises(TargetExists):
            root.create_file(b"l", 1)
    with open_target(path, WriteOptions(replace_directories=True)) as root:
        assert root.write_files([_new(b"x"), _new(b"other")]).written == 2
        large = root.create_file(b"l", 1)
        assert large is not None
        large.finish(PLAIN)
    assert (tmp_path / "target" / "x").read_bytes() == b"data"
    assert (tmp_path / "target" / "l").is_file()


def test_a_file_or_link_in_the_way_of_a_directory_is_replaced_and_never_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    folder = tmp_path / "target"
    folder.mkdir()
    os.symlink("../outside", folder / "link")
    (folder / "file").touch()
    with open_target(folder.as_posix(), WriteOptions(existing=Existing.FAIL)) as root, pytest.raises(TargetExists):
        root.make_directory(b"link")
    with open_target(folder.as_posix()) as root:
        for name in (b"link", b"file"):
            child = root.make_directory(name)
            child.write_files([_new(b"inside")])
            child.seal(PLAIN)
    assert os.listdir(tmp_path / "outside") == []
    assert (folder / "link" / "inside").exists() and (folder / "file" / "inside").exists()


def test_a_directory_swapped_for_a_link_while_it_is_filled_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    folder = tmp_path / "target"
    with open_target(folder.as_posix(), open_directories=2) as root:
        child = root.make_directory(b"a")
        os.rename(folder / "a", folder / "moved")
        os.symlink("../outside", folder / "a")
        child.write_files([_new(b"one")])
        others = [root.make_directory(b"d%d" % i) for i in range(4)]
        with pytest.raises(VolumeError):
            child.write_files([_new(b"two")])
        for other in others:
            other.seal(PLAIN)
    assert os.listdir(tmp_path / "outside") == []
    assert os.listdir(folder / "moved") == ["one"]


def test_links_swapped_in_by_another_thread_never_lead_out(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_bytes(b"precious")
    folder = tmp_path / "target"
    folder.mkdir()
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for name, to in (("f", "../outside/f"), ("d", "../outside")):
                try:
                    os.symlink(to, folder / "swap")
                    os.rename(folder / "swap", folder / name)
                except OSError:
                    (folder / "swap").unlink(missing_ok=True)

    attacker = threading.Thread(target=swap)
    attacker.start()
    try:
        with open_target(folder.as_posix(), WriteOptions(replace_directories=True)) as root:
            for _ in range(150):
                try:
                    root.write_files([_new(b"f", b"evil")])
                    child = root.make_directory(b"d")
                    child.write_files([_new(b"f", b"evil")])
                    child.seal(PLAIN)
                except VolumeError:
                    continue
    finally:
        stop.set()
        attacker.join()
    assert os.listdir(outside) == ["f"]
    assert (outside / "f").read_bytes() == b"precious"


def test_directories_get_their_metadata_when_all_below_is_sealed(target: DirectoryWriter, tmp_path: Path) -> None:
    parent = target.make_directory(b"parent")
    child = parent.make_directory(b"child")
    parent.seal(Metadata(0o500, UID, GID, 1_000_000_007))
    target.seal(Metadata(0o711, UID, GID, 5))
    assert stat.S_IMODE(os.stat(tmp_path / "target" / "parent").st_mode) == 0o700
    child.write_files([_new(b"late")])
    child.seal(Metadata(0o755, UID, GID, 3))
    for path, mode, time in (("parent/child", 0o755, 3), ("parent", 0o500, 1_000_000_007), (".", 0o711, 5)):
        status = os.stat(tmp_path / "target" / path)
        assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (mode, time), path


def test_large_files_are_written_by_position_from_several_threads(target: DirectoryWriter, tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    step = 100_000
    with target.create_file(b"big", len(data)) or pytest.fail() as file:
        threads = [
            threading.Thread(target=file.write_at, args=(at, data[at : at + step])) for at in range(0, len(data), step)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        file.finish(PLAIN)
    assert (tmp_path / "target" / "big").read_bytes() == data


def test_an_unfinished_large_file_is_removed(target: DirectoryWriter, tmp_path: Path) -> None:
    with target.create_file(b"big", 100) or pytest.fail() as file:
        file.write_at(0, b"x")
    assert os.listdir(tmp_path / "target") == []


@pytest.mark.check(38)
def test_sparse_files_keep_their_holes(tmp_path: Path) -> None:
    with open_target((tmp_path / "t").as_posix(), WriteOptions(sparse=True)) as root:
        file = root.create_file(b"sparse", 8 << 20)
        assert file is not None
        file.write_at(0, bytes(1 << 20))
        file.write_at(4 << 20, bytes(8192) + b"x" + bytes(100_000))
        file.finish(PLAIN)
    status = os.stat(tmp_path / "t" / "sparse")
    assert status.st_size == 8 << 20
    assert status.st_blocks * 512 <= 64 * 1024
    assert (tmp_path / "t" / "sparse").read_bytes() == bytes((4 << 20) + 8192) + b"x" + bytes((4 << 20) - 8193)


def test_what_is_not_in_the_snapshot_is_removed_with_all_below_it_and_links_stay_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").touch()
    folder = tmp_path / "target"
    deep = folder / "extra"
    for i in range(30):
        deep = deep / f"d{i}"
    deep.mkdir(parents=True)
    os.symlink(outside, deep / "out")
    os.symlink(outside, folder / "gone-link")
    (folder / "kept").mkdir()
    (folder / "kept" / "inside").touch()
    os.mkfifo(folder / "pipe")
    (folder / "file").touch()
    with open_target(folder.as_posix(), open_directories=4) as root:
        assert root.remove_extra({b"kept"}) == 4
    assert os.listdir(folder) == ["kept"]
    assert os.listdir(outside) == ["keep"]


def test_a_full_disk_ends_the_batch_and_leaves_no_half_file(target: DirectoryWriter, tmp_path: Path) -> None:
    # A file size limit gives the same partial write, without a mount: EFBIG for what does not fit.
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        too_large = [_new(b"not", b"x" * 10_000), _new(b"nor this", b"x" * (1 << 20))]
        result = target.write_files([_new(b"fits"), *too_large])
        with pytest.raises(VolumeError):
            target.create_file(b"large", 1 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert result.failures == [Failure(b"not", errno.EFBIG), Failure(b"nor this", errno.EFBIG)]
    assert os.listdir(tmp_path / "target") == ["fits"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    import subprocess

    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_file_system_is_named_for_small_and_large_files(small_disk: Path) -> None:
    with open_target(small_disk.as_posix()) as root:
        with pytest.raises(VolumeOutOfSpace):
            root.create_file(b"large", 1 << 20)
        assert os.listdir(small_disk) == []
        with pytest.raises(VolumeOutOfSpace):
            root.write_files([_new(b"%d" % i, b"x" * 20_000) for i in range(100)])
        assert {os.stat(small_disk / name).st_size for name in os.listdir(small_disk)} == {20_000}


def test_another_file_system_below_the_target_is_not_emptied(small_disk: Path) -> None:
    (small_disk / "precious").touch()
    with open_target(small_disk.parent.as_posix()) as root, pytest.raises(VolumeError, match="mounted"):
        root.remove_extra(())
    assert os.listdir(small_disk) == ["precious"]
    with open_directory(small_disk.parent.as_posix()) as reader:
        entry = reader.look_up(small_disk.name.encode())
        assert isinstance(entry, TreeEntry) and reader.crosses_mount(entry.attributes)


@pytest.mark.skipif(not ROOT, reason="only root can try a refused owner in a child")
def test_a_refused_owner_is_counted_and_costs_the_set_id_bits(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o711)  # noqa: S103 - the child has to get in
    folder = tmp_path / "target"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    fd = os.open(folder, os.O_RDONLY)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        ok = _native.create_many(fd, [(b"suid", b"", 0o6755, 0, 0, 7)], 15) == [-errno.EPERM]
        os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0
    os.close(fd)
    status = os.stat(folder / "suid")
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o755, 7)


@pytest.mark.skipif(not ROOT, reason="only root can try a closed directory in a child")
def test_an_owner_without_other_rights_comes_back_into_directories_that_are_shut_to_it(tmp_path: Path) -> None:
    (tmp_path / "ours" / "shut").mkdir(parents=True)
    (tmp_path / "foreign").mkdir()
    for folder in (tmp_path, tmp_path / "ours", tmp_path / "ours" / "shut"):
        os.chown(folder, 65534, 65534)
    os.chmod(tmp_path / "ours" / "shut", 0)
    os.chmod(tmp_path / "foreign", 0)
    fd = os.open(tmp_path, os.O_RDONLY)
    child = os.fork()
    if child == 0:
        os.fchdir(fd)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        with open_target(".") as root:
            written = root.make_directory(b"ours").make_directory(b"shut").write_files([_new(b"file")]).written
            with pytest.raises(VolumeError, match="denied"):
                root.make_directory(b"foreign")
        os._exit(0 if written == 1 else 1)
    os.close(fd)
    assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / "ours" / "shut" / "file").read_bytes() == b"data"


def test_sync_reaches_the_file_system(target: DirectoryWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    sync = _native.sync_filesystem
    monkeypatch.setattr(_native, "sync_filesystem", lambda fd: (synced.append(os.fstat(fd).st_dev), sync(fd)))
    target.write_files([_new(b"x")])
    target.sync()
    assert synced == [os.stat(target.path).st_dev]


def test_a_target_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TargetExists):
        open_target((tmp_path / "file").as_posix())


_names = st.binary(min_size=1, max_size=20).filter(lambda n: n not in (b".", b"..") and not set(n) & {0, 47})
_metadata = st.builds(
    Metadata,
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 65535) if ROOT else st.just(UID),
    gid=st.integers(0, 65535) if ROOT else st.just(GID),
    mtime_ns=st.integers(-(2**31 - 2) * 10**9, 2**33 * 10**9),
)
_file = st.tuples(st.just("file"), _metadata, st.binary(max_size=3000))
_link = st.tuples(st.just("link"), _metadata, st.binary(min_size=1, max_size=200).filter(lambda t: 0 not in t))
_tree = st.recursive(
    st.dictionaries(_names, st.one_of(_file, _link), max_size=4).map(lambda d: ("dir", d)),
    lambda below: st.dictionaries(
        _names, st.one_of(_file, _link, st.tuples(st.just("directory"), _metadata, below)), max_size=4
    ).map(lambda d: ("dir", d)),
    max_leaves=12,
)


def _write(writer: DirectoryWriter, tree: dict, metadata: Metadata) -> None:  # type: ignore[type-arg]
    writer.write_files([NewEntry(n, data, m) for n, (kind, m, data) in tree.items() if kind == "file"])
    writer.write_links([NewEntry(n, data, m) for n, (kind, m, data) in tree.items() if kind == "link"])
    for name, (kind, below_metadata, below) in tree.items():
        if kind == "directory":
            _write(writer.make_directory(name), below[1], below_metadata)
    writer.seal(metadata)


def _read(reader: DirectoryReader) -> dict:  # type: ignore[type-arg]
    tree = {}
    for batch in reader.batches(3):
        for entry in batch:
            assert isinstance(entry, TreeEntry)
            a = entry.attributes
            mode = 0 if a.is_symlink else stat.S_IMODE(a.mode)
            metadata = Metadata(mode, a.uid, a.gid, a.mtime_ns)
            if a.is_directory:
                child = reader.open_directory(entry.name)
                assert isinstance(child, DirectoryReader)
                with child:
                    tree[entry.name] = ("directory", metadata, ("dir", _read(child)))
            elif a.is_symlink:
                (link,) = reader.read_links([entry.name])
                assert isinstance(link, LinkTarget)
                tree[entry.name] = ("link", metadata, link.target)
            else:
                (file,) = reader.read_files([entry.name], 1 << 20, total=1 << 20)
                assert isinstance(file, FileContent)
                tree[entry.name] = ("file", metadata, file.data)
    return tree


def _expected(tree: dict) -> dict:  # type: ignore[type-arg]
    result = {}
    for name, (kind, metadata, data) in tree.items():
        if kind == "directory":
            result[name] = (kind, metadata, ("dir", _expected(data[1])))
        elif kind == "link":
            result[name] = (kind, Metadata(0, metadata.uid, metadata.gid, metadata.mtime_ns), data)
        else:
            result[name] = (kind, metadata, data)
    return result


@pytest.mark.skipif(not ROOT, reason="modes without read permission can be read back by root only")
@settings(max_examples=60)
@given(tree=_tree, metadata=_metadata)
def test_any_tree_that_is_written_is_read_back_equal(tree: tuple[str, dict], metadata: Metadata) -> None:  # type: ignore[type-arg]
    with tempfile.TemporaryDirectory() as folder:
        with open_target(os.path.join(folder, "t"), open_directories=3) as root:
            _write(root, tree[1], metadata)
            assert root.denied == 0
        with open_directory(os.path.join(folder, "t"), open_directories=3, names_in_memory=2) as reader:
            a = reader.attributes
            assert Metadata(stat.S_IMODE(a.mode), a.uid, a.gid, a.mtime_ns) == metadata
            assert _read(reader) == _expected(tree[1])
