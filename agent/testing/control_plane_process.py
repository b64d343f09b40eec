"""Programs as children that cannot outlive the test: started, ended, killed, paused, each with a log of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_END_SECONDS = 5.0
_LAST_WORDS = 3000
_TOOL = Path(__file__).resolve().parents[2] / "hack" / "tool"


def tool(name: str) -> Path:
    """The path of a program of the control plane, built first when nobody has it (`hack/tool`).

    Raises `RuntimeError` when it cannot be had.
    """
    found = subprocess.run([_TOOL, name], capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f"there is no {name}: {found.stderr.strip()[-_LAST_WORDS:]}")
    return Path(found.stdout.strip())


def eventually(what: str, check: Callable[[], bool], *, seconds: float = 30.0, interval: float = 0.05) -> None:
    """Ask until `check` is true; raises `TimeoutError` that says what did not happen."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(interval)


def tied(command: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The command as one that the kernel kills when the thread that started it ends: nothing outlives a test run."""
    return ["setpriv", "--pdeathsig=KILL", *(os.fspath(part) for part in command)]


_GUARD = "read -r _; kill -s KILL 0"


class _Guard:
    """Kills its process group when it is let go, or nobody is left to do that: the end of a pipe comes either way."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(["sh", "-c", _GUARD], stdin=subprocess.PIPE, process_group=0)

    @property
    def group(self) -> int:
        """For those that it guards, from their first moment on."""
        return self._process.pid

    def let_go(self) -> None:
        """Have it done: who has not ended when this returns is about to."""
        self._process.communicate()


class ChildProgram:
    """One program, `tied` to who starts it: `start` as often as wanted, always with the same command.

    A `family` is one whose own children may outlive it: what is left of them ends with it, however it or the test run
    ends. Of all others that is theirs to do, and a test would not see that they fail to.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | os.PathLike[str]],
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        family: bool = False,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = [os.fspath(part) for part in command]
        self._folder = folder
        self._environment = dict(environment) if environment is not None else None
        self._process: subprocess.Popen[bytes] | None = None
        self._family = family
        self._guard: _Guard | None = None

    @property
    def pid(self) -> int:
        """Of the running program."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended by itself."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; `wait_until` says when it is of use."""
        if self._process is not None:
            raise RuntimeError(f"{self.name} is running already")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._guard = _Guard() if self._family else None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                tied(self._command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=self._environment,
                process_group=None if self._guard is None else self._guard.group,
            )

    def wait_until(self, what: str, check: Callable[[], bool], *, seconds: float = 60.0) -> None:
        """Wait for a sign of life. Raises `RuntimeError` with its last words when it ends or the time is over."""

        def ended_or(check: Callable[[], bool]) -> bool:
            return not self.running or check()

        try:
            eventually(f"{self.name}: {what}", lambda: ended_or(check), seconds=seconds)
        except TimeoutError as error:
            raise RuntimeError(f"{error}\n{self.last_words()}") from error
        if not self.running:
            raise RuntimeError(f"{self.name} has ended: {self.last_words()}")

    def wait(self, seconds: float) -> int:
        """Wait until it has ended by itself; its exit status. Raises `subprocess.TimeoutExpired`."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        status = self._process.wait(seconds)
        self.kill()
        return status

    def pause(self) -> None:
        """Let it answer nobody, connections kept."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self.signal(signal.SIGCONT)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a crash does."""
        if self._guard is not None:
            self._guard.let_go()
            self._guard = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it in good order, within seconds."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)
        self.kill()

    def last_words(self) -> str:
        """The end of its log."""
        try:
            return self.log.read_text(errors="replace")[-_LAST_WORDS:]
        except FileNotFoundError:
            return ""
