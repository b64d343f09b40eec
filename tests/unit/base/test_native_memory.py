"""Memory that is free goes back to the system when it is asked for."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from agent._native import return_free_pages

PIECE = 64 << 10


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep what they like")
def test_free_pages_between_used_ones_go_back() -> None:
    pieces = [bytearray(b"x" * PIECE) for _ in range(256)]
    del pieces[::2]
    before = resident()
    return_free_pages()
    assert resident() <= before - 64 * PIECE
    assert all(piece == b"x" * PIECE for piece in pieces)
