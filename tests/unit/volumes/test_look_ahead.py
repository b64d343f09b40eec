"""Looking ahead of a walk: what is looked at when, and what of it is used."""

import errno
import os
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from agent import _native
from agent.volumes import look_ahead
from agent.volumes.attributes import Attributes
from agent.volumes.handles import DirectoryHandles
from agent.volumes.look_ahead import DirectoriesAhead, LookAhead, Survey
from agent.volumes.tree_read import DirectoryReader, TreeEntry, open_directory

GO_ON = bytearray(1)


@pytest.fixture
def folder(tmp_path):
    for name, files in {"a": 3, "b": 0, "c": 1}.items():
        (tmp_path / name).mkdir()
        for i in range(files):
            (tmp_path / name / str(i)).touch()
    (tmp_path / "link").symlink_to("a")
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("names", "most", "counts"),
    [
        ([b"a", b"b", b"c"], 100, [3, 0, 1]),
        ([b"a", b"b", b"c"], 3, [3]),
        ([b"a", b"b", b"c"], 5, [3, 0]),
        ([b"a", b"b"], 2, [None]),
        ([b"b", b"a", b"c"], 3, [0]),
        ([b"link", b"gone", b"..", b"x/y", b"", b"c"], 100, [None, None, None, None, None, 1]),
        ([], 4, []),
    ],
    ids=[
        "all",
        "full after one",
        "room for one more",
        "too many names",
        "next time",
        "no directories",
        "none",
    ],
)
def test_directories_are_looked_into_until_there_are_enough_names(folder, names, most, counts):
    found = _native.survey(folder, names, most, GO_ON)
    assert [None if item is None else item[3] for item in found] == counts


def test_a_survey_has_what_listing_and_lstat_say_in_the_same_order(tmp_path):
    inside = tmp_path / "d"
    inside.mkdir()
    for name in (b"z-directory", b"a-directory", b"directory\xff"):
        os.mkdir(os.fsencode(inside) + b"/" + name)
    for name in (b"m", b"M", b"\xfe", b"\n", b"a-direct"):
        Path(os.fsdecode(os.fsencode(inside) + b"/" + name)).write_bytes(name)
    (inside / "link").symlink_to("z-directory")
    os.mkfifo(inside / "pipe")
    os.utime(inside / "m", ns=(0, -1_500_000_001))
    with open_directory(inside.as_posix()) as listed:
        expected = [entry for batch in listed.batches() for entry in batch]
        fd = os.open(tmp_path, os.O_RDONLY)
        (item,) = _native.survey(fd, [b"d"], 100, GO_ON)
        os.close(fd)
        survey = Survey(*item)
        status = inside.stat()
        assert (survey.dev, survey.ino, survey.count) == (status.st_dev, status.st_ino, 10)
        assert 0 <= time.monotonic_ns() - survey.when_ns < 60_000_000_000
        names, found = survey.found()
    assert [(entry.name, entry.attributes) for entry in expected] == list(zip(names, found, strict=True))


def test_other_file_systems_are_not_looked_into():
    top = os.open("/", os.O_RDONLY)
    try:
        assert os.stat("proc", dir_fd=top).st_dev != os.fstat(top).st_dev
        assert _native.survey(top, [b"proc"], 1_000_000, GO_ON) == [None]
    finally:
        os.close(top)


def test_the_flag_ends_it(folder):
    stopped = bytearray(b"\x01")
    assert _native.survey(folder, [b"a"], 4, stopped) == []
    _native.warm(folder, [b"a", b"gone", b".."], stopped)
    for call in (lambda: _native.survey(folder, [b"a"], 4, bytearray()), lambda: _native.warm(folder, [], bytearray())):
        with pytest.raises(ValueError, match="one byte"):
            call()


def test_records_that_are_not_whole_are_refused(folder):
    ((_, _, _, count, data),) = _native.survey(folder, [b"a"], 4, GO_ON)
    for wrong in ((count, data[:-2]), (count, data[:10]), (-1, data), (2**60, data)):
        with pytest.raises(ValueError, match=r"not so many|cut short"):
            _native.surveyed(*wrong)


class Looks:
    """Keeps what would be looked at; a job is done when the test says so."""

    def __init__(self):
        self.asked: list[list[bytes]] = []
        self.job: Future[int] = Future()

    def into(self, node, names):
        self.asked.append(list(names))
        self.job = Future()
        return self.job


def test_the_next_directories_are_looked_into_when_the_walk_comes_to_the_last_ones():
    looks = Looks()
    names = [b"%d" % i for i in range(8)]
    ahead = DirectoriesAhead(looks, None, names)
    ahead.reached(0)
    assert looks.asked == [names[1:]]
    looks.job.set_result(2)
    ahead.reached(1)
    assert looks.asked[1:] == [names[3:]]
    ahead.reached(2)
    assert len(looks.asked) == 2, "one job ahead is enough"
    looks.job.set_result(1)
    ahead.reached(6)
    assert looks.asked[2:] == [names[7:]], "never what the walk has passed"
    looks.job.set_result(1)
    ahead.reached(7)
    assert len(looks.asked) == 3, "nothing is left"


def test_a_walk_does_not_wait_long(monkeypatch):
    monkeypatch.setattr(look_ahead, "_PATIENCE", 0.001)
    looks = Looks()
    ahead = DirectoriesAhead(looks, None, [b"a", b"b", b"c"])
    ahead.reached(0)
    ahead.reached(1)
    ahead.reached(2)
    assert looks.asked == [[b"b", b"c"]]


def test_a_directory_that_is_gone_is_the_business_of_the_walk(tmp_path):
    (tmp_path / "a").mkdir()
    handles = DirectoryHandles(tmp_path.as_posix())
    node, _ = handles.enter(handles.root, b"a")
    handles.leave(node)
    (tmp_path / "a").rmdir()
    look = LookAhead(handles)
    assert look.into(node, [b"x", b"y"]).result() == 2
    assert look.take(node, b"x") is None
    look.close()
    handles.close()


def test_only_so_many_names_are_held(tmp_path, monkeypatch):
    monkeypatch.setattr(look_ahead, "_NAMES_HELD", 7)
    names = [b"%d" % i for i in range(4)]
    for name in names:
        for i in range(2):
            (tmp_path / name.decode() / str(i)).mkdir(parents=True)
    handles = DirectoryHandles(tmp_path.as_posix())
    look = LookAhead(handles)
    assert look.into(handles.root, names).result() == 4
    assert [look.take(handles.root, name) is not None for name in names] == [False, False, True, True]
    assert look.take(handles.root, names[3]) is None, "each is taken once"
    for _ in range(3):
        look.into(handles.root, names[:2]).result()
    assert [look.take(handles.root, name) is not None for name in names] == [True, True, False, False]
    look.close()
    handles.close()


@pytest.fixture
def surveyed(tmp_path, monkeypatch):
    """A tree whose directory `b` has been looked into, and the calls that list and look at names since."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name in ("one", "two", "three"):
        (tmp_path / "b" / name).touch()
    with open_directory(tmp_path.as_posix()) as root:
        root.directories_ahead([b"a", b"b"]).reached(0)
        root._tree.look_ahead._thread.submit(lambda: None).result()
        calls = []
        stat_many = _native.stat_many
        monkeypatch.setattr(_native, "stat_many", lambda fd, names: calls.append(names) or stat_many(fd, names))
        yield root, calls


def _listed(root, name, size=2):
    reader = root.open_directory(name)
    assert isinstance(reader, DirectoryReader)
    with reader:
        return [[entry.name for entry in batch] for batch in reader.batches(size)]


def test_what_was_found_is_used_once(surveyed):
    root, calls = surveyed
    assert _listed(root, b"b") == [[b"one", b"three"], [b"two"]]
    assert calls == []
    assert _listed(root, b"b") == [[b"one", b"three"], [b"two"]]
    assert calls == [[b"one", b"three"], [b"two"]]


def test_what_was_found_in_another_directory_of_the_name_is_not_used(surveyed, tmp_path):
    root, calls = surveyed
    (tmp_path / "b").rename(tmp_path / "was b")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "new").touch()
    assert _listed(root, b"b") == [[b"new"]]
    assert calls == [[b"new"]]


def test_what_was_found_long_ago_is_not_used(surveyed, tmp_path, monkeypatch):
    root, _ = surveyed
    monkeypatch.setattr(look_ahead, "_A_MOMENT_NS", 0)
    (tmp_path / "b" / "four").touch()
    assert _listed(root, b"b", 10) == [[b"four", b"one", b"three", b"two"]]


def test_names_that_vanish_or_cannot_be_looked_at_are_told_apart(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(
        _native,
        "surveyed",
        lambda count, data: ([b"gone", b"ill", b"well"], [errno.ENOENT, errno.EIO, Attributes(0o100644, 0, 0, 0, 0)]),
    )
    with open_directory(tmp_path.as_posix()) as root:
        root._tree.look_ahead.into(root._node, [b"a"]).result()
        reader = root.open_directory(b"a")
        assert isinstance(reader, DirectoryReader)
        ((ill, well),) = reader.batches()
    assert (ill.name, ill.error) == (b"ill", errno.EIO)
    assert isinstance(well, TreeEntry)


def test_the_names_of_the_next_batch_are_looked_at(tmp_path, monkeypatch):
    for i in range(5):
        (tmp_path / str(i)).touch()
    asked = []
    at = LookAhead.at
    monkeypatch.setattr(LookAhead, "at", lambda self, node, names: asked.append(list(names)) or at(self, node, names))
    with open_directory(tmp_path.as_posix()) as root:
        assert [[entry.name for entry in batch] for batch in root.batches(2)] == [[b"0", b"1"], [b"2", b"3"], [b"4"]]
    assert asked == [[b"2", b"3"], [b"4"]]


def test_a_tree_can_be_closed_while_something_is_looked_at(tmp_path):
    for i in range(200):
        (tmp_path / f"{i}").mkdir()
        (tmp_path / f"{i}/x").touch()
    with open_directory(tmp_path.as_posix()) as root:
        root.directories_ahead([b"%d" % i for i in range(200)]).reached(0)
    with pytest.raises(RuntimeError):
        root.directories_ahead([b"1", b"2"]).reached(0)
