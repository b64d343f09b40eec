"""The live kopia on the other side."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.testing.kopia_client import KopiaClient

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def kopia_binary() -> Path:
    """A real kopia: `KOPIA=`, the one on PATH, or Velero's fork built once from Go modules."""
    done = subprocess.run([_ROOT / "hack" / "tool", "kopia"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


@pytest.fixture
def kopia(kopia_binary: Path, tmp_path: Path) -> Callable[..., KopiaClient]:
    """`kopia(repository_folder)` is a new client of that folder, not yet connected."""
    clients: list[KopiaClient] = []

    def client(repository: Path, password: str = "static-passw0rd") -> KopiaClient:
        clients.append(KopiaClient(kopia_binary, tmp_path / f"kopia-{len(clients)}", repository, password))
        return clients[-1]

    return client
