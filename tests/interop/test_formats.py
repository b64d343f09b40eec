"""Every kind of repository, whoever created it: format versions, hashes, ciphers, splitters, compressors."""

import base64
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agent.testing.kopia_client import KopiaClient
from agent.testing.trees import File, Fill, Folder, Link, Stretch, noise, seeded
from tests.interop.sides import Ours, blob_path, both_ways, kopia_finds_no_fault

pytestmark = pytest.mark.kopia

_Clients = Callable[..., KopiaClient]


class _Status(msgspec.Struct):
    unique_id: str = msgspec.field(name="uniqueIDHex")


class _Marker(msgspec.Struct):
    unique_id: str = msgspec.field(name="uniqueID")


def _tree() -> Folder:
    files = {**seeded(11, 40).entries, b"link": Link(b"no\xffwhere"), b"empty": Folder(), b"nothing": noise(0)}
    text = File((Stretch(Fill.TEXT, 3_000_000, 1), Stretch(Fill.RANDOM, 700_000, 2), Stretch(Fill.HOLE, 1_500_000)))
    return Folder({**files, b"text": text, b"prose.txt": File((Stretch(Fill.TEXT, 100_000, 7),))})


@pytest.mark.parametrize(
    ("version", "algorithms", "compressor"),
    [
        ("1", "BLAKE2S-256 CHACHA20-POLY1305-HMAC-SHA256 FIXED-1M", "zstd"),
        ("1", "HMAC-SHA3-256 AES256-GCM-HMAC-SHA256 DYNAMIC-1M-BUZHASH", "none"),
        ("2", "HMAC-SHA256 AES256-GCM-HMAC-SHA256 DYNAMIC-1M-RABINKARP", "pgzip"),
        ("3", "BLAKE3-256-128 CHACHA20-POLY1305-HMAC-SHA256 DYNAMIC-128K-BUZHASH", "s2-default"),
        ("3", "HMAC-SHA3-224 AES256-GCM-HMAC-SHA256 FIXED-512K", "deflate-best-speed"),
    ],
)
def test_a_repository_created_by_kopia(
    kopia: _Clients, tmp_path: Path, version: str, algorithms: str, compressor: str
) -> None:
    hash_name, cipher, splitter = algorithms.split()
    client = kopia(tmp_path / "repo").create(
        f"--format-version={version}",
        f"--block-hash={hash_name}",
        f"--encryption={cipher}",
        f"--object-splitter={splitter}",
    )
    client.run("policy", "set", "--global", f"--compression={compressor}")
    both_ways(Ours(tmp_path / "repo"), client, tmp_path, _tree(), same_objects=version != "1" or compressor == "none")
    kopia_finds_no_fault(client)


@pytest.mark.parametrize(
    ("version", "algorithms", "compressor"),
    [
        (1, "BLAKE2B-256 AES256-GCM-HMAC-SHA256 DYNAMIC-2M-RABINKARP", "gzip"),
        (2, "HMAC-SHA224 CHACHA20-POLY1305-HMAC-SHA256 FIXED-256K", "zstd-better-compression"),
        (3, "BLAKE2S-128 AES256-GCM-HMAC-SHA256 DYNAMIC-512K-BUZHASH", "zstd-fastest"),
        (3, "BLAKE3-256 CHACHA20-POLY1305-HMAC-SHA256 DYNAMIC-8M-BUZHASH", "pgzip-best-compression"),
    ],
)
def test_a_repository_created_by_us(
    kopia: _Clients, tmp_path: Path, version: int, algorithms: str, compressor: str
) -> None:
    hash_name, cipher, splitter = algorithms.split()
    ours = Ours(tmp_path / "repo").create(format_version=version, hash=hash_name, encryption=cipher, splitter=splitter)
    client = kopia(tmp_path / "repo").connect()
    client.run("policy", "set", "--global", f"--compression={compressor}")
    both_ways(ours, client, tmp_path, _tree(), same_objects=version != 1)
    kopia_finds_no_fault(client)


def test_a_repository_with_error_correction(kopia: _Clients, tmp_path: Path) -> None:
    client = kopia(tmp_path / "repo").create("--ecc=REED-SOLOMON-CRC32", "--ecc-overhead-percent=3")
    both_ways(Ours(tmp_path / "repo"), client, tmp_path, _tree())
    kopia_finds_no_fault(client)


def test_a_repository_created_for_velero_has_its_marker_and_an_owner(kopia: _Clients, tmp_path: Path) -> None:
    Ours(tmp_path / "repo").create(for_velero=True)
    client = kopia(tmp_path / "repo").connect()
    status = msgspec.json.decode(client.run("repository", "status", "--json"), type=_Status)
    marker = msgspec.json.decode(blob_path(tmp_path / "repo", "udmrepo.Repository").read_bytes(), type=_Marker)
    assert base64.b64decode(marker.unique_id).hex() == status.unique_id
    assert "Owner: default@default" in client.run("maintenance", "info")
    client.run("maintenance", "run", "--full")
    assert blob_path(tmp_path / "repo", "udmrepo.Repository").is_file()


@pytest.mark.parametrize("changed_by", ["us", "kopia"])
def test_the_password_can_be_changed_by_either_side(
    kopia: _Clients, ours: Ours, tmp_path: Path, changed_by: str
) -> None:
    before = kopia(ours.folder).connect()
    if changed_by == "us":
        ours.change_password("the new one")
    else:
        before.run("repository", "change-password", "--new-password=the new one")
        ours.password = "the new one"
    after = kopia(ours.folder, password="the new one").connect()
    both_ways(ours, after, tmp_path, seeded(1, 10))
    kopia_finds_no_fault(after)
