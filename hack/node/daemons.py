"""The cluster's long-running processes: started in order, started anew when they die, kept down while a test says so.

Level-triggered: `Daemons.look` compares what should run with what runs. A file `held/NAME` says that NAME should not
run, which is how a test takes the API server or the object store away and gives it back.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hack.node.layout import Layout


class StartFailed(Exception):
    """Something did not come up in time; the message says what."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """One process: its name (of its log, and for `held`), its command line, its environment beyond ours."""

    name: str
    command: Sequence[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)


class Daemons:
    """All processes of the cluster; for process 1, which is also their parent."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._wanted: dict[str, Daemon] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, daemon: Daemon) -> None:
        self._wanted[daemon.name] = daemon
        self._spawn(daemon)

    def look(self) -> None:
        """Kill what is held, start what should run and does not."""
        for name, daemon in self._wanted.items():
            running = self._running.get(name)
            alive = running is not None and running.poll() is None
            held = (self._layout.held / name).exists()
            if held and alive:
                assert running is not None
                running.kill()
                running.wait()
                say(f"{name} is held down")
            elif not held and not alive:
                if running is not None and running.returncode >= 0:
                    say(f"{name} ended with status {running.returncode}; starting it again")
                self._spawn(daemon)

    def _spawn(self, daemon: Daemon) -> None:
        self._layout.logs.mkdir(parents=True, exist_ok=True)
        with open(self._layout.logs / f"{daemon.name}.log", "ab") as log:
            self._running[daemon.name] = subprocess.Popen(
                list(map(str, daemon.command)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._layout.run,
                env={**os.environ, **daemon.environment},
            )
        (self._layout.run / f"{daemon.name}.pid").write_text(f"{self._running[daemon.name].pid}\n")

    def reap_strangers(self) -> None:
        """Collect the orphans of others (containers' shims), as process 1 has to."""
        ours = {process.pid for process in self._running.values()}
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in ours:
                return
            os.waitpid(found.si_pid, 0)


def say(text: str) -> None:
    """A line of the cluster's own log, which `hack/cluster up` shows while it waits."""
    print(text, flush=True)


def wait_until(what: str, seconds: float, holds: Callable[[], bool]) -> None:
    """Wait until `holds`, and say what that means. Raises `StartFailed`."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > seconds:
            raise StartFailed(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.1)
    say(f"{time.monotonic() - started:5.1f} s  {what}")
