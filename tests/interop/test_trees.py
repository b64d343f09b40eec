"""Any tree at all: written by one side and read by the other, entry by entry, both ways.

Each side backs the same tree up into the same repository; both must come to the same root object, byte for byte, which
says more than any comparison of what is read back. That is compared too, against `os.lstat` of the source.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from agent.snapshots.model import Source
from agent.testing.kopia_client import KopiaClient
from agent.testing.tree_strategies import folders
from agent.testing.trees import Folder, everything, plant, scan, stored_name, text
from tests.interop.sides import (
    Ours,
    assert_same,
    both_ways,
    by_stored_name,
    kopia_finds_no_fault,
    snapshot_by_kopia,
)

pytestmark = pytest.mark.kopia

_Clients = Callable[..., KopiaClient]


@pytest.mark.check(27)
def test_a_tree_of_every_corner_case_goes_both_ways(ours: Ours, kopia: _Clients, tmp_path: Path) -> None:
    client = kopia(ours.folder).connect()
    both_ways(ours, client, tmp_path, everything())
    kopia_finds_no_fault(client)


def test_a_tree_in_a_repository_that_kopia_created_goes_both_ways(kopia: _Clients, tmp_path: Path) -> None:
    client = kopia(tmp_path / "repo").create()
    both_ways(Ours(tmp_path / "repo"), client, tmp_path, everything())
    kopia_finds_no_fault(client)


def test_any_tree_goes_both_ways(ours: Ours, kopia: _Clients, tmp_path: Path) -> None:
    client = kopia(ours.folder).connect()
    place = tmp_path / "case"

    @settings(max_examples=12, suppress_health_check=list(HealthCheck))
    @given(folders())
    def any_tree(tree: Folder) -> None:
        place.mkdir()
        try:
            both_ways(ours, client, place, tree)
        finally:
            shutil.rmtree(place)

    any_tree()
    kopia_finds_no_fault(client)


def test_names_that_become_equal_when_stored_are_kept_both_and_restored_as_kopia_does(
    ours: Ours, kopia: _Clients, tmp_path: Path
) -> None:
    names = [b"same\xff", b"same\xfe", "same\ufffd".encode()]
    assert len({stored_name(name) for name in names}) == 1
    plant(tmp_path / "tree", Folder({name: text(b"in " + name) for name in names}))
    client = kopia(ours.folder).connect()
    by_us = ours.back_up(tmp_path / "tree", Source("default", "default", "/by-us"))
    by_kopia = snapshot_by_kopia(client, tmp_path / "tree")
    assert by_us.root == by_kopia.root

    client.run("snapshot", "restore", by_us.snapshot.id, str(tmp_path / "by-kopia"))
    report = ours.restore(by_us.snapshot.id, tmp_path / "by-us")
    assert report.warned
    assert_same(by_stored_name(scan(tmp_path / "by-us")), by_stored_name(scan(tmp_path / "by-kopia")))
