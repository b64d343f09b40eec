"""Object lock on a real store: what we write is locked like kopia's, and its maintenance extends the locks of both."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.storage.s3 import S3Storage
from agent.testing.kopia_client import KopiaClient
from agent.testing.s3_server import SeaweedServer
from agent.testing.trees import plant, seeded
from tests.interop.sides import PASSWORD, kopia_finds_no_fault
from tests.storage.conftest import config_for

pytestmark = [pytest.mark.kopia, pytest.mark.s3]

_LIGHTER = Path(sys.executable).parent / "lighter"
_BUCKET = "locked"
_LASTING = ("p", "q", "x", "kopia.repository", "kopia.blobcfg")


async def _locks(storage: S3Storage) -> dict[str, float]:
    """When the lock of each blob ends, seconds since 1970; only of what has one."""
    found = {}
    async for blob in storage.list():
        head = await storage._client.head_object(Bucket=_BUCKET, Key=storage._config.prefix + blob.blob_id)
        if "ObjectLockMode" in head:
            assert head["ObjectLockMode"] == "COMPLIANCE"
            found[blob.blob_id] = head["ObjectLockRetainUntilDate"].timestamp()
    return found


async def test_locks_of_what_we_wrote_are_extended_by_kopias_maintenance(
    kopia: Callable[..., KopiaClient], tmp_path: Path
) -> None:
    with SeaweedServer(tmp_path / "store") as server:
        url = server.url(_BUCKET, "r/")
        environment = {**os.environ, **server.environment, "LIGHTER_REPO": url, "LIGHTER_PASSWORD": PASSWORD}

        def lighter(*args: str) -> None:
            done = subprocess.run([_LIGHTER, *args, "--no-cache"], env=environment, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr

        storage = await S3Storage.open(config_for(server, _BUCKET, prefix="r/"))
        await storage._client.create_bucket(Bucket=_BUCKET, ObjectLockEnabledForBucket=True)
        plant(tmp_path / "tree", seeded(1, 30))
        lighter("repository", "create", "--object-lock-mode=compliance", "--object-lock-period=2d")
        lighter("backup", str(tmp_path / "tree"))
        written = await _locks(storage)
        assert written.keys() == {b.blob_id async for b in storage.list() if b.blob_id.startswith(_LASTING)}

        client = kopia(tmp_path / "store")
        client.home.mkdir()
        where = ["--bucket", _BUCKET, "--prefix=r/", f"--endpoint=127.0.0.1:{server.port}", "--disable-tls"]
        keys = ["--access-key", server.access_key, "--secret-access-key", server.secret_key]
        identity = ["--override-username=default", "--override-hostname=default"]
        client.run("repository", "connect", "s3", *where, *keys, *identity)
        client.run("maintenance", "set", "--extend-object-locks=true", "--full-interval=24h")
        client.run("maintenance", "run", "--full")
        extended = await _locks(storage)
        assert written.keys() <= extended.keys()
        assert all(extended[blob_id] > until for blob_id, until in written.items())

        plant(tmp_path / "tree" / "more", seeded(2, 30))
        lighter("backup", str(tmp_path / "tree"))
        added = (await _locks(storage)).keys() - extended.keys()
        assert {blob_id[0] for blob_id in added} == {"p", "q", "x"}
        lighter("verify")
        kopia_finds_no_fault(client)
        await storage.close()
