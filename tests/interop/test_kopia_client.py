"""The other side works at all: a live kopia opens a golden repository."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.testing.kopia_client import KopiaClient, KopiaFailed

pytestmark = pytest.mark.kopia


def test_kopia_opens_a_golden_repository(
    kopia: Callable[..., KopiaClient], golden_repository: Callable[[str], Path]
) -> None:
    snapshots = kopia(golden_repository("small-v3")).connect().json("snapshot", "list", "--all")
    assert isinstance(snapshots, list)
    assert len(snapshots) == 2


def test_a_failing_kopia_command_says_why(
    kopia: Callable[..., KopiaClient], golden_repository: Callable[[str], Path]
) -> None:
    with pytest.raises(KopiaFailed, match="invalid repository password"):
        kopia(golden_repository("small-v3"), password="wrong").connect()
