"""Run one command and account for it: wall, CPU of the whole process tree, peak memory.

Memory is the sum of the proportional set sizes of all processes of the tree, sampled every 100 ms; shared pages are
counted once, file-backed mappings are told apart from the rest. The sampler is the same for every tool.
"""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class Usage:
    """What one run of a command cost."""

    wall_s: float
    cpu_s: float
    """User and system seconds of the command and everything it waited for."""
    sync_s: float
    """From its end until all that it had written was on disk."""
    peak_bytes: int
    """Largest sampled sum of PSS without file-backed pages."""
    peak_file_bytes: int
    """Largest sampled sum of file-backed PSS."""
    exit_status: int
    stdout: str


def _children(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        try:
            for task in Path(f"/proc/{parent}/task").iterdir():
                found.extend(int(child) for child in (task / "children").read_text().split())
        except OSError:
            continue
    return found


def _pss(pid: int) -> tuple[int, int]:
    fields: dict[str, int] = {}
    try:
        with Path(f"/proc/{pid}/smaps_rollup").open() as lines:
            for line in lines:
                key, _, rest = line.partition(":")
                if key in ("Pss", "Pss_File"):
                    fields[key] = int(rest.split()[0]) * 1024
    except OSError:
        return 0, 0
    file_backed = fields.get("Pss_File", 0)
    return fields.get("Pss", 0) - file_backed, file_backed


class _PeakWatch(threading.Thread):
    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._ended = threading.Event()
        self.peak = 0
        self.peak_file = 0

    def run(self) -> None:
        while True:
            samples = [_pss(pid) for pid in _children(self._pid)]
            self.peak = max(self.peak, sum(s[0] for s in samples))
            self.peak_file = max(self.peak_file, sum(s[1] for s in samples))
            if self._ended.wait(INTERVAL_S):
                return

    def finish(self) -> None:
        self._ended.set()
        self.join()


def measure(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Usage:
    """Run `command` in `folder` to its end; stderr goes to `folder/stderr.log`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    with (folder / "stderr.log").open("ab") as stderr:
        process = subprocess.Popen(
            command, env=dict(environment), stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=folder
        )
        watch = _PeakWatch(process.pid)
        watch.start()
        stdout, _ = process.communicate()
        wall = time.monotonic() - started
        watch.finish()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    ended = time.monotonic()
    os.sync()
    return Usage(wall, cpu, time.monotonic() - ended, watch.peak, watch.peak_file, process.returncode, stdout)


def drop_page_cache() -> bool:
    """Empty the page cache so that no tool profits from the one before; False where that is not allowed."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True
