"""Block devices and images: sizes, holes on the way in, zeros on the way out."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import _native
from agent.base.errors import SourceNotFound, SourceUnreadable, TargetExists, VolumeError, VolumeOutOfSpace
from agent.volumes.device import open_source_device, open_target_device

_MIB = 1 << 20


def test_an_image_is_read_with_its_holes_left_out(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with open(path, "wb") as out:
        out.seek(3 * _MIB)
        out.write(b"x" * 4096)
        out.truncate(8 * _MIB + 5)
    with open_source_device(path.as_posix()) as source:
        assert source.size == 8 * _MIB + 5
        assert list(source.data_ranges()) == [(3 * _MIB, 4096)]
        buffer = bytearray(10)
        assert source.readinto_at(buffer, 3 * _MIB - 5) == 10 and buffer == bytes(5) + b"x" * 5
        assert source.readinto_at(buffer, 8 * _MIB) == 5


def test_a_new_image_stays_sparse(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with open_target_device(path.as_posix(), 4 * _MIB) as target:
        target.write_at(0, bytes(_MIB))
        target.write_at(_MIB, b"data" + bytes(_MIB - 4))
        target.write_zeros(2 * _MIB, _MIB)
        target.finish()
    assert os.stat(path).st_blocks * 512 <= 64 * 1024
    assert path.read_bytes() == bytes(_MIB) + b"data" + bytes(3 * _MIB - 4)


def test_an_old_image_is_written_over_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"old!" * _MIB)
    with pytest.raises(TargetExists):
        open_target_device(path.as_posix(), _MIB)
    with open_target_device(path.as_posix(), _MIB, overwrite=True) as target:
        assert not target.is_blank
        assert target.read_at(_MIB - 4, 9) == b"old!"
        target.write_at(0, bytes(_MIB - 3) + b"new")
    assert path.read_bytes() == bytes(_MIB - 3) + b"new"


def test_an_image_of_nothing_is_blank(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.touch()
    with open_target_device(path.as_posix(), _MIB, overwrite=True) as target:
        assert target.is_blank


def test_what_is_neither_device_nor_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound):
        open_source_device((tmp_path / "gone").as_posix())
    with pytest.raises(SourceUnreadable):
        open_source_device(tmp_path.as_posix())
    with pytest.raises(SourceUnreadable):
        open_source_device("/dev/null")
    with pytest.raises(TargetExists):
        open_target_device("/dev/null", 10, overwrite=True)
    with pytest.raises(VolumeError):
        open_target_device(tmp_path.as_posix(), 10, overwrite=True)


def test_zeros_replace_what_a_device_held_before(attached: Callable[[Path], Path], tmp_path: Path) -> None:
    (tmp_path / "backing").write_bytes(b"\xaa" * (4 * _MIB))
    loop_device = str(attached(tmp_path / "backing"))
    with open_target_device(loop_device, 4 * _MIB) as target:
        assert target.is_device and not target.is_blank
        target.write_at(0, bytes(_MIB) + b"x" * 4096 + bytes(_MIB - 4096))
        target.write_zeros(2 * _MIB, _MIB)
        target.finish()
    with open_source_device(loop_device) as source:
        assert (source.size, list(source.data_ranges())) == (4 * _MIB, [(0, 4 * _MIB)])
        data = bytearray(source.size)
        assert source.readinto_at(data, 0) == len(data)
    assert data == bytes(_MIB) + b"x" * 4096 + bytes(2 * _MIB - 4096) + b"\xaa" * _MIB
    with pytest.raises(VolumeOutOfSpace):
        open_target_device(loop_device, 4 * _MIB + 1)


def test_zeros_are_written_where_holes_cannot_be_punched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.volumes import device

    def refuse(*_: int) -> None:
        raise OSError(95, "not supported")

    path = tmp_path / "old"
    path.write_bytes(b"\xaa" * (3 * _MIB))
    monkeypatch.setattr(_native, "allocate", refuse)
    with device.DeviceWriter(
        os.open(path, os.O_RDWR), path.as_posix(), 3 * _MIB, is_device=True, is_blank=False
    ) as target:
        target.write_at(0, b"x" * 4096 + bytes(2 * _MIB))
    assert path.read_bytes() == b"x" * 4096 + bytes(2 * _MIB) + b"\xaa" * (_MIB - 4096)
