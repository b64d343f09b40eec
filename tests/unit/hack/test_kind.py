"""`hack/kind` cannot run without Docker; what it has in common with `hack/cluster` is held together here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from hack.images.catalog import KIND_IMAGES
from hack.node import storage
from hack.node.layout import MANIFESTS, Layout

_OF_THE_PLACE: Final = ("-dir=", "-ip", "-s3.config=", "--kubeconfig=", "--csi-address=", "--v=", "-state=", "-node=")
"""Options that say where something is."""
_OF_ONE_MACHINE: Final = ("-master.electionTimeout=", ".port.grpc=", ".localSocket=")
"""And those that keep two clusters of `hack/cluster` on one machine apart, or have it start soon."""


def _containers() -> dict[str, dict[str, Any]]:
    manifests = list(yaml.safe_load_all((MANIFESTS / "kind.yaml").read_text(encoding="utf-8")))
    return {
        container["name"]: container
        for manifest in manifests
        if manifest["kind"] == "DaemonSet"
        for container in manifest["spec"]["template"]["spec"]["containers"]
    }


def _options(command: Iterable[object]) -> set[str]:
    words = [str(word) for word in command if str(word).startswith("-")]
    left_out = [word for word in words if word.startswith(_OF_THE_PLACE) or any(one in word for one in _OF_ONE_MACHINE)]
    return {*words} - {*left_out}


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, list[object]]:
    """Commands of what `hack/cluster` runs, by name; nothing is built for it."""
    monkeypatch.setattr(storage, "tool", lambda name: name)
    monkeypatch.setattr(storage, "seaweedfs", lambda: "weed")
    layout = Layout(tmp_path)
    layout.run.mkdir()
    daemons = [storage.object_store(layout), storage.csi_driver(layout), *storage.csi_side_cars(layout)]
    return {daemon.name: list(daemon.command) for daemon in daemons}


@pytest.mark.parametrize(
    ("container", "process"),
    [
        ("s3", "s3"),
        ("driver", "csi-driver"),
        ("snapshot-controller", "snapshot-controller"),
        ("snapshotter", "csi-snapshotter"),
        ("provisioner", "csi-provisioner"),
    ],
)
def test_a_container_has_the_options_of_the_process_in_whose_place_it_is(
    programs: dict[str, list[object]], container: str, process: str
) -> None:
    found = _containers()[container]
    command = [] if container == "driver" else found["command"]  # the driver's is nsenter's
    assert _options([*command, *found.get("args", [])]) == _options(programs[process])


def test_its_containers_have_images_that_are_made() -> None:
    images = {container["image"] for container in _containers().values()}
    assert images == {image.name for image in KIND_IMAGES.values()}
