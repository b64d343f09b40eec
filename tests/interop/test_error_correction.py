"""Repositories with Reed-Solomon error correction, created and written by us, as a live kopia sees them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.repository.create import CreateOptions, create_repository
from agent.repository.repository import Repository
from agent.snapshots.model import Source
from agent.snapshots.upload import upload_tree
from agent.storage.filesystem import FilesystemStorage
from agent.testing.kopia_client import KopiaClient

pytestmark = pytest.mark.kopia
PASSWORD = "static-passw0rd"


async def _no_manifest(labels: object, data: object) -> None:
    """The maintenance manifest is not the subject."""


@pytest.mark.parametrize("percent", [2, 20])
async def test_kopia_verifies_what_we_wrote_with_error_correction(
    percent: int, kopia: Callable[..., KopiaClient], tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number, size in enumerate((0, 1, 100, 70_000, 9_000_000)):
        (tree / f"file-{number}").write_bytes(os.urandom(size))
    folder = tmp_path / "repository"
    storage = await FilesystemStorage.open(str(folder), create=True)
    options = CreateOptions(ecc="REED-SOLOMON-CRC32", ecc_overhead_percent=percent)
    await create_repository(storage, PASSWORD, options, _no_manifest)
    async with Repository.open(storage, PASSWORD) as repository, repository.writer() as writer:
        await upload_tree(repository, writer, Source("default", "default", str(tree)), str(tree))

    client = kopia(folder).connect()
    client.run("snapshot", "verify", "--verify-files-percent=100")
    client.run("content", "verify", "--full")
    client.run("restore", str(tree), str(tmp_path / "restored"))
    for path in tree.iterdir():
        assert (tmp_path / "restored" / path.name).read_bytes() == path.read_bytes()
