"""Running `lighter` in this process, and one repository that tests may copy."""

from __future__ import annotations

import functools
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from agent.repository import format_manager, kdf


@dataclass(frozen=True)
class Outcome:
    """What a command printed and how it ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout.splitlines()[-1])

    @property
    def error(self) -> dict[str, str]:
        error: dict[str, str] = json.loads(self.stderr.splitlines()[-1])["error"]
        return error


Lighter = Callable[..., Outcome]
_derive_once = functools.cache(kdf.derive_password_key)


@pytest.fixture
def lighter(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Lighter:
    """`lighter("ls", "latest")` runs the command and returns its outcome."""
    monkeypatch.setenv("LIGHTER_CONFIG", str(tmp_path / "config" / "connection.json"))
    monkeypatch.setenv("LIGHTER_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("LIGHTER_REPO", "LIGHTER_PASSWORD", "LIGHTER_PASSWORD_FILE"):
        monkeypatch.delenv(name, raising=False)

    # The same few passwords again and again, and deriving a key takes long on purpose.
    monkeypatch.setattr(format_manager, "derive_password_key", _derive_once)

    def run(*args: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["lighter", *map(str, args)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.main()
        out, err = capfd.readouterr()
        status = ended.value.code
        return Outcome(status if isinstance(status, int) else 0, out, err)

    return run


@dataclass(frozen=True)
class Place:
    """A repository with one snapshot, and the tree it was taken of."""

    url: str
    folder: Path
    tree: Path
    password_file: Path

    @property
    def options(self) -> tuple[str, ...]:
        return ("--repo", self.url, "--password-file", str(self.password_file))


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import asyncio

    from agent.repository.repository import Repository
    from agent.storage.open import open_storage

    folder = tmp_path_factory.mktemp("cli") / "repository"

    async def create() -> None:
        storage = await open_storage(f"file://{folder}", create=True)
        await Repository.create(storage, "secret")
        await storage.close()

    asyncio.run(create())
    return folder


@pytest.fixture
def place(_template: Path, tmp_path: Path) -> Place:
    """A fresh copy of an empty repository, and a small tree to back up."""
    folder = tmp_path / "repository"
    shutil.copytree(_template, folder)
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "motd").write_text("hello\n")
    (tree / "etc" / "link").symlink_to("motd")
    (tree / "data.bin").write_bytes(bytes(range(256)) * 400)
    password = tmp_path / "password"
    password.write_text("  secret\n")
    return Place(f"file://{folder}", folder, tree, password)
