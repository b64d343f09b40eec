"""A source of Velero's as we leave it, seen by kopia: its policy, and the snapshot that kopia's rules would expire."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agent.snapshots.model import Source
from agent.snapshots.policy import parse_policy
from agent.snapshots.velero_policy import set_velero_policy
from agent.testing.kopia_client import KopiaClient
from agent.testing.trees import Folder, noise, plant
from tests.interop.sides import Ours

pytestmark = pytest.mark.kopia

_SOURCE = Source(host="default", user="default", path="snapshot-data-upload-download/kopia/shop/data")


async def _set_policy(ours: Ours) -> bool:
    async with ours.writing() as (repo, writer):
        return await set_velero_policy(repo, writer, _SOURCE, parallel=3)


def test_kopia_reads_the_policy_and_expires_nothing_under_it(
    kopia: Callable[..., KopiaClient], ours: Ours, tmp_path: Path
) -> None:
    plant(tmp_path / "tree", Folder({b"file": noise(1000, 1)}))
    assert asyncio.run(_set_policy(ours))
    for _ in range(12):  # more than kopia's default policy keeps
        ours.back_up(tmp_path / "tree", _SOURCE, velero=True)
    client = kopia(tmp_path / "repo").connect()

    shown = client.json("policy", "show", f"default@default:{_SOURCE.path}")
    seen = parse_policy(msgspec.json.encode(shown))
    assert seen.upload.max_parallel_file_reads == 3 and seen.upload.parallel_upload_above_size == 2 << 30
    assert seen.scheduling.manual and seen.retention.keep_latest == 2_147_483_647

    client.run("snapshot", "expire", "--all", "--delete")
    assert len(ours.snapshots(_SOURCE)) == 12
    client.run("snapshot", "verify", "--verify-files-percent=100")
    assert not asyncio.run(_set_policy(ours))
