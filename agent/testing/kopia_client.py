"""A live `kopia` command as the other side of a test or measurement.

Each `KopiaClient` is one client of one repository folder with its own configuration, cache and logs, so that several of
them can be at work at once. It sees what others wrote at once, not half a minute later. Maintenance never runs by
itself: a test that wants it says so.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]


class KopiaFailed(Exception):
    """A kopia command exited non-zero; the text holds its own words."""


class KopiaClient(msgspec.Struct, frozen=True):
    """One kopia client; `home` holds everything that is private to it."""

    binary: Path
    home: Path
    repository: Path
    password: str = "static-passw0rd"  # noqa: S105 - Velero's well-known default
    timeout_s: float = 300.0

    def environment(self) -> dict[str, str]:
        """What a kopia process is started with; nothing of the caller's environment but PATH."""
        return {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.home),
            "KOPIA_PASSWORD": self.password,
            "KOPIA_CHECK_FOR_UPDATES": "false",
            "TZ": "UTC",
        }

    def command(self, *args: str) -> list[str]:
        """The argument vector of one kopia command of this client."""
        vector = [str(self.binary), *args, f"--config-file={self.home}/kopia.config", f"--log-dir={self.home}/logs"]
        return [*vector, "--no-progress", "--no-auto-maintenance"]

    def attempt(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run one command, whatever its exit status."""
        return subprocess.run(
            self.command(*args),
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=self.timeout_s,
            check=False,
        )

    def run(self, *args: str) -> str:
        """Run one command and return its standard output. Raises `KopiaFailed`."""
        done = self.attempt(*args)
        if done.returncode != 0:
            raise KopiaFailed(f"kopia {' '.join(args)} exited {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def json(self, *args: str) -> JsonValue:
        """The parsed output of one command run with `--json`."""
        value: JsonValue = msgspec.json.decode(self.run(*args, "--json"))
        return value

    def _attach(self, verb: str, options: Sequence[str]) -> KopiaClient:
        self.home.mkdir(parents=True, exist_ok=True)
        self.run(
            "repository",
            verb,
            "filesystem",
            f"--path={self.repository}",
            f"--cache-directory={self.home}/cache",
            "--max-list-cache-duration=0s",
            "--override-hostname=default",
            "--override-username=default",
            *options,
        )
        return self

    def create(self, *options: str) -> KopiaClient:
        """Create the repository in its folder and stay connected."""
        return self._attach("create", options)

    def connect(self, *options: str) -> KopiaClient:
        """Connect to the existing repository."""
        return self._attach("connect", options)
