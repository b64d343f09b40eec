"""A CSI snapshot becomes a volume that a worker can open, whatever the configuration, and nothing of it is left."""

from __future__ import annotations

import pytest

from agent.exposers.contract import Done, Ready, Runner, Waiting
from agent.exposers.snapshot_claim import SnapshotClaims
from agent.exposers.snapshot_record import SOURCE_ANNOTATION, read_record
from agent.kube.agent_config import BackupPVC, LoadAffinity, RunnerChoice
from agent.kube.meta import Key
from agent.kube.resource import (
    CONFIG_MAPS,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    SECRETS,
    STORAGE_CLASSES,
    VOLUME_ATTACHMENTS,
    VOLUME_SNAPSHOT_CONTENTS,
    VOLUME_SNAPSHOTS,
)
from agent.kube.snapshots import DeletionPolicy
from agent.kube.volumes import BindingMode, LabelSelector, ReclaimPolicy, VolumeMode
from agent.movers.pod_protocol import JOB_ANNOTATION
from tests.unit.exposers.csi_kit import JOB, NAME, SOURCE_CLAIM, SOURCE_SNAPSHOT, VELERO, World

BLOCK, FILESYSTEM = VolumeMode.BLOCK, VolumeMode.FILESYSTEM


async def _ready(world: World, node: str = "node-a") -> Ready:
    state = await world.expose(world.exposer(node))
    assert isinstance(state, Ready), state
    return state


@pytest.mark.parametrize(
    ("mode", "choice", "sees", "runner"),
    [
        (FILESYSTEM, RunnerChoice.AUTO, True, Runner.LOCAL),
        (FILESYSTEM, RunnerChoice.AUTO, False, Runner.POD),
        (BLOCK, RunnerChoice.AUTO, True, Runner.POD),
        (BLOCK, RunnerChoice.LOCAL, True, Runner.LOCAL),
        (FILESYSTEM, RunnerChoice.POD, True, Runner.POD),
    ],
)
async def test_a_snapshot_is_opened_on_a_node_and_removed_without_a_trace(
    mode: VolumeMode, choice: RunnerChoice, sees: bool, runner: Runner
) -> None:
    world = World(mode=mode, sees_host_pods=sees)
    job = await world.build()
    world.configure(runner=choice)
    ready = await _ready(world)
    assert (ready.node, ready.mode, ready.runner, ready.pod) == ("node-a", mode, runner, NAME)
    if runner is Runner.POD:
        assert ready.path == f"/{job.metadata.uid}"
    else:
        pod = await world.kube.get(PODS, JOB)
        claim = await world.kube.get(PERSISTENT_VOLUME_CLAIMS, JOB)
        assert ready.path.startswith(f"/host_pods/{pod.metadata.uid}/volume")
        assert claim.spec.volume_name in ready.path
    assert await world.exposer().advance(await world.job()) == ready
    assert await world.exposer().finish(await world.job()) == Done()
    assert await world.clean_up() == Done()
    assert await world.left() == []


async def test_the_objects_have_the_shape_of_a_stock_agents() -> None:
    world = World()
    job = await world.build()
    source_content = (await world.kube.list(VOLUME_SNAPSHOT_CONTENTS)).items[0]
    await _ready(world)
    snapshot = await world.kube.get(VOLUME_SNAPSHOTS, JOB)
    assert snapshot.spec.source.volume_snapshot_content_name == NAME
    assert snapshot.spec.volume_snapshot_class_name == "snaps"
    assert snapshot.metadata.annotations == {"note": "kept"}
    content = await world.kube.get(VOLUME_SNAPSHOT_CONTENTS, Key("", NAME))
    assert content.spec.deletion_policy is DeletionPolicy.DELETE
    assert content.spec.source.snapshot_handle == source_content.status.snapshot_handle
    assert content.spec.driver == source_content.spec.driver
    assert content.metadata.annotations == {"driver/key": "kept"}  # not the controllers' own locks
    claim = await world.kube.get(PERSISTENT_VOLUME_CLAIMS, JOB)
    assert claim.spec.access_modes == ("ReadWriteOnce",)
    assert claim.spec.storage_class_name == "dir"
    assert claim.spec.resources.requests == {"storage": "2Gi"}
    assert claim.spec.data_source is not None
    assert (claim.spec.data_source.kind, claim.spec.data_source.name) == ("VolumeSnapshot", NAME)
    assert [(owner.uid, owner.controller) for owner in claim.metadata.owner_references] == [(job.metadata.uid, True)]


async def test_the_source_is_gone_before_the_data_moves_and_the_storages_snapshot_is_not() -> None:
    world = World()
    await world.build()
    handles = set(world.csi.storage.snapshots)
    await _ready(world)
    await world.exposer().advance(await world.job())
    await world.csi.step()
    snapshots = (await world.kube.list(VOLUME_SNAPSHOTS)).items
    contents = (await world.kube.list(VOLUME_SNAPSHOT_CONTENTS)).items
    assert [one.key for one in snapshots] == [JOB]
    assert [one.metadata.name for one in contents] == [NAME]
    assert world.csi.storage.snapshots == handles


async def test_the_source_is_remembered_before_anything_is_made() -> None:
    world = World()
    await world.build()
    world.kube.requests.clear()
    await world.exposer().advance(await world.job())
    writes = [(verb, name) for verb, name in world.kube.requests if verb in {"create", "patch", "delete"}]
    assert writes[0] == ("patch", "datauploads.velero.io")
    record = read_record(await world.job())
    assert record is not None
    assert {record.handle} == world.csi.storage.snapshots


async def test_the_claim_is_made_before_the_pod() -> None:
    world = World()
    await world.build()
    await world.exposer().advance(await world.job())
    created = [name for verb, name in world.kube.requests if verb == "create"]
    assert created[-2:] == ["persistentvolumeclaims", "pods"]


async def test_the_mapped_class_and_its_options_are_those_of_the_claim_and_the_pod() -> None:
    world = World()
    await world.build()
    await world.csi.add_class("fast")
    mapping = BackupPVC(
        storage_class="fast", read_only=True, spc_no_relabeling=True, annotations={"example.com/a": "b"}
    )
    world.configure(
        backup_pvc={"dir": mapping},
        load_affinity=(
            LoadAffinity(LabelSelector(match_labels={"kubernetes.io/hostname": "node-a"}), "dir"),
            LoadAffinity(LabelSelector(match_labels={"kubernetes.io/hostname": "node-b"}), "fast"),
        ),
    )
    ready = await _ready(world, "node-b")
    assert ready.node == "node-b"  # by the class after mapping
    claim = await world.kube.get(PERSISTENT_VOLUME_CLAIMS, JOB)
    assert claim.spec.storage_class_name == "fast"
    assert claim.spec.access_modes == ("ReadOnlyMany",)
    assert claim.metadata.annotations["example.com/a"] == "b"
    pod = await world.kube.get(PODS, JOB)
    volume = pod.spec.volume(pod.spec.containers[0].name)
    assert volume is not None
    assert volume.persistent_volume_claim is not None
    assert volume.persistent_volume_claim.read_only
    assert pod.spec.security_context["seLinuxOptions"] == {"type": "spc_t"}


@pytest.mark.check(15)
async def test_a_volume_bound_late_is_made_in_the_zone_of_its_source() -> None:
    world = World(binding=BindingMode.WAIT_FOR_FIRST_CONSUMER)
    await world.build()
    ready = await _ready(world, "node-b")
    assert ready.node == "node-b"
    claim = await world.kube.get(PERSISTENT_VOLUME_CLAIMS, JOB)
    assert claim.metadata.annotations["volume.kubernetes.io/selected-node"] == "node-b"


async def test_another_nodes_agent_learns_where_the_volume_is() -> None:
    world = World()
    await world.build()
    here = await _ready(world, "node-a")
    there = await world.exposer("node-b").advance(await world.job())
    assert isinstance(there, Ready)
    assert (there.node, there.path) == (here.node, here.path)


async def test_the_claims_request_is_the_size_when_the_snapshot_tells_none() -> None:
    world = World()
    await world.build()
    await world.kube.patch(VOLUME_SNAPSHOTS, SOURCE_SNAPSHOT, {"status": {"restoreSize": "0"}}, status=True)
    await world.exposer().advance(await world.job())
    claim = await world.kube.get(PERSISTENT_VOLUME_CLAIMS, JOB)
    assert claim.spec.resources.requests == {"storage": "1Gi"}


async def test_the_users_claim_may_be_gone() -> None:
    world = World(mode=BLOCK)
    await world.build()
    await world.kube.delete(PERSISTENT_VOLUME_CLAIMS, SOURCE_CLAIM)
    await world.csi.step(3)
    ready = await _ready(world)
    assert ready.mode is BLOCK
    assert await world.clean_up() == Done()


async def test_volumes_that_their_class_would_keep_go_all_the_same() -> None:
    world = World(reclaim=ReclaimPolicy.RETAIN)
    await world.build()
    await _ready(world)
    assert await world.clean_up() == Done()
    assert await world.left() == []
    assert len((await world.kube.list(PERSISTENT_VOLUMES)).items) == 1


async def test_a_source_that_its_class_would_keep_goes_when_nothing_was_taken_over_yet() -> None:
    world = World()
    await world.build()
    name = (await world.kube.list(VOLUME_SNAPSHOT_CONTENTS)).items[0].key
    await world.kube.patch(VOLUME_SNAPSHOT_CONTENTS, name, {"spec": {"deletionPolicy": "Retain"}})
    assert await world.clean_up() == Done()
    assert await world.left() == []


async def test_secrets_and_config_maps_of_the_driver_come_along_and_go() -> None:
    world = World()
    await world.build()
    await world.secret(Key("app", "luks"), "passphrase")
    await world.config_map(Key("app", "kms"))
    world.configure(backup_pvc={"dir": BackupPVC(secret_names=("luks",), config_map_names=("kms",))})
    await _ready(world)
    copy = await world.kube.get(SECRETS, Key(VELERO, "luks"))
    assert copy.data == {"passphrase": b"secret"}
    assert "velero.io/backup-pvc-secret" in copy.metadata.labels
    assert (await world.kube.get(CONFIG_MAPS, Key(VELERO, "kms"))).data == {"k": "v"}
    world.configure(backup_pvc={})  # what was copied is remembered with the object
    assert await world.clean_up() == Done()
    assert [one.metadata.name for one in (await world.kube.list(SECRETS, VELERO)).items] == [
        "cloud",
        "velero-repo-credentials",
    ]
    assert (await world.kube.list(CONFIG_MAPS, VELERO)).items == ()


async def test_a_finished_mover_pod_is_still_ready_since_its_end_is_a_result() -> None:
    world = World(sees_host_pods=False)
    await world.build()
    ready = await _ready(world)
    await world.kube.patch(PODS, JOB, {"metadata": {"annotations": {JOB_ANNOTATION: "{}"}}})
    await world.csi.nodes.end_pod(JOB, message="{}")
    assert await world.exposer().advance(await world.with_status(node="node-a")) == ready
    await world.csi.nodes.end_pod(JOB, exit_code=1, message="no space")
    assert await world.exposer().advance(await world.with_status(node="node-a")) == ready


async def test_cleaning_up_what_was_never_begun_removes_the_source() -> None:
    world = World()
    await world.build()
    assert await world.clean_up() == Done()
    assert await world.left() == []
    assert SOURCE_ANNOTATION not in (await world.job()).metadata.annotations


async def test_cleaning_up_waits_for_what_is_not_gone_and_says_for_what() -> None:
    world = World()
    await world.build()
    await _ready(world)
    world.csi.faults.snapshot_deletion = "the array is busy"
    state = await world.clean_up()
    assert isinstance(state, Waiting)
    assert state.reason == "not deleted yet of velero/backup-x7k2p: the snapshot"
    world.csi.faults.snapshot_deletion = ""
    assert await world.clean_up() == Done()
    assert await world.left() == []


async def test_cleaning_up_waits_for_the_volume_after_its_claim() -> None:
    world = World()
    await world.build()
    await _ready(world)
    world.csi.faults.volume_deletion = "still attached"
    state = await world.clean_up()
    assert isinstance(state, Waiting)
    assert state.reason == "not deleted yet of velero/backup-x7k2p: the volume"
    world.csi.faults.volume_deletion = ""
    assert await world.clean_up() == Done()
    assert await world.left() == []


async def test_the_snapshot_goes_after_the_volume_unless_that_takes_too_long() -> None:
    world = World()
    await world.build()
    await _ready(world)
    await world.kube.patch(PODS, JOB, {"metadata": {"finalizers": ["example.com/stuck"]}})
    await world.clean_up(looks=5)
    assert (await world.kube.get(VOLUME_SNAPSHOTS, JOB)).metadata.deletion_timestamp is None
    await world.clean_up(looks=5)
    assert JOB not in [one.key for one in (await world.kube.list(VOLUME_SNAPSHOTS)).items]
    assert world.csi.storage.snapshots == set()


async def test_a_claim_that_changed_since_it_was_looked_at_is_looked_at_once_more() -> None:
    world = World()
    job = await world.build()
    await world.exposer().advance(job)
    before = await world.kube.get(PERSISTENT_VOLUME_CLAIMS, JOB)
    await world.csi.step(2)
    claims = SnapshotClaims(world.settings())
    assert not await claims.remove(job, before)  # it was not bound then, so its volume would be missed
    after = await world.kube.get(PERSISTENT_VOLUME_CLAIMS, JOB)
    assert after.metadata.deletion_timestamp is None
    assert not await claims.remove(job, after)
    assert (await world.kube.get(PERSISTENT_VOLUME_CLAIMS, JOB)).metadata.deletion_timestamp is not None


async def test_a_ready_volume_costs_few_requests_to_look_at() -> None:
    world = World()
    await world.build()
    await _ready(world)
    await world.csi.step(2)
    await world.exposer().advance(await world.job())
    await world.csi.step(2)
    job = await world.job()
    world.kube.requests.clear()
    await world.exposer().advance(job)
    asked = [request for request in world.kube.requests if request != ("list", "pods")]  # as the fake of the kubelet
    assert asked == [
        ("get", PODS.name),
        ("get", VOLUME_SNAPSHOT_CONTENTS.name),
        ("get", PERSISTENT_VOLUME_CLAIMS.name),
        ("get", PERSISTENT_VOLUME_CLAIMS.name),  # the fake's as well
    ]


async def test_a_pod_of_a_moment_ago_is_not_asked_after_in_events() -> None:
    world = World()
    world.csi.faults.provisioning = "the pool is busy"
    await world.build()
    await world.exposer().advance(await world.job())
    await world.csi.step()
    world.kube.requests.clear()
    await world.exposer().advance(await world.job())
    assert ("list", "events") not in world.kube.requests
    world.clock.advance(5)
    state = await world.exposer().advance(await world.job())
    assert isinstance(state, Waiting)
    assert "the pool is busy" in state.reason


async def test_while_a_snapshot_goes_only_what_is_waited_for_is_looked_at() -> None:
    world = World()
    await world.build()
    await _ready(world)
    await world.csi.step(2)
    await world.exposer().advance(await world.job())
    await world.exposer().clean_up(await world.job())
    await world.csi.step()
    job = await world.job()
    await world.exposer().clean_up(job)
    world.kube.requests.clear()
    state = await world.exposer().clean_up(job)
    assert isinstance(state, Waiting)
    assert state.reason.endswith("the snapshot")
    asked = [name for _, name in world.kube.requests]
    assert asked == [PODS.name, PERSISTENT_VOLUME_CLAIMS.name, VOLUME_SNAPSHOTS.name]


async def test_a_mapped_class_has_to_exist_when_the_claim_is_made_only() -> None:
    world = World()
    await world.build()
    await _ready(world)
    await world.kube.delete(STORAGE_CLASSES, Key("", "dir"))
    assert isinstance(await world.exposer().advance(await world.job()), Ready)


async def test_a_linked_clone_keeps_away_from_the_nodes_of_its_source() -> None:
    world = World()
    await world.build()
    source = (await world.kube.get(PERSISTENT_VOLUME_CLAIMS, SOURCE_CLAIM)).spec.volume_name
    for name, node, volume in (("one", "node-a", source), ("two", "node-b", "another")):
        value = {"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": name, "uid": name}}
        spec = {"attacher": "d", "nodeName": node, "source": {"persistentVolumeName": volume}}
        world.kube.put_raw(VOLUME_ATTACHMENTS, {**value, "spec": spec})
    world.configure(backup_pvc={"dir": BackupPVC(annotations={"csi.vsphere.volume/fast-provisioning": "true"})})
    assert (await _ready(world, "node-b")).node == "node-b"
