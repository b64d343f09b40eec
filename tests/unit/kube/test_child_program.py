"""Programs that tests start: what a family of them leaves behind when it, or the test run, is ended by force."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.testing.control_plane_process import ChildProgram, eventually

SECONDS = 60.0
WITH_A_CHILD = "sleep 1000 & echo $! >child.new; mv child.new child; exec sleep 1000"
TEST_RUN = f"""
import sys, time
from pathlib import Path
from agent.testing.control_plane_process import ChildProgram
ChildProgram("program", ["sh", "-c", {WITH_A_CHILD!r}], Path(sys.argv[1]), family=True).start()
time.sleep(1000)
"""


def has_ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def child_of(folder: Path) -> int:
    eventually("the program has its child", (folder / "child").exists, seconds=SECONDS)
    return int((folder / "child").read_text())


def wait_ended(child: int) -> None:
    eventually("the child has ended", lambda: has_ended(child), seconds=SECONDS)


@pytest.fixture
def family(tmp_path: Path) -> ChildProgram:
    return ChildProgram("program", ["sh", "-c", WITH_A_CHILD], tmp_path, family=True)


@pytest.mark.parametrize("end", [ChildProgram.kill, ChildProgram.stop])
def test_what_a_family_started_ends_with_it(
    family: ChildProgram, tmp_path: Path, end: Callable[[ChildProgram], None]
) -> None:
    family.start()
    child = child_of(tmp_path)
    assert not has_ended(child)
    end(family)
    wait_ended(child)
    assert not family.running


def test_what_a_family_started_ends_when_it_has_ended_by_itself(family: ChildProgram, tmp_path: Path) -> None:
    family.start()
    child = child_of(tmp_path)
    family.signal(signal.SIGKILL)
    assert family.wait(SECONDS) == -signal.SIGKILL
    wait_ended(child)


def test_a_family_ends_with_a_test_run_that_is_killed(tmp_path: Path) -> None:
    run = subprocess.Popen([sys.executable, "-c", TEST_RUN, tmp_path])
    try:
        child = child_of(tmp_path)
    finally:
        run.kill()
        run.wait()
    wait_ended(child)


def test_what_another_program_started_is_left_to_it(tmp_path: Path) -> None:
    program = ChildProgram("program", ["sh", "-c", WITH_A_CHILD], tmp_path)
    program.start()
    child = child_of(tmp_path)
    program.kill()
    try:
        assert not has_ended(child)
    finally:
        os.kill(child, signal.SIGKILL)
