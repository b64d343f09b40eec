"""`lighter` commands as processes that a test runs, or kills at a moment of its choice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from agent.testing.control_plane_process import tied
from tests.crash.kit import PASSWORD
from tests.crash.zygote import Order


class CommandFailed(Exception):
    """A command ended with another status than 0; the text is its output."""


class Commands:
    """Commands for one repository at `url`."""

    def __init__(self, folder: Path, url: str, environment: Mapping[str, str] | None = None) -> None:
        self._output = folder / "output"
        self._cache = folder / "cache"
        self._password = folder / "password"
        self._password.write_text(PASSWORD)
        self.url = url
        self._seconds: dict[str, float] = {}
        self._process = subprocess.Popen(
            tied([sys.executable, "-m", "tests.crash.zygote"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
            cwd=Path(__file__).resolve().parents[2],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def warm_up(self, *, password_file: Path | None = None) -> None:
        """Derive the key of the repository once and for all commands."""
        self._give(Order(self._vector(("snapshots",), password_file), str(self._output), warm_up=True))

    def run(self, *args: str, password_file: Path | None = None) -> Any:
        """Run a command to its end; its result."""
        status = self.end(*args, password_file=password_file)
        if status:
            raise CommandFailed(f"lighter {' '.join(args)} ended with {status}:\n{self._output.read_text()}")
        return msgspec.json.decode(self._output.read_bytes().splitlines()[-1])

    def end(self, *args: str, password_file: Path | None = None) -> int:
        """Run a command to its end; its status."""
        began = time.monotonic()
        status = self._give(Order(self._vector(args, password_file), str(self._output)))
        self._seconds[_kind(args)] = time.monotonic() - began
        return status

    def kill(self, when: float, *args: str) -> bool:
        """Start a command and kill it when about the part `when` of the time that the last one of its kind took to
        come to its end is over; whether it was still at work.
        """
        delay, began = when * self._seconds.get(_kind(args), 0.5), time.monotonic()
        killed = self._give(Order(self._vector(args), str(self._output), kill_after=delay)) == -signal.SIGKILL
        if not killed:  # or a first one that took long would let all others end
            self._seconds[_kind(args)] = time.monotonic() - began
        return killed

    def _vector(self, args: Sequence[str], password_file: Path | None = None) -> list[str]:
        connection = [f"--repo={self.url}", f"--password-file={password_file or self._password}"]
        return [*args, "--json", *connection, f"--cache-dir={self._cache}"]

    def _give(self, order: Order) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(order).decode() + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def _kind(args: Sequence[str]) -> str:
    return " ".join(args[: 2 if args[0] == "repository" else 1])
