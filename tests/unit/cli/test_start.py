"""How a process begins and ends: it is not deaf while it starts, and nothing it said is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

NAMESPACE = ("unshare", "--user", "--map-root-user", "--pid", "--fork")
SLOW = "import pathlib, time; pathlib.Path({there!r}).touch(); time.sleep(600)"


def _can_make_namespaces() -> bool:
    return shutil.which("unshare") is not None and subprocess.run([*NAMESPACE, "true"], check=False).returncode == 0


@pytest.fixture(scope="module")
def namespaces() -> None:
    if not _can_make_namespaces():
        pytest.skip("no process namespaces here")


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("entry", ["lighter", "velero"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_to_the_first_process_ends_it_while_it_imports(
    tmp_path: Path, entry: str, number: signal.Signals
) -> None:
    there = tmp_path / "imports"
    (tmp_path / "click.py").write_text(SLOW.format(there=str(there)))
    (tmp_path / "msgspec.py").write_text(SLOW.format(there=str(there)))
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from agent.cli.start import {entry}; {entry}()"
    with subprocess.Popen([*NAMESPACE, sys.executable, "-c", program]) as outside:
        try:
            _wait_for(there)
            (first,) = Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text().split()
            subprocess.run(["kill", f"-{number.value}", first], check=True)
            assert outside.wait(60) == 128 + number
        finally:
            subprocess.run(["pkill", "-KILL", "-P", str(outside.pid)], check=False)


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, "it never imported anything"
        time.sleep(0.01)


def _run(body: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """A command whose `main` is `body`, started as the installed one is."""
    program = f"""
import sys
import agent.cli.main
def main():
{textwrap.indent(body, "    ")}
agent.cli.main.main = main
from agent.cli.start import lighter
lighter()
"""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run([sys.executable, "-c", program], text=True, check=False, env=buffered, **more)


def test_a_command_ends_with_its_status_all_that_it_printed_and_what_was_to_run_at_its_end() -> None:
    done = _run(
        "import atexit\natexit.register(print, 'at the end')\nprint('said')\nsys.exit(73)",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert (done.returncode, done.stdout, done.stderr) == (73, "said\nat the end\n", "")


def test_output_that_cannot_be_written_is_a_failure() -> None:
    with open("/dev/full", "w") as full:
        done = _run("print('said')\nsys.exit(0)", stdout=full)
    assert done.returncode == 120


def test_a_defect_is_shown_where_it_happened() -> None:
    done = _run("raise ZeroDivisionError('here')", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert "ZeroDivisionError: here" in done.stderr
