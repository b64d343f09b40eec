"""What the crash tests share. `CRASH_SEED=n make crash` repeats a run: every test that draws prints its seed."""

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from agent.repository import format_manager, kdf
from agent.testing.kopia_client import KopiaClient
from tests.crash.kit import PASSWORD

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def quick_passwords() -> Iterator[None]:
    """Each key is derived once: opening a repository takes a third of a second otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(format_manager, "derive_password_key", cache(kdf.derive_password_key))
        yield


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Of everything this test draws; shown when it fails."""
    chosen = int(os.environ.get("CRASH_SEED") or random.SystemRandom().getrandbits(32))
    request.node.add_report_section("setup", "seed", f"CRASH_SEED={chosen}")
    return chosen


@pytest.fixture
def rng(seed: int) -> random.Random:
    return random.Random(seed)


@pytest.fixture(scope="session")
def kopia_binary() -> Path:
    """A real kopia: `KOPIA=`, the one on PATH, or Velero's fork built once from Go modules."""
    done = subprocess.run([_ROOT / "hack" / "tool", "kopia"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


@pytest.fixture
def kopia(kopia_binary: Path, tmp_path: Path) -> Callable[[Path], KopiaClient]:
    """`kopia(repository_folder)` is a new client of that folder, connected."""
    count = 0

    def client(repository: Path) -> KopiaClient:
        nonlocal count
        count += 1
        return KopiaClient(kopia_binary, tmp_path / f"kopia-{count}", repository, PASSWORD).connect()

    return client
