"""Mode bits as Go keeps them, kinds, and the runs of data in a buffer."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import _native
from agent.volumes.attributes import FileKind, attributes_of, go_mode, kind_of_type, posix_mode


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


def test_kinds_come_from_types_and_modes_alike(tmp_path: Path) -> None:
    attributes = attributes_of(os.stat(tmp_path))
    assert attributes.kind is FileKind.DIRECTORY and attributes.is_directory
    assert kind_of_type(4) is FileKind.DIRECTORY
    assert kind_of_type(200) is FileKind.UNKNOWN


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
