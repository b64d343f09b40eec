"""Real block devices as source and target of the command, and kopia as the one who reads what was stored.

The volume is 96 MiB of which 21 MiB are data, between stretches that were never written and one of written zeros.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from agent.testing.kopia_client import KopiaClient
from tests.interop.sides import PASSWORD, blobs, kopia_finds_no_fault, snapshot_by_kopia, snapshots_by_kopia

pytestmark = pytest.mark.kopia

Attach = Callable[[Path], Path]

_LIGHTER = Path(sys.executable).parent / "lighter"
_MIB = 1 << 20
SIZE = 96 * _MIB + 1536
"""No multiple of a block of the repository, as devices are not."""
DATA = 21 * _MIB
OUT_OF_SPACE, REFUSED = 54, 50


class Command:
    """`lighter` on one repository."""

    def __init__(self, place: Path) -> None:
        self.repository = place / "repo"
        (place / "password").write_text(PASSWORD + "\n")
        self._place = ["--repo", self.repository.as_uri(), "--password-file", str(place / "password"), "--no-cache"]
        self._environment = {**os.environ, "HOME": str(place), "XDG_CONFIG_HOME": str(place / "config")}
        self.run("repository", "create", "--splitter", "DYNAMIC-1M-BUZHASH")

    def attempt(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [_LIGHTER, *args, *self._place, "--json"],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def run(self, *args: str) -> Mapping[str, object]:
        done = self.attempt(*args)
        assert done.returncode == 0, done.stderr + done.stdout
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=dict[str, object])

    def numbers(self, *args: str) -> Mapping[str, int]:
        """The numbers of a result."""
        return {key: value for key, value in self.run(*args).items() if isinstance(value, int)}

    def back_up(self, device: Path, *options: str) -> Mapping[str, object]:
        source = f"default@default:{device}"
        return self.run("backup", "--block", str(device), "--source", source, "--parallel", "2", *options)


@pytest.fixture
def lighter(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """The file below the source device."""
    rng = random.Random(7)
    path = tmp_path / "volume"
    with path.open("wb") as out:
        out.write(rng.randbytes(10 * _MIB))
        out.seek(30 * _MIB)
        out.write(bytes(8 * _MIB))
        out.write(rng.randbytes(10 * _MIB + 777))
        out.seek(SIZE - _MIB + 777)
        out.write(rng.randbytes(_MIB - 777))
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The file below a target device that is larger than the source and held something else."""
    path = tmp_path / "old"
    path.write_bytes(b"\xaa" * (SIZE + 4 * _MIB))
    return path


@contextmanager
def mounted(device: Path, place: Path) -> Iterator[None]:
    subprocess.run(["mkfs.ext4", "-q", "-F", device], check=True, timeout=60)
    place.mkdir()
    subprocess.run(["mount", device, place], check=True, timeout=60)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True, timeout=60)


def sha256(path: Path, length: int = SIZE) -> str:
    with path.open("rb") as data:
        digest = hashlib.sha256()
        for at in range(0, length, _MIB):
            digest.update(data.read(min(_MIB, length - at)))
    return digest.hexdigest()


def test_a_device_is_stored_without_its_zeros_and_kopia_reads_it(
    lighter: Command, volume: Path, attached: Attach, kopia: Callable[..., KopiaClient], tmp_path: Path
) -> None:
    device = attached(volume)
    backup = lighter.back_up(device)
    assert backup["bytes"] == SIZE
    assert isinstance(backup["newBytes"], int) and DATA <= backup["newBytes"] < DATA + 5 * _MIB
    assert isinstance(backup["uploadedBytes"], int) and backup["uploadedBytes"] < DATA + 6 * _MIB

    again = lighter.back_up(device)
    assert isinstance(again["newBytes"], int) and again["newBytes"] < 64 << 10, "a folder and a list, no data"

    client = kopia(lighter.repository).connect()
    assert [item["id"] for item in snapshots_by_kopia(client)] == [backup["snapshotID"], again["snapshotID"]]
    client.run("snapshot", "restore", str(backup["snapshotID"]), str(tmp_path / "by-kopia"))
    assert sha256(tmp_path / "by-kopia" / device.name) == sha256(volume)
    kopia_finds_no_fault(client)


def test_a_device_is_written_back_to_a_device_over_what_it_held(
    lighter: Command, volume: Path, old: Path, attached: Attach
) -> None:
    snapshot = str(lighter.back_up(attached(volume))["snapshotID"])
    target = attached(old)
    restored = lighter.numbers("restore", snapshot, str(target), "--block")
    assert sha256(target) == sha256(volume)
    assert old.read_bytes()[SIZE:] == b"\xaa" * (4 * _MIB), "what lies behind the volume is not ours"
    assert (restored["bytes"], restored["resumedBytes"]) == (SIZE, 0)
    assert restored["downloadedBytes"] < DATA + 6 * _MIB
    assert os.stat(old).st_blocks * 512 < DATA + 8 * _MIB, "zeros are holes below the device"


def test_a_device_of_zeros_costs_a_handful_of_requests(
    lighter: Command, old: Path, attached: Attach, tmp_path: Path
) -> None:
    (tmp_path / "blank").touch()
    os.truncate(tmp_path / "blank", 1 << 30)
    backup = lighter.back_up(attached(tmp_path / "blank"))
    assert backup["bytes"] == 1 << 30
    assert isinstance(backup["uploadedBytes"], int) and backup["uploadedBytes"] < 3 * _MIB
    assert sum(msgspec.convert(backup["requests"], dict[str, int]).values()) < 40
    os.truncate(old, 1 << 30)
    target = attached(old)
    restored = lighter.run("restore", str(backup["snapshotID"]), str(target), "--block")
    assert sum(msgspec.convert(restored["requests"], dict[str, int]).values()) < 40
    assert isinstance(restored["downloadedBytes"], int) and restored["downloadedBytes"] < 3 * _MIB
    assert not any(old.read_bytes())


def test_what_a_killed_restore_left_on_a_device_is_not_fetched_again(
    lighter: Command, volume: Path, old: Path, attached: Attach
) -> None:
    snapshot = str(lighter.back_up(attached(volume))["snapshotID"])
    with old.open("r+b") as there:
        there.write(volume.read_bytes()[: 45 * _MIB])
    target = attached(old)
    restored = lighter.numbers("restore", snapshot, str(target), "--block")
    assert sha256(target) == sha256(volume)
    assert 16 * _MIB <= restored["resumedBytes"] <= 18 * _MIB
    assert restored["downloadedBytes"] < DATA - restored["resumedBytes"] + 4 * _MIB


def test_a_device_backed_up_as_velero_does_shares_all_its_data_with_kopia(
    lighter: Command, volume: Path, attached: Attach, kopia: Callable[..., KopiaClient], tmp_path: Path
) -> None:
    lighter.back_up(attached(volume), "--velero")
    packs = blobs(lighter.repository, "p")
    (tmp_path / "tree").mkdir()
    os.link(volume, tmp_path / "tree" / "data")
    snapshot_by_kopia(kopia(lighter.repository).connect(), tmp_path / "tree")
    assert blobs(lighter.repository, "p") == packs


def test_a_device_that_is_too_small_is_refused_by_name_and_not_touched(
    lighter: Command, volume: Path, attached: Attach, tmp_path: Path
) -> None:
    snapshot = str(lighter.back_up(attached(volume))["snapshotID"])
    (tmp_path / "small").write_bytes(b"\xaa" * (SIZE - 512))
    target = attached(tmp_path / "small")
    refused = lighter.attempt("restore", snapshot, str(target), "--block")
    assert refused.returncode == OUT_OF_SPACE
    assert str(target) in refused.stderr and str(SIZE) in refused.stderr
    assert not (tmp_path / "small").read_bytes().strip(b"\xaa")


def test_a_mounted_device_is_refused_by_name_and_not_touched(
    lighter: Command, volume: Path, old: Path, attached: Attach, tmp_path: Path
) -> None:
    snapshot = str(lighter.back_up(attached(volume))["snapshotID"])
    target = attached(old)
    with mounted(target, tmp_path / "mounted"):
        (tmp_path / "mounted" / "file").write_text("precious")
        refused = lighter.attempt("restore", snapshot, str(target), "--block")
        assert refused.returncode == REFUSED
        assert f"{str(target)!r} is mounted" in refused.stderr
    subprocess.run(["fsck.ext4", "-n", "-f", target], check=True, capture_output=True, timeout=60)
