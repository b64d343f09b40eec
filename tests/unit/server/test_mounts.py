"""The kernel's table of mounts says whether later mounts of the host are seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.server.mounts import MountTable, propagates


@pytest.mark.parametrize(
    ("options", "expected"), [("master:7 ", True), ("shared:3 ", True), ("shared:3 master:7 ", True), ("", False)]
)
def test_a_mount_receives_when_it_has_a_master_or_peers(tmp_path: Path, options: str, expected: bool) -> None:
    folder = tmp_path / "host pods"
    folder.mkdir()
    point = str(folder.resolve()).replace(" ", "\\040")
    table = tmp_path / "mountinfo"
    table.write_text(
        f"1 0 0:1 / / rw shared:1 - overlay o rw\n2 1 8:1 / {point} rw,noatime {options}- ext4 d rw\nbad\n"
    )
    assert propagates(str(folder), MountTable(table)) is expected


def test_without_a_table_nothing_is_known_to_be_wrong(tmp_path: Path) -> None:
    assert propagates(str(tmp_path), MountTable(tmp_path / "none"))


def test_the_last_of_several_mounts_at_one_point_counts(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        f"1 0 0:1 / {tmp_path.resolve()} rw shared:1 - a b rw\n2 1 8:1 / {tmp_path.resolve()} rw - c d rw\n"
    )
    assert not propagates(str(tmp_path), MountTable(table))
