"""The competitors: how each of them is told to make a repository, back up and restore."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

PASSWORD = "bench-passw0rd"


@dataclass(frozen=True, slots=True)
class Store:
    """Where repositories are kept during a run: a folder, or a bucket of a server on loopback."""

    folder: Path
    endpoint: str = ""
    access_key: str = ""
    secret_key: str = ""
    bucket: str = "bench"

    @property
    def is_s3(self) -> bool:
        return bool(self.endpoint)


class Tool(Protocol):
    """One competitor, bound to one repository of its own."""

    @property
    def name(self) -> str: ...
    @property
    def prefix(self) -> str: ...
    def environment(self) -> Mapping[str, str]: ...
    def create(self) -> list[list[str]]: ...
    def backup(self, source: Path) -> list[str]: ...
    def restore(self, source: Path, target: Path) -> list[str]: ...


def _base_environment(home: Path, store: Store) -> dict[str, str]:
    home.mkdir(parents=True, exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "AWS_ACCESS_KEY_ID": store.access_key,
        "AWS_SECRET_ACCESS_KEY": store.secret_key,
    }


@dataclass(frozen=True, slots=True)
class Lighter:
    """Ours."""

    store: Store
    home: Path
    prefix: str
    name: str = "lighterage"

    def _options(self) -> list[str]:
        password = self.home / "password"
        if not password.exists():
            self.home.mkdir(parents=True, exist_ok=True)
            password.write_text(PASSWORD)
        if self.store.is_s3:
            url = f"s3://{self.store.bucket}/{self.prefix}/?endpoint={self.store.endpoint}&region=us-east-1&path_style=true"
        else:
            url = f"file://{self.store.folder}/{self.prefix}"
        return ["--repo", url, "--password-file", str(password), "--json"]

    def environment(self) -> Mapping[str, str]:
        return _base_environment(self.home, self.store)

    def _command(self) -> str:
        return str(Path(sys.executable).parent / "lighter")

    def create(self) -> list[list[str]]:
        return [[self._command(), "repository", "create", *self._options()]]

    def backup(self, source: Path) -> list[str]:
        return [self._command(), "backup", str(source), *self._options()]

    def restore(self, source: Path, target: Path) -> list[str]:
        return [self._command(), "restore", "latest", str(target), *self._options()]


@dataclass(frozen=True, slots=True)
class Kopia:
    """The engine that Velero embeds."""

    binary: str
    store: Store
    home: Path
    prefix: str
    name: str = "kopia"

    def environment(self) -> Mapping[str, str]:
        return {
            **_base_environment(self.home, self.store),
            "KOPIA_PASSWORD": PASSWORD,
            "KOPIA_CHECK_FOR_UPDATES": "false",
        }

    def _with_home(self, *args: str) -> list[str]:
        return [self.binary, *args, f"--config-file={self.home}/config", f"--log-dir={self.home}/logs"]

    def create(self) -> list[list[str]]:
        cache = f"--cache-directory={self.home}/cache"
        if self.store.is_s3:
            where = [
                "s3",
                f"--bucket={self.store.bucket}",
                f"--prefix={self.prefix}/",
                f"--endpoint={self.store.endpoint.removeprefix('http://')}",
                "--disable-tls",
                "--region=us-east-1",
            ]
        else:
            where = ["filesystem", f"--path={self.store.folder}/{self.prefix}"]
        return [self._with_home("repository", "create", *where, cache)]

    def backup(self, source: Path) -> list[str]:
        return self._with_home("snapshot", "create", str(source), "--no-progress", "--no-auto-maintenance")

    def restore(self, source: Path, target: Path) -> list[str]:
        return self._with_home("restore", str(source), str(target), "--no-progress", "--no-auto-maintenance")


@dataclass(frozen=True, slots=True)
class Restic:
    """The speed and fidelity peer."""

    binary: str
    store: Store
    home: Path
    prefix: str
    name: str = "restic"

    def environment(self) -> Mapping[str, str]:
        return {**_base_environment(self.home, self.store), "RESTIC_PASSWORD": PASSWORD}

    def _at(self, *args: str) -> list[str]:
        if self.store.is_s3:
            where = f"s3:{self.store.endpoint}/{self.store.bucket}/{self.prefix}"
        else:
            where = f"{self.store.folder}/{self.prefix}"
        return [self.binary, "-r", where, "--cache-dir", str(self.home / "cache"), "-q", *args]

    def create(self) -> list[list[str]]:
        return [self._at("init")]

    def backup(self, source: Path) -> list[str]:
        return self._at("backup", str(source))

    def restore(self, source: Path, target: Path) -> list[str]:
        return self._at("restore", "latest", "--target", str(target))


def versions(kopia: str, restic: str) -> dict[str, str]:
    """What took part, for the table's foot."""

    def first_line(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()

    return {
        "kopia": first_line(kopia, "--version"),
        "restic": first_line(restic, "version"),
        "lighterage": first_line(str(Path(sys.executable).parent / "lighter"), "--version"),
    }


def find(name: str, variable: str) -> str:
    """A competitor's binary: named by a variable, or found on PATH."""
    path = os.environ.get(variable) or shutil.which(name)
    if path is None:
        raise SystemExit(f"bench: no {name} on PATH; install it or set {variable}=/path/to/{name}")
    return path
