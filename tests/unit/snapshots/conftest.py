"""What tests of this folder share."""

import os
from functools import cache

import pytest

from agent.repository import format_manager, kdf
from tests.unit.snapshots.backup_kit import BIG, fill, new_blobs, storage_with


@pytest.fixture(scope="session", autouse=True)
def quick_passwords():
    """Each key is derived once: opening a repository takes a third of a second otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(format_manager, "derive_password_key", cache(kdf.derive_password_key))
        yield


@pytest.fixture(scope="module")
def blobs():
    return new_blobs()


@pytest.fixture
def storage(blobs):
    return storage_with(blobs)


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "data"
    fill(
        folder,
        {
            "b": b"bb",
            "a": b"",
            "sub/c": b"c" * 300_000,
            "sub/deep/er/d": b"d",
            "empty": None,
            "link": "sub/c",
            "big": BIG,
            "<&>": b"odd",
            b"bad\xff": b"not UTF-8",
        },
    )
    os.chmod(folder / "b", 0o4751)  # noqa: S103
    return folder
