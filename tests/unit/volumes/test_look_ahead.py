"""Looking ahead of a walk: what is looked at when; that it changes nothing is every other test's business."""

import os
from concurrent.futures import Future
from pathlib import Path

import pytest

from agent import _native
from agent.volumes.handles import DirectoryHandles
from agent.volumes.look_ahead import DirectoriesAhead, LookAhead
from agent.volumes.tree_read import DirectoryReader, open_directory

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
    ("names", "below", "done"),
    [
        ([b"a", b"b", b"c"], 0, 3),
        ([b"a", b"b", b"c"], 4, 1),
        ([b"a", b"b", b"c"], 5, 2),
        ([b"b", b"c", b"a", b"b"], 3, 2),
        ([b"link", b"b", b"a", b"b"], 4, 3),
        ([b"gone", b"..", b"x/y", b"", b"a"], 4, 5),
        ([], 4, 0),
    ],
    ids=[
        "names alone",
        "full after one",
        "room for one more",
        "others first",
        "no links",
        "what is not there",
        "nothing",
    ],
)
def test_names_are_looked_at_until_there_are_enough(folder, names, below, done):
    assert _native.look_ahead(folder, names, below, GO_ON) == done


def test_other_file_systems_are_not_entered():
    top = os.open("/", os.O_RDONLY)
    try:
        assert os.stat("proc", dir_fd=top).st_dev != os.fstat(top).st_dev
        assert _native.look_ahead(top, [b"proc", b"proc", b"proc"], 2, GO_ON) == 2
    finally:
        os.close(top)


def test_the_flag_ends_it(folder):
    assert _native.look_ahead(folder, [b"a"], 4, bytearray(b"\x01")) == 0
    with pytest.raises(ValueError, match="one byte"):
        _native.look_ahead(folder, [b"a"], 4, bytearray())


class Looks:
    """Counts what would be looked at; a job is done when the test says so."""

    def __init__(self):
        self.asked: list[list[bytes]] = []
        self.job: Future[int] = Future()

    def into(self, node, names):
        self.asked.append(list(names))
        self.job = Future()
        return self.job


def test_the_next_directories_are_looked_at_when_the_walk_has_come_to_the_last_ones():
    looks = Looks()
    names = [b"%d" % i for i in range(8)]
    ahead = DirectoriesAhead(looks, None, names)
    ahead.reached(0)
    assert looks.asked == [names[1:]]
    ahead.reached(1)
    assert len(looks.asked) == 1, "the first job is not done"
    looks.job.set_result(2)
    ahead.reached(2)
    assert looks.asked[1:] == [names[3:]]
    looks.job.set_result(1)
    ahead.reached(2)
    assert len(looks.asked) == 2, "one job ahead is enough"
    ahead.reached(6)
    assert looks.asked[2:] == [names[7:]], "never what the walk has passed"
    looks.job.set_result(1)
    ahead.reached(7)
    assert len(looks.asked) == 3, "nothing is left"


def test_a_directory_that_is_gone_is_the_business_of_the_walk(tmp_path):
    (tmp_path / "a").mkdir()
    handles = DirectoryHandles(tmp_path.as_posix())
    node, _ = handles.enter(handles.root, b"a")
    handles.leave(node)
    (tmp_path / "a").rmdir()
    look = LookAhead(handles)
    assert look.at(node, [b"x", b"y"]).result() == 2
    look.close()
    handles.close()


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
        Path(tmp_path / f"{i}/x").touch()
    with open_directory(tmp_path.as_posix()) as root:
        assert isinstance(root, DirectoryReader)
        root.directories_ahead([b"%d" % i for i in range(200)]).reached(0)
    with pytest.raises(RuntimeError):
        root.directories_ahead([b"1", b"2"]).reached(0)
