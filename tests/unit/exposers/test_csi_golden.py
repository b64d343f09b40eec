"""What is made for a recorded DataUpload, held against what the stock agent made for it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import cast

import msgspec
import pytest
import yaml

from agent.exposers.contract import Waiting
from agent.exposers.csi_snapshot import CsiSnapshotExposer
from agent.exposers.settings import ExposerSettings
from agent.kube import codec
from agent.kube.agent_config import AgentConfig
from agent.kube.codec import JsonObject, ObjectT
from agent.kube.meta import Key
from agent.kube.pods import Pod
from agent.kube.resource import (
    DAEMON_SETS,
    DATA_UPLOADS,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    STORAGE_CLASSES,
    VOLUME_SNAPSHOT_CONTENTS,
    VOLUME_SNAPSHOTS,
    Resource,
)
from agent.kube.snapshots import VolumeSnapshot, VolumeSnapshotContent
from agent.kube.volumes import PersistentVolumeClaim
from agent.testing.clock import VirtualClock
from agent.testing.fake_kube import FakeKube
from agent.testing.fake_nodes import FakeNodeVolumes

NAME = "dm-big-szhtz"
JOB = Key("velero", NAME)
SOURCE_CONTENT = "source-vsc.003.ready.yaml"


def _value(golden: Path, name: str) -> JsonObject:
    return cast(JsonObject, yaml.safe_load((golden / "objects" / name).read_text()))


@pytest.fixture
async def kube(golden: Path) -> FakeKube:
    """The cluster as it was when the stock agent began, and after one look of ours."""
    clock = VirtualClock(jump=False)
    kube = FakeKube(clock, random.Random(1))
    kube.put_raw(DATA_UPLOADS, _value(golden, "dataupload.Accepted.yaml"))
    kube.put_raw(DAEMON_SETS, _value(golden, "node-agent-daemonset.yaml"))
    content = _value(golden, SOURCE_CONTENT)
    kube.put_raw(VOLUME_SNAPSHOT_CONTENTS, content)
    reference = codec.decode(VolumeSnapshotContent, content).spec.volume_snapshot_ref
    meta: JsonObject = {"name": reference.name, "namespace": reference.namespace, "uid": reference.uid}
    status: JsonObject = {
        "boundVolumeSnapshotContentName": codec.decode(VolumeSnapshotContent, content).metadata.name,
        "readyToUse": True,
        "restoreSize": "2Gi",
    }
    kind: JsonObject = {"apiVersion": VOLUME_SNAPSHOTS.api_version, "kind": "VolumeSnapshot"}
    kube.put_raw(VOLUME_SNAPSHOTS, {**kind, "metadata": meta, "spec": {}, "status": status})
    kind = {"apiVersion": STORAGE_CLASSES.api_version, "kind": "StorageClass"}
    kube.put_raw(STORAGE_CLASSES, {**kind, "metadata": {"name": "dir", "uid": "dir"}})
    settings = ExposerSettings(
        api=kube,
        clock=clock,
        node="node1",
        namespace="velero",
        config=AgentConfig,
        volumes=FakeNodeVolumes(kube, "node1"),
        sees_host_pods=True,
    )
    state = await CsiSnapshotExposer(settings).advance(await kube.get(DATA_UPLOADS, JOB))
    assert isinstance(state, Waiting), state
    return kube


async def _pair(
    kube: FakeKube, golden: Path, resource: Resource[ObjectT], file: str, key: Key = JOB
) -> tuple[ObjectT, ObjectT]:
    return await kube.get(resource, key), codec.decode(resource.view, _value(golden, file))


async def test_the_claim_is_the_stock_agents(kube: FakeKube, golden: Path) -> None:
    pair = await _pair(kube, golden, PERSISTENT_VOLUME_CLAIMS, "du-persistentvolumeclaim.Pending.yaml")
    ours, stock = cast(tuple[PersistentVolumeClaim, PersistentVolumeClaim], pair)
    assert ours.spec == msgspec.structs.replace(stock.spec, volume_name="")  # recorded when it was bound
    assert ours.metadata.owner_references == stock.metadata.owner_references


async def test_the_snapshot_is_the_stock_agents_and_owned_besides(kube: FakeKube, golden: Path) -> None:
    pair = await _pair(kube, golden, VOLUME_SNAPSHOTS, "du-volumesnapshot.New.yaml")
    ours, stock = cast(tuple[VolumeSnapshot, VolumeSnapshot], pair)
    assert ours.spec == stock.spec
    assert ours.metadata.annotations == stock.metadata.annotations
    assert [owner.name for owner in ours.metadata.owner_references] == [NAME]


async def test_the_content_is_the_stock_agents(kube: FakeKube, golden: Path) -> None:
    file = "du-volumesnapshotcontent.ready.yaml"
    pair = await _pair(kube, golden, VOLUME_SNAPSHOT_CONTENTS, file, Key("", NAME))
    ours, stock = cast(tuple[VolumeSnapshotContent, VolumeSnapshotContent], pair)
    assert ours.spec.source == stock.spec.source
    assert ours.spec.driver == stock.spec.driver
    assert ours.spec.deletion_policy == stock.spec.deletion_policy
    assert ours.spec.volume_snapshot_class_name == stock.spec.volume_snapshot_class_name
    names = [(one.spec.volume_snapshot_ref.namespace, one.spec.volume_snapshot_ref.name) for one in (ours, stock)]
    assert names[0] == names[1]
    assert ours.metadata.annotations == {}  # the source's locks are not copied


async def test_the_source_is_retained_and_its_snapshot_deleted_as_by_the_stock_agent(
    kube: FakeKube, golden: Path
) -> None:
    recorded = codec.decode(VolumeSnapshotContent, _value(golden, "source-vsc.007.ready.yaml"))
    ours = await kube.get(VOLUME_SNAPSHOT_CONTENTS, recorded.key)
    assert ours.spec == recorded.spec
    reference = recorded.spec.volume_snapshot_ref
    keys = [one.key for one in (await kube.list(VOLUME_SNAPSHOTS)).items]
    assert Key(reference.namespace, reference.name) not in keys


async def test_the_pod_has_the_stock_agents_name_and_claim(kube: FakeKube, golden: Path) -> None:
    ours, stock = cast(tuple[Pod, Pod], await _pair(kube, golden, PODS, "du-pod.Pending.yaml"))
    assert stock.metadata.labels.items() <= ours.metadata.labels.items()
    assert ours.spec.volume(ours.spec.containers[0].name) == stock.spec.volume(stock.spec.containers[0].name)
