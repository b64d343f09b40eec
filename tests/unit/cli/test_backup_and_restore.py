"""Backing up and restoring through the command, as a person does."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.repository.manifest_writer import JsonValue
from agent.repository.repository import Repository
from agent.storage.open import open_storage
from tests.unit.cli.conftest import Lighter, Place


def test_a_backup_restored_elsewhere_is_the_same_tree(lighter: Lighter, place: Place, tmp_path: Path) -> None:
    taken = lighter("backup", place.tree, *place.options, "--json")
    assert taken.status == 0, taken.stderr
    restored = lighter("restore", taken.json["snapshotID"], tmp_path / "out", *place.options, "--json")
    assert restored.status == 0, restored.stderr
    assert (tmp_path / "out" / "etc" / "motd").read_text() == "hello\n"
    assert (tmp_path / "out" / "data.bin").read_bytes() == (place.tree / "data.bin").read_bytes()
    assert (tmp_path / "out" / "etc" / "link").readlink() == Path("motd")
    assert restored.json["files"] == taken.json["files"] == 2


def test_the_second_backup_reads_nothing(lighter: Lighter, place: Place) -> None:
    first = lighter("backup", place.tree, *place.options, "--json").json
    second = lighter("backup", place.tree, *place.options, "--json").json
    assert second["parents"] == [first["snapshotID"]]
    assert second["rootObjectID"] == first["rootObjectID"]
    assert second["readBytes"] == 0
    assert second["cachedFiles"] == 3


def test_snapshots_come_oldest_first_with_source_tags_and_pins(lighter: Lighter, place: Place) -> None:
    lighter("backup", place.tree, *place.options, "--source", "me@here:/a")
    lighter("backup", place.tree, *place.options, "--source", "me@here:/b", "--tag", "app:shop", "--pin", "keep")
    listed = lighter("snapshots", *place.options, "--json").json["snapshots"]
    assert [snapshot["source"] for snapshot in listed] == ["me@here:/a", "me@here:/b"]
    assert listed[1]["tags"] == {"tag:app": "shop"}
    assert listed[1]["pins"] == ["keep"]
    assert len(lighter("snapshots", *place.options, "--tag", "app:shop", "--json").json["snapshots"]) == 1


def test_the_default_source_is_kopias(lighter: Lighter, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Web1.Example.COM")
    monkeypatch.chdir(place.tree.parent)
    source = lighter("backup", "tree", *place.options, "--json").json["source"]
    user, _, rest = source.partition("@")
    assert rest == f"web1:{os.path.abspath('tree')}"
    assert user


def test_an_empty_path_is_refused_and_not_taken_for_the_current_folder(lighter: Lighter, place: Place) -> None:
    assert lighter("backup", "", *place.options).status == 2
    assert lighter("restore", "latest", "", *place.options).status == 2
    assert lighter("snapshots", *place.options, "--json").json["snapshots"] == []


def test_a_repository_in_its_own_source_is_warned_of(lighter: Lighter, place: Place) -> None:
    within = lighter("backup", place.folder.parent, *place.options, "--json")
    assert within.status == 0, within.stderr
    assert "the repository lies in" in within.stderr
    assert len(within.json["warnings"]) == 1
    assert lighter("backup", place.tree, *place.options, "--json").json["warnings"] == []


def test_what_cannot_be_backed_up_ends_with_73_and_is_named(lighter: Lighter, place: Place) -> None:
    asyncio.run(_put_policy(place, {"errorHandling": {"ignoreUnknownTypes": False}}))
    os.mkfifo(place.tree / "etc" / "pipe")
    taken = lighter("backup", place.tree, *place.options, "--json")
    assert taken.status == 73
    assert taken.json["errors"][0]["path"] == "etc/pipe"
    assert taken.error["code"] == "snapshot.partial"
    assert lighter("snapshots", *place.options, "--json").json["snapshots"][0]["errors"] == 1
    assert lighter("backup", place.tree, *place.options, "--fail-fast", "--json").status == 51


async def _put_policy(place: Place, policy: Mapping[str, JsonValue]) -> None:
    storage = await open_storage(place.url)
    async with Repository.open(storage, "secret") as repository, repository.writer() as writer:
        await writer.put_manifest({"type": "policy", "policyType": "global"}, policy)
    await storage.close()


def test_one_file_is_restored_into_a_folder_under_its_own_name(lighter: Lighter, place: Place, tmp_path: Path) -> None:
    lighter("backup", place.tree, *place.options)
    (tmp_path / "out").mkdir()
    assert lighter("restore", "latest/etc/motd", tmp_path / "out", *place.options).status == 0
    assert (tmp_path / "out" / "motd").read_text() == "hello\n"


def test_existing_files_stay_when_asked_and_extra_ones_go_when_asked(
    lighter: Lighter, place: Place, tmp_path: Path
) -> None:
    lighter("backup", place.tree, *place.options)
    out = tmp_path / "out"
    (out / "etc").mkdir(parents=True)
    (out / "etc" / "motd").write_text("mine")
    (out / "extra").write_text("extra")
    kept = lighter("restore", "latest", out, *place.options, "--on-existing", "skip", "--json").json
    assert (kept["skipped"], kept["removed"]) == (1, 0)
    assert (out / "etc" / "motd").read_text() == "mine"
    replaced = lighter("restore", "latest", out, *place.options, "--delete-extra", "--json").json
    assert replaced["removed"] == 1
    assert not (out / "extra").exists()
    assert (out / "etc" / "motd").read_text() == "hello\n"


def test_an_image_is_backed_up_and_restored_as_a_block_device(lighter: Lighter, place: Place, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x" * 1000)
    os.truncate(image, 5_000_000)
    taken = lighter("backup", "--block", image, *place.options, "--json")
    assert taken.status == 0, taken.stderr
    assert (taken.json["files"], taken.json["bytes"]) == (1, 5_000_000)
    back = tmp_path / "back"
    assert lighter("restore", "--block", "latest", back, *place.options).status == 0
    assert hashlib.sha256(back.read_bytes()).digest() == hashlib.sha256(image.read_bytes()).digest()
    again = lighter("restore", "--block", "latest", back, "--on-existing", "fail", *place.options, "--json")
    assert (again.status, again.error["code"]) == (52, "volume.target-exists")


def test_latest_without_any_snapshot_is_an_error_with_a_hint(lighter: Lighter, place: Place, tmp_path: Path) -> None:
    outcome = lighter("restore", "latest", tmp_path / "out", *place.options, "--json")
    assert outcome.status == 71
    assert outcome.error["code"] == "snapshot.not-found"
    assert outcome.error["hint"]
