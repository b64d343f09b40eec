"""Telling a waiting pod that its volume is restored, in volumes that are not to be trusted. On real directories."""

import errno
import os
import stat
from pathlib import Path

import pytest

from agent.base.errors import DoneFileFailed
from agent.exposers.done_file import remove_done_folder, write_done_file

UID = "1ea2a3ea-4b03-4f1c-8a5b-2f2cb0cd2ad1"


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = tmp_path / "volume"
    path.mkdir()
    (path / "data").write_text("restored")
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def assert_done(volume: Path) -> None:
    folder = volume / ".velero"
    assert not folder.is_symlink()
    assert [entry.name for entry in folder.iterdir()] == [UID]
    assert stat.S_ISREG((folder / UID).lstat().st_mode)
    assert (folder / UID).read_bytes() == b""
    assert (mode(folder), mode(folder / UID)) == (0o755, 0o644)
    assert (volume / "data").read_text() == "restored"


def test_the_done_file_is_empty_and_readable_for_everybody(volume: Path) -> None:
    before = os.umask(0o077)
    try:
        write_done_file(str(volume), UID)
    finally:
        os.umask(before)
    assert_done(volume)


def test_the_folder_of_an_earlier_restore_is_replaced(volume: Path) -> None:
    deep = volume / ".velero" / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "file").touch()
    (volume / ".velero" / "an-earlier-restore").touch()
    write_done_file(str(volume), UID)
    assert_done(volume)


def test_a_tree_deeper_than_a_path_may_be_long_is_replaced(volume: Path) -> None:
    fd = os.open(volume, os.O_RDONLY | os.O_DIRECTORY)
    for name in [".velero", *["d" * 200] * 60]:
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    write_done_file(str(volume), UID)
    assert_done(volume)


def test_a_link_in_place_of_the_folder_is_replaced_and_not_followed(volume: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "etc"
    elsewhere.mkdir()
    (elsewhere / "passwd").write_text("kept")
    (volume / ".velero").symlink_to(elsewhere)
    write_done_file(str(volume), UID)
    assert_done(volume)
    assert [entry.name for entry in elsewhere.iterdir()] == ["passwd"]


def test_a_link_below_the_folder_is_removed_and_not_followed(volume: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "etc"
    elsewhere.mkdir()
    (elsewhere / "passwd").write_text("kept")
    (volume / ".velero").mkdir()
    (volume / ".velero" / UID).symlink_to(elsewhere / "created")
    (volume / ".velero" / "dir").symlink_to(elsewhere)
    write_done_file(str(volume), UID)
    assert_done(volume)
    assert [entry.name for entry in elsewhere.iterdir()] == ["passwd"]


def test_a_file_in_place_of_the_folder_is_replaced(volume: Path) -> None:
    (volume / ".velero").write_text("not a folder")
    write_done_file(str(volume), UID)
    assert_done(volume)


def test_a_folder_in_place_of_the_file_is_replaced(volume: Path) -> None:
    (volume / ".velero" / UID / "below").mkdir(parents=True)
    write_done_file(str(volume), UID)
    assert_done(volume)


def test_writing_once_more_keeps_the_file_that_is_there(volume: Path) -> None:
    write_done_file(str(volume), UID)
    first = (volume / ".velero" / UID).stat().st_ino
    write_done_file(str(volume), UID)
    assert_done(volume)
    assert (volume / ".velero" / UID).stat().st_ino == first


def test_a_root_that_is_a_link_is_refused(volume: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(volume)
    with pytest.raises(DoneFileFailed, match="link"):
        write_done_file(str(link), UID)
    assert not (volume / ".velero").exists()


def test_a_volume_that_is_gone_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DoneFileFailed, match="No such file or directory; the pod stays in its init container"):
        write_done_file(str(tmp_path / "absent"), UID)


@pytest.mark.parametrize("uid", ["", ".", "..", "a/b", "../../etc/cron.d/x", "a\0b", "x" * 256])
def test_a_uid_that_is_not_one_name_is_refused(volume: Path, uid: str) -> None:
    with pytest.raises(DoneFileFailed, match="cannot be the name of a file"):
        write_done_file(str(volume), uid)
    with pytest.raises(DoneFileFailed, match="cannot be the name of a file"):
        remove_done_folder(str(volume), uid)
    assert not (volume / ".velero").exists()


def test_a_done_file_that_may_not_last_is_taken_back(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DoneFileFailed, match="Input/output error"):
        write_done_file(str(volume), UID)
    assert sorted(entry.name for entry in volume.iterdir()) == ["data"]


def test_the_folder_goes_once_the_restore_is_over(volume: Path) -> None:
    write_done_file(str(volume), UID)
    assert remove_done_folder(str(volume), UID)
    assert sorted(entry.name for entry in volume.iterdir()) == ["data"]
    assert not remove_done_folder(str(volume), UID)


def test_a_folder_that_the_application_made_stays(volume: Path) -> None:
    (volume / ".velero").mkdir()
    (volume / ".velero" / "settings").touch()
    assert not remove_done_folder(str(volume), UID)
    assert (volume / ".velero" / "settings").exists()


def test_removing_follows_no_link(volume: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / UID).touch()
    (volume / ".velero").symlink_to(elsewhere)
    assert not remove_done_folder(str(volume), UID)
    assert (elsewhere / UID).exists()
