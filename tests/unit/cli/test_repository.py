"""`lighter repository`, `lighter maintenance`, connections, passwords."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Lighter, Place


def test_create_has_veleros_defaults_and_says_who_maintains(lighter: Lighter, place: Place, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/new"
    created = lighter("repository", "create", "--repo", url, "--password-file", place.password_file, "--for-velero")
    assert created.status == 0, created.stderr
    assert "BLAKE2B-256-128" in created.stdout
    assert "default@default" in created.stderr
    assert list((tmp_path / "new").rglob("*Repository.f"))
    info = lighter("maintenance", "info", "--repo", url, "--password-file", place.password_file, "--json").json
    assert (info["owner"], info["due"]) == ("default@default", "full")


def test_create_takes_every_documented_option(lighter: Lighter, place: Place, tmp_path: Path) -> None:
    choice = {
        "--format-version": 2,
        "--hash": "BLAKE3-256",
        "--encryption": "CHACHA20-POLY1305-HMAC-SHA256",
        "--splitter": "FIXED-1M",
        "--pack-size": "10MiB",
        "--maintenance-owner": "me@here",
    }
    options = [str(part) for pair in choice.items() for part in pair]
    at = ("--repo", f"file://{tmp_path}/new", "--password-file", place.password_file, "--json")
    created = lighter("repository", "create", *options, *at)
    assert created.status == 0, created.stderr
    described = created.json["format"]
    assert (described["formatVersion"], described["hash"], described["splitter"]) == (2, "BLAKE3-256", "FIXED-1M")
    assert (described["packSize"], created.json["maintenanceOwner"]) == (10 << 20, "me@here")
    assert lighter("repository", "status", *at).json["format"] == described


def test_a_second_create_in_the_same_place_is_refused(lighter: Lighter, place: Place) -> None:
    outcome = lighter("repository", "create", *place.options, "--json")
    assert (outcome.status, outcome.error["code"]) == (31, "repository.exists")


def test_a_wrong_password_has_its_own_status(lighter: Lighter, place: Place, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("wrong")
    outcome = lighter("snapshots", "--repo", place.url, "--password-file", tmp_path / "wrong", "--json")
    assert (outcome.status, outcome.error["code"]) == (32, "repository.wrong-password")


def test_without_password_nothing_is_asked_where_nobody_can_answer(lighter: Lighter, place: Place) -> None:
    outcome = lighter("snapshots", "--repo", place.url, "--json")
    assert (outcome.status, outcome.error["code"]) == (2, "usage")


def test_the_password_comes_from_the_environment(
    lighter: Lighter, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTER_PASSWORD", "secret")
    assert lighter("snapshots", "--repo", place.url, "--json").status == 0


def test_a_remembered_connection_needs_no_options(lighter: Lighter, place: Place) -> None:
    assert lighter("snapshots").status == 2
    assert lighter("connect", *place.options).status == 0
    assert lighter("snapshots", "--json").json == {"snapshots": [], "warnings": []}
    lighter("disconnect")
    assert lighter("snapshots").status == 2


def test_a_changed_password_opens_and_the_old_one_does_not(lighter: Lighter, place: Place, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("n\u00fc")
    changed = lighter("repository", "change-password", *place.options, "--new-password-file", tmp_path / "new")
    assert changed.status == 0, changed.stderr
    assert lighter("snapshots", *place.options).status == 32
    assert lighter("snapshots", "--repo", place.url, "--password-file", tmp_path / "new").status == 0


def test_verify_finds_a_lost_pack_and_names_the_files_it_hits(lighter: Lighter, place: Place) -> None:
    lighter("backup", place.tree, *place.options)
    whole = lighter("repository", "verify", *place.options, "--json")
    assert (whole.status, whole.json["ok"]) == (0, True)
    for pack in place.folder.glob("p*/**/*.f"):
        pack.unlink()
    damaged = lighter("repository", "verify", *place.options, "--json")
    assert (damaged.status, damaged.error["code"]) == (75, "snapshot.verification-failed")
    assert damaged.json["errors"][0]["code"] == "repository.content-not-found"
    hit = {failure["path"] for failure in damaged.json["checks"]["failures"]}
    assert hit == {"etc/motd", "etc/link", "data.bin"}
    for options in ((), ("--existence-only",), ("latest", "--files-percent", "0.001")):
        assert lighter("verify", *options, *place.options, "--json").status == 75
    assert lighter("repository", "verify", "--existence-only", *place.options).status == 75


def test_verify_finds_a_flipped_bit_unless_it_is_to_read_no_files(lighter: Lighter, place: Place) -> None:
    lighter("backup", place.tree, *place.options)
    (pack,) = place.folder.glob("p*/**/*.f")
    flipped = bytearray(pack.read_bytes())
    flipped[len(flipped) // 3] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(flipped)
    damaged = lighter("repository", "verify", *place.options, "--json")
    assert (damaged.status, damaged.error["code"]) == (75, "snapshot.verification-failed")
    assert damaged.json["checks"]["failed"] > 0
    unread = lighter("repository", "verify", "--existence-only", *place.options)
    assert (unread.status, "All is well" in unread.stdout) == (0, False)


def test_a_verification_of_no_snapshot_says_so(lighter: Lighter, place: Place) -> None:
    nothing = lighter("verify", *place.options)
    assert (nothing.status, "All is well" in nothing.stdout) == (0, False)
    assert "nothing was verified" in nothing.stderr
    assert len(lighter("verify", *place.options, "--json").json["warnings"]) == 1
    lighter("backup", place.tree, *place.options)
    assert lighter("verify", "--source=nobody@here:/", *place.options, "--json").json["warnings"]
    assert not lighter("verify", *place.options, "--json").json["warnings"]


def test_an_interrupted_verification_is_gone_on_with(lighter: Lighter, place: Place, tmp_path: Path) -> None:
    lighter("backup", place.tree, *place.options)
    assert "No interrupted run" in lighter("verify", "--resume", *place.options).stderr
    state = next((tmp_path / "cache").glob("*")) / "verify.json"
    whole = lighter("verify", *place.options, "--json").json
    done = [snapshot["snapshotID"] for snapshot in lighter("snapshots", *place.options, "--json").json["snapshots"]]
    counters = {"snapshots": 1, "files": 2, "failures": []}
    state.write_text(json.dumps({"files_percent": 100.0, "seed": 7, "done": done, "report": counters}))
    resumed = lighter("verify", "--resume", *place.options, "--json").json
    assert whole["checks"]["filesRead"] == 3
    assert (resumed["seed"], resumed["checks"]["files"], resumed["checks"]["filesRead"]) == (7, 2, 0)
    assert not state.exists()


def test_repair_index_looks_first_and_writes_with_commit(lighter: Lighter, place: Place) -> None:
    lighter("backup", place.tree, *place.options)
    for index in place.folder.glob("x*/**/*.f"):
        index.unlink()
    looked = lighter("repository", "repair-index", *place.options, "--json").json
    assert looked["contents"] > 0
    assert looked["written"] == []
    assert lighter("snapshots", *place.options, "--no-cache", "--json").json["snapshots"] == []
    assert lighter("repository", "repair-index", "--commit", *place.options, "--json").json["written"]
    assert len(lighter("snapshots", *place.options, "--no-cache", "--json").json["snapshots"]) == 1


def test_forget_keeps_pinned_ones_and_does_nothing_in_a_dry_run(lighter: Lighter, place: Place) -> None:
    plain = lighter("backup", place.tree, *place.options, "--json").json["snapshotID"]
    pinned = lighter("backup", place.tree, *place.options, "--pin", "x", "--json").json["snapshotID"]
    dry = lighter("forget", plain, pinned, "--dry-run", *place.options, "--json").json
    assert [item["snapshotID"] for item in dry["forgotten"]] == [plain]
    assert len(lighter("snapshots", *place.options, "--json").json["snapshots"]) == 2
    lighter("forget", plain, pinned, *place.options)
    left = lighter("snapshots", *place.options, "--json").json["snapshots"]
    assert [snapshot["snapshotID"] for snapshot in left] == [pinned]


def test_forget_by_policy_says_why_each_is_kept(lighter: Lighter, place: Place) -> None:
    lighter("backup", place.tree, *place.options, "--source", "me@here:/a")
    judged = lighter("forget", "--source", "me@here:/a", "--apply-policy", *place.options, "--json").json
    assert "latest-1" in judged["kept"][0]["reasons"]
    assert judged["forgotten"] == []
    assert lighter("forget", *place.options).status == 2
