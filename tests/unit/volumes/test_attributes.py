"""Mode bits as Go keeps them, kinds, and the runs of data in a buffer."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import _native
from agent.volumes.attributes import Attributes, attributes_of, go_mode, posix_mode


@pytest.mark.parametrize(
    ("posix", "go"), [(0o644, 0o644), (0o4755, 0o40000755), (0o2755, 0o20000755), (0o1777, 0o4000777), (0, 0)]
)
def test_mode_bits_are_those_of_go(posix: int, go: int) -> None:
    assert go_mode(posix) == go
    assert go_mode(posix | stat.S_IFDIR) == go
    assert posix_mode(go) == posix


@given(st.integers(0, 0o7777))
def test_all_mode_bits_survive_both_ways(mode: int) -> None:
    assert posix_mode(go_mode(mode)) == mode


def test_attributes_are_what_the_system_says(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("x")
    (tmp_path / "file").write_bytes(b"abc")
    os.utime(tmp_path / "file", ns=(0, -1_500_000_001))
    for path, kind in ((tmp_path, "is_directory"), (tmp_path / "link", "is_symlink"), (tmp_path / "file", "is_file")):
        s = os.lstat(path)
        a = attributes_of(s)
        found = (a.mode, a.size, a.mtime_ns, a.uid, a.gid, a.dev, a.ino, a.nlink, a.rdev)
        assert found == (
            *(s.st_mode, s.st_size, s.st_mtime_ns, s.st_uid, s.st_gid),
            *(s.st_dev, s.st_ino, s.st_nlink, s.st_rdev),
        )
        assert [name for name in ("is_directory", "is_symlink", "is_file") if getattr(a, name)] == [kind]
        directory = os.open(path.parent, os.O_RDONLY)
        assert _native.stat_many(directory, [os.fsencode(path.name)]) == [a]
        os.close(directory)


def test_attributes_are_values() -> None:
    one = Attributes(0o100644, 3, -1, 2, 3)
    assert one == Attributes(mode=0o100644, size=3, mtime_ns=-1, uid=2, gid=3, nlink=1)
    assert (one.dev, one.ino, one.nlink, one.rdev) == (0, 0, 1, 0)
    for other in (Attributes(0o100600, 3, -1, 2, 3), Attributes(0o100644, 3, -1, 2, 3, 0, 0, 1, 9), 3, None):
        assert one != other
    assert "mode=0o100644, size=3, mtime_ns=-1, uid=2" in repr(one)
    with pytest.raises(TypeError):
        hash(one)
    with pytest.raises(AttributeError):
        object.__setattr__(one, "size", 4)
    with pytest.raises(TypeError, match="Attributes are needed"):
        _native.entry_prefixes([b"x"], [one.mode])


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=8), st.integers(1, 16))
def test_runs_of_data_cover_all_that_is_not_zero_in_whole_blocks(parts: list[tuple[bool, int]], block: int) -> None:
    data = b"".join((b"\x01" if full else b"\0") * length for full, length in parts)
    expected = bytearray(len(data))
    last = -1
    for start, length in _native.data_runs(data, block):
        assert start > last and length > 0 and start % block == 0
        assert length % block == 0 or start + length == len(data)
        for at in range(start, start + length, block):
            assert any(data[at : at + block]), "no block of zeros is in a run"
        expected[start : start + length] = data[start : start + length]
        last = start + length
    assert bytes(expected) == data
