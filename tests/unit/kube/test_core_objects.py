"""Pods, claims, volumes, snapshots and events as a cluster with the stock agent had them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from agent.kube import codec
from agent.kube.cluster import Event, Secret
from agent.kube.meta import KubeObject, ObjectMeta
from agent.kube.pods import Pod, PodPhase
from agent.kube.snapshots import VolumeSnapshot, VolumeSnapshotContent
from agent.kube.volumes import PersistentVolume, PersistentVolumeClaim

KINDS: dict[str, type[KubeObject]] = {
    kind.__name__: kind
    for kind in (Pod, PersistentVolumeClaim, PersistentVolume, VolumeSnapshot, VolumeSnapshotContent, Event)
}


def _objects(golden: Path) -> dict[str, codec.JsonObject]:
    found: dict[str, codec.JsonObject] = {}
    for file in sorted((golden / "objects").glob("*.yaml")):
        for number, value in enumerate(yaml.safe_load_all(file.read_text())):
            for item in value.get("items", [value]):
                if item.get("kind") in KINDS:
                    found[f"{file.name}#{number}#{len(found)}"] = item
    return found


def _lost(known: codec.JsonValue, whole: codec.JsonValue, path: str = "") -> list[str]:
    """What `known` says otherwise than `whole`."""
    if isinstance(known, dict) and isinstance(whole, dict):
        return [one for name, below in known.items() for one in _lost(below, whole.get(name), f"{path}.{name}")]
    if isinstance(known, list) and isinstance(whole, list) and len(known) == len(whole):
        pairs = zip(known, whole, strict=True)
        return [one for number, (a, b) in enumerate(pairs) for one in _lost(a, b, f"{path}[{number}]")]
    return [] if known == whole else [f"{path}: {known!r} != {whole!r}"]


def test_every_recorded_core_object_is_read_and_written_back_without_a_difference(golden: Path) -> None:
    objects = _objects(golden)
    assert {str(value["kind"]) for value in objects.values()} >= {"Pod", "PersistentVolumeClaim", "VolumeSnapshot"}
    for name, value in objects.items():
        view = codec.decode(KINDS[str(value["kind"])], value)
        assert _lost(codec.encode(view), value) == [], name


def test_a_recorded_mover_pod_has_its_volume_and_state(golden: Path) -> None:
    value = yaml.safe_load((golden / "objects" / "du-pod.Running.yaml").read_text())
    pod = codec.decode(Pod, value)
    volume = pod.spec.volume(pod.spec.containers[0].name)
    assert volume is not None
    assert volume.persistent_volume_claim is not None
    assert volume.persistent_volume_claim.claim_name == pod.metadata.name
    assert pod.spec.volume("no-such-volume") is None
    assert pod.status.phase is PodPhase.RUNNING
    assert pod.spec.affinity is not None


@pytest.mark.parametrize("show", [repr, str])
def test_a_secret_shows_nothing_of_itself(show: object) -> None:
    secret = Secret(
        api_version="v1", kind="Secret", metadata=ObjectMeta(name="s", namespace="n"), data={"k": b"hidden"}
    )
    assert callable(show)
    assert show(secret) == "Secret(n/s)"
