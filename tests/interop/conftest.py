"""The live kopia on the other side."""

import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import Phase, settings

from agent.repository import format_manager, kdf
from agent.testing.kopia_client import KopiaClient
from tests.interop.sides import PASSWORD, Ours
from tests.storage.conftest import client, seaweed

__all__ = ["client", "seaweed"]

_ROOT = Path(__file__).resolve().parents[2]

# An example costs seconds of kopia: a failing tree is shown as it is, not shrunk.
settings.register_profile(
    "interop", derandomize=True, deadline=None, database=None, print_blob=True, phases=[Phase.explicit, Phase.generate]
)
settings.load_profile("interop")


@pytest.fixture(scope="session")
def kopia_binary() -> Path:
    """A real kopia: `KOPIA=`, the one on PATH, or Velero's fork built once from Go modules."""
    done = subprocess.run([_ROOT / "hack" / "tool", "kopia"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


@pytest.fixture
def kopia(kopia_binary: Path, tmp_path: Path) -> Callable[..., KopiaClient]:
    """`kopia(repository_folder)` is a new client of that folder, not yet connected."""
    clients: list[KopiaClient] = []

    def client(repository: Path, password: str = PASSWORD) -> KopiaClient:
        clients.append(KopiaClient(kopia_binary, tmp_path / f"kopia-{len(clients)}", repository, password))
        return clients[-1]

    return client


@pytest.fixture
def ours(tmp_path: Path) -> Ours:
    """A new repository that we created, in `tmp_path / "repo"`; chunks are small, so that small files have several."""
    return Ours(tmp_path / "repo").create(splitter="DYNAMIC-128K-BUZHASH")


@pytest.fixture(scope="session", autouse=True)
def quick_passwords() -> Iterator[None]:
    """Each key is derived once: opening a repository takes a third of a second otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(format_manager, "derive_password_key", cache(kdf.derive_password_key))
        yield
