"""The first process of a container is not deaf while it starts."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

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
