"""Damaged and hostile repositories: only named errors, bounded memory, a bounded number of operations."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "12"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
_ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", ["small-v3", "small-v1"])
def test_whatever_was_damaged_or_forged_readers_end_with_named_errors(golden_repository, name: str) -> None:
    folder = golden_repository(name)
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.fuzz.damaged_repositories", str(folder), str(SEED), str(ROUNDS)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"FUZZ_SEED={SEED} FUZZ_ROUNDS={ROUNDS}\n{done.stderr}"
