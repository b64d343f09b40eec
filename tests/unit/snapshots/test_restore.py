"""Restoring trees: what comes back, what stays, what never leaves the target, and going on after a kill."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.base.errors import (
    PartialRestore,
    PathNotInSnapshot,
    RepositoryError,
    TargetExists,
    VolumeError,
)
from agent.repository.ids import ManifestId, ObjectId, content_text, parse_content_id
from agent.repository.repository import Repository
from agent.snapshots import restore_write
from agent.snapshots.model import DIRECTORY, FILE, Entry, decode_snapshot
from agent.snapshots.restore import RestoreOptions, restore
from agent.snapshots.restore_report import RestoreReport
from agent.storage.open import open_storage
from agent.volumes.tree_write import Existing
from tests.unit.snapshots.golden_restore import differences, repositories, rows, walk
from tests.unit.snapshots.memory_repository import MemoryRepository

# Owners of memory snapshots are root's; who tests may be somebody else.
OURS = RestoreOptions(owners=os.geteuid() == 0)
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def repository() -> MemoryRepository:
    return MemoryRepository()


def tree(path: Path) -> dict[str, bytes | str | None]:
    """Files by content, links by target, directories as None; markers show."""
    found: dict[str, bytes | str | None] = {}
    for name, row in walk(os.fsencode(path)):
        if name:
            kind = row["type"]
            found[name] = None if kind == "d" else row["target"] if kind == "s" else (path / name).read_bytes()
    return found


async def failing(repository: MemoryRepository, root: Entry, target: Path, options: RestoreOptions) -> RestoreReport:
    """A restore that ends with failures."""
    report = RestoreReport()
    with pytest.raises(PartialRestore):
        await restore(repository, root, target, options=options, report=report)
    return report


# ---- whole snapshots ----


@root_only
@pytest.mark.parametrize(("name", "snapshot"), [("small-v3", 1), ("default-v3", 0), ("v1", 0), ("v1", 3), ("v2", 3)])
async def test_a_golden_snapshot_comes_back_with_owner_mode_time_links_and_content(
    golden: Path, golden_repository, tmp_path: Path, name: str, snapshot: int
) -> None:
    expected = repositories(golden, name)[0]
    storage = await open_storage(golden_repository(name).as_uri())
    async with Repository.open(storage, expected["password"]) as repository:
        wanted = expected["snapshots"][snapshot]
        manifest = repository.manifests.get(ManifestId(wanted["id"]))
        root = decode_snapshot(manifest.id, bytes(manifest.data)).root
        assert root is not None
        report = await restore(repository, root, tmp_path / "target")
    await storage.close()
    assert differences(rows(expected, wanted), tmp_path / "target") == []
    collisions = [w.path for w in report.warnings]
    assert collisions == (["collide/x\ufffd"] if name == "default-v3" else [])


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)
leaves = st.tuples(st.binary(max_size=40), st.integers(0, 9), st.integers(0, 0o777).map(lambda mode: mode | 0o400))


@given(st.recursive(leaves, lambda children: st.dictionaries(names, children, max_size=5), max_leaves=25))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
async def test_whatever_was_stored_comes_back(tmp_path_factory: pytest.TempPathFactory, shape: object) -> None:
    repository = MemoryRepository()
    expected: dict[str, bytes | None] = {}

    def build(name: str, path: str, item: object) -> Entry:
        if isinstance(item, dict):
            if path:
                expected[path] = None
            entries = [build(child, f"{path}/{child}" if path else child, below) for child, below in item.items()]
            entries.sort(key=lambda e: (e.type != DIRECTORY, e.name))
            return repository.directory(name, entries)
        data, chunk, mode = item  # type: ignore[misc]
        expected[path] = data
        return repository.file(name, data, chunk, mode)

    shape = shape if isinstance(shape, dict) else {"only": shape}
    target = tmp_path_factory.mktemp("restore") / "target"
    await restore(repository, build("", "", shape), target, options=OURS)
    assert tree(target) == expected


async def test_large_files_are_written_by_position_and_small_ones_joined(
    repository: MemoryRepository, tmp_path: Path
) -> None:
    large = os.urandom(restore_write.SMALL_FILE + 12345)
    small = os.urandom(5000)
    root = repository.directory(
        "r",
        [repository.file("large", large, 70_000), repository.file("small", small, 999), repository.file("x", b"")],
    )
    report = await restore(repository, root, tmp_path / "t", options=OURS)
    assert tree(tmp_path / "t") == {"large": large, "small": small, "x": b""}
    assert (report.files, report.bytes) == (3, len(large) + len(small))
    assert os.stat(tmp_path / "t" / "large").st_mtime_ns == 1_000_000_007


async def test_a_content_that_many_files_share_is_fetched_once_in_a_window(
    repository: MemoryRepository, tmp_path: Path
) -> None:
    entries = [repository.file(f"f{i:03d}", b"same") for i in range(100)]
    await restore(repository, repository.directory("r", entries), tmp_path / "t", options=OURS)
    assert len(repository.fetched) == 1
    assert set(tree(tmp_path / "t").values()) == {b"same"}


async def test_zeros_of_a_sparse_file_take_no_room(repository: MemoryRepository, tmp_path: Path) -> None:
    data = bytes(4 << 20) + b"end"
    root = repository.directory("r", [repository.file("sparse", data, 1 << 20)])
    options = RestoreOptions(sparse=True, owners=OURS.owners)
    await restore(repository, root, tmp_path / "t", options=options)
    status = os.stat(tmp_path / "t" / "sparse")
    assert (tmp_path / "t" / "sparse").read_bytes() == data
    assert status.st_blocks * 512 < 1 << 20


async def test_a_directory_that_nobody_may_enter_is_filled_first(repository: MemoryRepository, tmp_path: Path) -> None:
    inner = repository.directory("inner", [repository.file("f", b"x")], mode=0, mtime_ns=123)
    root = repository.directory("r", [repository.directory("outer", [inner], mode=0o555, mtime_ns=456)])
    await restore(repository, root, tmp_path / "t", options=OURS)
    outer = os.stat(tmp_path / "t" / "outer")
    assert (stat.S_IMODE(outer.st_mode), outer.st_mtime_ns) == (0o555, 456)
    os.chmod(tmp_path / "t" / "outer", 0o700)
    status = os.stat(tmp_path / "t" / "outer" / "inner")
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0, 123)
    os.chmod(tmp_path / "t" / "outer" / "inner", 0o700)
    assert tree(tmp_path / "t")["outer/inner/f"] == b"x"


# ---- parts of a snapshot ----


async def test_a_sub_tree_and_a_single_file(repository: MemoryRepository, tmp_path: Path) -> None:
    sub = repository.directory("sub", [repository.file("f", b"1"), repository.link("l", b"f")])
    root = repository.directory("r", [sub])
    await restore(repository, root, tmp_path / "sub", path=("sub",), options=OURS)
    assert tree(tmp_path / "sub") == {"f": b"1", "l": "f"}
    await restore(repository, root, tmp_path / "as-named", path=("sub", "f"), options=OURS)
    assert (tmp_path / "as-named").read_bytes() == b"1"
    (tmp_path / "folder").mkdir()
    await restore(repository, root, tmp_path / "folder", path=("sub", "f"), options=OURS)
    await restore(repository, root, tmp_path / "folder", path=("sub", "l"), options=OURS)
    assert tree(tmp_path / "folder") == {"f": b"1", "l": "f"}
    with pytest.raises(PathNotInSnapshot):
        await restore(repository, root, tmp_path / "nowhere", path=("sub", "g"))
    assert not (tmp_path / "nowhere").exists()


# ---- existing targets ----


@pytest.fixture
def occupied(tmp_path: Path) -> Path:
    target = tmp_path / "target"
    (target / "d").mkdir(parents=True)
    (target / "d" / "old").write_bytes(b"mine")
    (target / "d" / "extra").write_bytes(b"extra")
    (target / "more" / "deep").mkdir(parents=True)
    return target


def incoming(repository: MemoryRepository) -> Entry:
    sub = repository.directory("d", [repository.file("new", b"new"), repository.file("old", b"theirs")])
    return repository.directory("r", [sub])


async def test_existing_files_are_overwritten_and_others_stay(repository: MemoryRepository, occupied: Path) -> None:
    await restore(repository, incoming(repository), occupied, options=OURS)
    assert tree(occupied) == {
        "d": None,
        "d/new": b"new",
        "d/old": b"theirs",
        "d/extra": b"extra",
        "more": None,
        "more/deep": None,
    }


async def test_existing_files_are_skipped_without_reading_what_they_hold(
    repository: MemoryRepository, occupied: Path
) -> None:
    options = RestoreOptions(existing=Existing.SKIP, owners=OURS.owners)
    report = await restore(repository, incoming(repository), occupied, options=options)
    assert (report.skipped, report.files) == (1, 1)
    assert tree(occupied)["d/old"] == b"mine"
    assert len(repository.fetched) == 1


async def test_existing_files_fail_by_name_and_the_rest_is_restored(
    repository: MemoryRepository, occupied: Path
) -> None:
    options = RestoreOptions(existing=Existing.FAIL, owners=OURS.owners)
    report = await failing(repository, incoming(repository), occupied, options)
    assert [(f.path, f.code) for f in report.failures] == [("d/old", TargetExists.code)]
    assert (tree(occupied)["d/old"], tree(occupied)["d/new"]) == (b"mine", b"new")


async def test_what_the_snapshot_lacks_is_deleted_on_request(repository: MemoryRepository, occupied: Path) -> None:
    (occupied / "d" / "new").mkdir()
    (occupied / "d" / "new" / "in the way").write_bytes(b"")
    options = RestoreOptions(delete_extra=True, owners=OURS.owners)
    report = await restore(repository, incoming(repository), occupied, options=options)
    assert tree(occupied) == {"d": None, "d/new": b"new", "d/old": b"theirs"}
    assert report.removed == 2


async def test_a_hard_link_to_a_file_outside_is_replaced_not_written_through(
    repository: MemoryRepository, occupied: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    (occupied / "d" / "old").unlink()
    os.link(outside, occupied / "d" / "old")
    (occupied / "d" / "new").symlink_to(outside)
    await restore(repository, incoming(repository), occupied, options=OURS)
    assert outside.read_bytes() == b"precious"
    assert tree(occupied)["d/new"] == b"new"


# ---- hostile and damaged snapshots ----


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../../escaped", "/tmp/escaped", "nul\0", "/"])
@pytest.mark.parametrize("kind", ["f", "d", "s"])
async def test_a_name_that_leads_elsewhere_is_refused_by_name(
    repository: MemoryRepository, tmp_path: Path, name: str, kind: str
) -> None:
    evil = {
        "f": repository.file(name, b"evil"),
        "d": repository.directory(name, [repository.file("inside", b"evil")]),
        "s": repository.link(name, b"evil"),
    }[kind]
    target = tmp_path / "outer" / "target"
    target.parent.mkdir()
    root = repository.directory("r", [evil, repository.file("good", b"g")])
    report = await failing(repository, root, target, OURS)
    assert [f.code for f in report.failures] == ["volume.unsafe-name"]
    assert tree(tmp_path / "outer") == {"target": None, "target/good": b"g"}


async def test_a_link_that_becomes_a_directory_of_the_same_name_is_not_followed(
    repository: MemoryRepository, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = repository.link("x", os.fsencode(outside))
    trap = repository.directory("x", [repository.file("planted", b"evil")])
    for entries in ([link, trap], [trap, link]):
        target = tmp_path / f"t{entries[0].type}"
        with pytest.raises(PartialRestore) if entries[0] is trap else _either():
            await restore(repository, repository.directory("r", entries), target, options=OURS)
        assert os.listdir(outside) == []


class _either:  # noqa: N801
    """A restore that may or may not be complete; what counts is what it leaves alone."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, value: object, at: object) -> bool:
        return kind is not None and issubclass(kind, PartialRestore)


async def test_a_link_already_in_the_target_is_replaced_by_the_directory_of_its_name(
    repository: MemoryRepository, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "d").symlink_to(outside)
    await restore(repository, incoming(repository), tmp_path / "t", options=OURS)
    assert os.listdir(outside) == []
    assert tree(tmp_path / "t")["d/new"] == b"new"


async def test_of_two_files_with_one_name_the_last_is_kept_and_the_name_is_told(
    repository: MemoryRepository, tmp_path: Path
) -> None:
    entries = [repository.file(n, d) for n, d in [("a", b"1"), ("c", b"2"), ("a", b"3"), ("b", b"4"), ("a", b"5")]]
    report = await restore(repository, repository.directory("r", entries), tmp_path / "t", options=OURS)
    assert tree(tmp_path / "t") == {"a": b"5", "b": b"4", "c": b"2"}
    assert {w.path for w in report.warnings} == {"a"}


async def test_directories_whose_names_lost_their_order_when_stored_come_back(
    repository: MemoryRepository, tmp_path: Path
) -> None:
    inside = [repository.file("f", b"x")]
    names = ["\ufffd\ufffd", "\u2028", "caf\u00e9", "\u00e9", "\ufffd"]
    root = repository.directory("root", [repository.directory(name, inside) for name in names])
    report = await restore(repository, root, tmp_path / "out", options=OURS)
    assert not report.warned
    assert tree(tmp_path / "out") == {**dict.fromkeys(names), **{f"{name}/f": b"x" for name in names}}


async def test_missing_contents_and_directories_are_named_and_the_rest_comes_back(
    repository: MemoryRepository, tmp_path: Path
) -> None:
    lost = repository.file("lost", b"lost")
    big = repository.file("big", os.urandom(2 << 20), 1 << 19)
    gone = repository.directory("gone", [repository.file("never", b"seen")], mtime_ns=99)
    root = repository.directory("r", [gone, big, repository.file("good", b"g"), lost])
    for cid in (parse_content_id(lost.obj), parse_content_id(gone.obj), repository.lists[big.obj][2].content):
        del repository.data[cid]
    report = await failing(repository, root, tmp_path / "t", OURS)
    failures = {f.path: f.code for f in report.failures}
    assert failures == dict.fromkeys(["lost", "big", "gone"], "repository.content-not-found")
    assert tree(tmp_path / "t") == {"gone": None, "good": b"g"}
    assert os.stat(tmp_path / "t" / "gone").st_mtime_ns == 99


async def test_fail_fast_ends_with_the_first_failure(repository: MemoryRepository, tmp_path: Path) -> None:
    lost = repository.file("lost", b"lost")
    del repository.data[parse_content_id(lost.obj)]
    with pytest.raises(RepositoryError) as caught:
        await restore(
            repository,
            repository.directory("r", [lost]),
            tmp_path / "t",
            options=RestoreOptions(fail_fast=True, owners=OURS.owners),
        )
    assert content_text(parse_content_id(lost.obj)) in str(caught.value)


@pytest.mark.parametrize("obj", ["", "I", "zz", "Z", "k" + "0" * 31])
async def test_an_object_id_that_makes_no_sense_is_named(
    repository: MemoryRepository, tmp_path: Path, obj: str
) -> None:
    entry = Entry(name="f", type=FILE, size=3, obj=ObjectId(obj))
    report = await failing(repository, repository.directory("r", [entry]), tmp_path / "t", OURS)
    assert [f.path for f in report.failures] == ["f"]


async def test_an_entry_of_an_unknown_type_is_named(repository: MemoryRepository, tmp_path: Path) -> None:
    strange = Entry(name="dev", type="c", obj=repository.object(b""))
    with pytest.raises(PartialRestore, match="unknown type"):
        await restore(repository, repository.directory("r", [strange]), tmp_path / "t", options=OURS)


async def test_a_target_that_is_a_file_is_refused(repository: MemoryRepository, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"keep")
    with pytest.raises(VolumeError):
        await restore(repository, repository.directory("r", []), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"keep"
