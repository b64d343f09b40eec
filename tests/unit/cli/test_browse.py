"""Looking into snapshots: ls, cat, find, diff."""

from __future__ import annotations

import os

from tests.unit.cli.conftest import Lighter, Place


def test_ls_lists_a_folder_and_with_r_everything_below(lighter: Lighter, place: Place) -> None:
    lighter("backup", place.tree, *place.options)
    listed = lighter("ls", "latest/etc", *place.options, "--json").json["entries"]
    assert [entry["path"] for entry in listed] == ["link", "motd"]
    everything = lighter("ls", "-R", "latest", *place.options, "--names").stdout.split()
    assert everything == ["etc", "etc/link", "etc/motd", "data.bin"]


def test_cat_prints_bytes_as_they_are(lighter: Lighter, place: Place) -> None:
    lighter("backup", place.tree, *place.options)
    assert lighter("cat", "latest/etc/motd", *place.options).stdout == "hello\n"
    assert lighter("cat", "latest/etc", *place.options).status == 71


def test_find_looks_through_all_snapshots(lighter: Lighter, place: Place) -> None:
    first = lighter("backup", place.tree, *place.options, "--json").json["snapshotID"]
    second = lighter("backup", place.tree, *place.options, "--json").json["snapshotID"]
    found = lighter("find", "mot*", *place.options, "--json").json["entries"]
    assert [(entry["snapshotID"], entry["path"]) for entry in found] == [(first, "etc/motd"), (second, "etc/motd")]
    assert lighter("find", "--larger", "100kB", "--in", "latest", *place.options, "--json").json["entries"][0][
        "path"
    ] == "data.bin"  # fmt: skip


def test_diff_tells_added_removed_and_modified(lighter: Lighter, place: Place) -> None:
    first = lighter("backup", place.tree, *place.options, "--json").json["snapshotID"]
    (place.tree / "etc" / "motd").write_text("changed\n")
    (place.tree / "data.bin").unlink()
    (place.tree / "new").write_text("new")
    lighter("backup", place.tree, *place.options)
    changes = lighter("diff", first, "latest", *place.options, "--json").json
    kinds = {change["path"]: change["kind"] for change in changes["changes"] if change["content"]}
    assert (kinds["etc/motd"], kinds["data.bin"], kinds["new"]) == ("modified", "removed", "added")
    lines = lighter("diff", first, "latest", *place.options).stdout.splitlines()
    assert any(line.startswith("M etc/motd") for line in lines)


def test_names_with_control_characters_are_never_printed_raw(lighter: Lighter, place: Place) -> None:
    (place.tree / "evil\x1b[2J\n").write_text("")
    lighter("backup", place.tree, *place.options)
    for command in (("ls", "latest"), ("ls", "latest", "--names"), ("find", "evil*")):
        shown = lighter(*command, *place.options).stdout
        assert "\x1b" not in shown
        assert "evil\\x1b[2J\\n" in shown


def test_names_that_are_not_utf8_can_be_listed(lighter: Lighter, place: Place) -> None:
    with open(os.fsencode(place.tree) + b"/bad-\xff", "wb"):
        pass
    lighter("backup", place.tree, *place.options)
    assert "bad-" in lighter("ls", "latest", *place.options).stdout
    assert any("bad-" in entry["path"] for entry in lighter("ls", "latest", *place.options, "--json").json["entries"])
