"""The `lighter` command beside the `kopia` command: the forms that others rely on, on one repository."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import pytest

from agent.testing.kopia_client import KopiaClient
from agent.testing.trees import everything, plant, scan
from tests.interop.sides import (
    PASSWORD,
    assert_same,
    blob_path,
    blobs,
    by_stored_name,
    kopia_finds_no_fault,
    restored_by_kopia,
    snapshot_by_kopia,
    snapshots_by_kopia,
    stored,
)

pytestmark = pytest.mark.kopia

_LIGHTER = Path(sys.executable).parent / "lighter"


def test_the_fixed_forms_of_the_command_beside_kopia(kopia: Callable[..., KopiaClient], tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    plant(tmp_path / "tree", everything())
    seen = scan(tmp_path / "tree")
    folder = tmp_path / "repo"

    def lighter(*args: str) -> Mapping[str, object]:
        place = ["--repo", folder.as_uri(), "--password-file", str(tmp_path / "password"), "--no-cache"]
        environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
        done = subprocess.run(
            [_LIGHTER, *args, *place], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr + done.stdout
        lines = done.stdout.splitlines()
        return msgspec.json.decode(lines[-1], type=dict[str, object]) if "--json" in args else {}

    lighter("repository", "create", "--splitter", "DYNAMIC-1M-BUZHASH", "--hash", "BLAKE3-256")
    client = kopia(folder).connect()
    source = f"default@default:{tmp_path / 'tree'}"
    backup = lighter("backup", str(tmp_path / "tree"), "--source", source, "--tag", "k:v", "--parallel", "2", "--json")
    packs = blobs(folder, "p")
    by_kopia = snapshot_by_kopia(client, tmp_path / "tree")
    assert by_kopia.root == backup["rootObjectID"]
    assert blobs(folder, "p") == packs
    assert not backup["warnings"]

    listed = lighter("snapshots", "--json")["snapshots"]
    ids = [item["snapshotID"] for item in msgspec.convert(listed, type=list[dict[str, object]])]
    assert ids == [backup["snapshotID"], by_kopia.id] == [item["id"] for item in snapshots_by_kopia(client)]
    assert snapshots_by_kopia(client)[0]["tags"] == {"tag:k": "v"}

    lighter("restore", by_kopia.id, str(tmp_path / "by-us"), "--sparse", "--parallel", "2")
    assert_same(by_stored_name(scan(tmp_path / "by-us")), stored(seen))
    lighter("restore", f"{by_kopia.id}/sizes", str(tmp_path / "part"))
    assert len(list((tmp_path / "part").iterdir())) == len(everything().entries[b"sizes"].entries)  # type: ignore[union-attr]
    client.run("snapshot", "restore", str(backup["snapshotID"]), str(tmp_path / "by-kopia"))
    assert_same(by_stored_name(scan(tmp_path / "by-kopia")), restored_by_kopia(seen))
    lighter("verify", "--json")
    kopia_finds_no_fault(client)

    lighter("forget", by_kopia.id, "--yes", "--json")
    assert [item["id"] for item in snapshots_by_kopia(client)] == [backup["snapshotID"]]
    for name in blobs(folder, "xn"):
        blob_path(folder, name).unlink()
    lighter("repository", "repair-index", "--commit", "--json")
    assert backup["snapshotID"] in [item["id"] for item in snapshots_by_kopia(kopia(folder).connect())]
    (tmp_path / "new-password").write_text("another\n")
    lighter("repository", "change-password", "--new-password-file", str(tmp_path / "new-password"))
    assert snapshots_by_kopia(kopia(folder, password="another").connect())
