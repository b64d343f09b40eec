"""Object lock on a real store: what we write is locked like kopia's, and its maintenance extends the locks of both."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.testing.kopia_client import KopiaClient
from agent.testing.s3_server import SeaweedServer
from agent.testing.trees import plant, seeded
from tests.interop.sides import PASSWORD, kopia_finds_no_fault

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

pytestmark = [pytest.mark.kopia, pytest.mark.s3]

_LIGHTER = Path(sys.executable).parent / "lighter"
_BUCKET = "locked"
_PREFIX = "r/"
_PERIOD_SECONDS = 2 * 86_400


async def _locks(client: S3Client) -> dict[str, float]:
    """When the lock of each blob ends, seconds since 1970; 0 for what has none."""
    found = {}
    for item in (await client.list_objects_v2(Bucket=_BUCKET, Prefix=_PREFIX))["Contents"]:
        head = await client.head_object(Bucket=_BUCKET, Key=item["Key"])
        assert head.get("ObjectLockMode", "COMPLIANCE") == "COMPLIANCE"
        until = head.get("ObjectLockRetainUntilDate")
        found[item["Key"].removeprefix(_PREFIX)] = until.timestamp() if until else 0.0
    return found


async def test_locks_of_what_we_wrote_are_extended_by_kopias_maintenance(
    kopia: Callable[..., KopiaClient], seaweed: SeaweedServer, client: S3Client, tmp_path: Path
) -> None:
    secrets = {"LIGHTER_REPO": seaweed.url(_BUCKET, _PREFIX), "LIGHTER_PASSWORD": PASSWORD}
    environment = {**os.environ, **seaweed.environment, **secrets}

    def lighter(*args: str) -> None:
        done = subprocess.run([_LIGHTER, *args, "--no-cache"], env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr

    await client.create_bucket(Bucket=_BUCKET, ObjectLockEnabledForBucket=True)
    plant(tmp_path / "tree", seeded(1, 30))
    lighter("repository", "create", "--object-lock-mode=compliance", "--object-lock-period=2d")
    lighter("backup", str(tmp_path / "tree"))
    written = await _locks(client)
    assert {blob[0] for blob in written} == {"k", "p", "q", "x"}
    assert all(written.values())
    # Locks end at whole seconds, and a store refuses to shorten them: another second has to begin first.
    await asyncio.sleep(max(max(written.values()) - _PERIOD_SECONDS + 1.1 - time.time(), 0.0))

    other = kopia(tmp_path / "store")
    other.home.mkdir()
    where = ["--bucket", _BUCKET, f"--prefix={_PREFIX}", f"--endpoint=127.0.0.1:{seaweed.port}", "--disable-tls"]
    keys = ["--access-key", seaweed.access_key, "--secret-access-key", seaweed.secret_key]
    identity = ["--override-username=default", "--override-hostname=default"]
    other.run("repository", "connect", "s3", *where, *keys, *identity)
    other.run("maintenance", "set", "--extend-object-locks=true", "--full-interval=24h")
    other.run("maintenance", "run", "--full")
    extended = await _locks(client)
    assert all(extended[blob] > until for blob, until in written.items())

    plant(tmp_path / "tree" / "more", seeded(2, 30))
    lighter("backup", str(tmp_path / "tree"))
    added = {blob: until for blob, until in (await _locks(client)).items() if blob not in extended}
    assert {blob[0] for blob in added} == {"p", "q", "x"}
    assert all(added.values())
    lighter("verify")
    kopia_finds_no_fault(other)
