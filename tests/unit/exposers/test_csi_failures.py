"""What keeps a snapshot from being opened is told in the cluster's words, at once where it is definite."""

from __future__ import annotations

import pytest

from agent.base.errors import KubeForbidden, KubeInvalid, KubeUnavailable, LighterageError
from agent.exposers.contract import Broken, Done, Ready, Waiting
from agent.exposers.snapshot_record import SourceRecord, read_record, write_record
from agent.kube.agent_config import BackupPVC, LoadAffinity, RunnerChoice
from agent.kube.meta import Key
from agent.kube.resource import (
    BACKUP_STORAGE_LOCATIONS,
    DAEMON_SETS,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    SECRETS,
    STORAGE_CLASSES,
    VOLUME_SNAPSHOT_CONTENTS,
    VOLUME_SNAPSHOTS,
)
from agent.kube.volumes import LabelSelector, VolumeMode
from tests.unit.exposers.csi_kit import JOB, NAME, SOURCE_SNAPSHOT, VELERO, World


async def _broken(world: World, *, looks: int = 12) -> LighterageError:
    state = await world.expose(looks=looks)
    assert isinstance(state, Broken), state
    return state.error


async def _waiting(world: World, *, looks: int = 3) -> str:
    state = await world.expose(looks=looks)
    assert isinstance(state, Waiting), state
    return state.reason


async def _comes_back(world: World) -> None:
    assert isinstance(await world.expose(), Ready)
    assert await world.clean_up() == Done()
    assert await world.left() == []


async def _unready_source(world: World) -> None:
    await world.kube.patch(VOLUME_SNAPSHOTS, SOURCE_SNAPSHOT, {"status": {"readyToUse": False}}, status=True)


async def test_a_source_that_is_gone_is_definite() -> None:
    world = World()
    await world.build()
    await world.kube.delete(VOLUME_SNAPSHOTS, SOURCE_SNAPSHOT)
    error = await _broken(world, looks=1)
    assert error.code == "expose.source-gone"
    assert "app/velero-data-abcde" in str(error)
    assert await world.clean_up() == Done()
    assert await world.left() == []


async def test_a_source_that_is_not_ready_is_waited_for() -> None:
    world = World()
    await world.build()
    await _unready_source(world)
    state = await world.exposer().advance(await world.job())
    assert isinstance(state, Waiting)
    assert "not ready yet" in state.reason
    await _comes_back(world)


async def test_an_error_of_the_driver_is_told_and_definite_within_a_minute_if_it_persists() -> None:
    world = World()
    await world.build()
    await _unready_source(world)
    world.csi.faults.snapshot = "rpc error: code = Internal desc = pool is offline"
    await world.csi.step()
    assert "pool is offline" in await _waiting(world, looks=8)
    error = await _broken(world, looks=4)
    assert world.clock.monotonic() <= 60
    assert error.code == "expose.snapshot-failed"
    assert "pool is offline" in str(error)


async def test_a_driver_that_is_only_busy_is_waited_for_as_long_as_it_takes() -> None:
    world = World()
    await world.build()
    await _unready_source(world)
    world.csi.faults.snapshot = "rpc error: code = DeadlineExceeded desc = still uploading"
    assert "still uploading" in await _waiting(world, looks=100)
    world.csi.faults.snapshot = ""
    await _comes_back(world)


async def test_the_copy_of_the_snapshot_may_fail_as_well() -> None:
    world = World()
    await world.build()
    world.csi.faults.snapshot = "no such snapshot on this array"
    error = await _broken(world)
    assert error.code == "expose.snapshot-failed"
    assert "velero/backup-x7k2p" in str(error)
    assert await world.clean_up() == Done()
    assert await world.left() == []


async def test_a_provisioner_that_fails_may_heal_and_is_quoted() -> None:
    world = World()
    await world.build()
    world.csi.faults.provisioning = "rpc error: code = ResourceExhausted desc = no space in pool"
    assert await _waiting(world, looks=20) == (
        "the claim velero/backup-x7k2p is Pending: ProvisioningFailed: "
        "rpc error: code = ResourceExhausted desc = no space in pool"
    )
    world.csi.faults.provisioning = ""
    await _comes_back(world)


@pytest.mark.parametrize(
    "reason", ["ErrImageNeverPull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"]
)
async def test_a_container_that_cannot_start_is_definite_at_once(reason: str) -> None:
    world = World()
    await world.build()
    world.csi.nodes.faults.waiting = (reason, "the kubelet says so")
    error = await _broken(world)
    assert world.clock.monotonic() <= 15
    assert error.code == "expose.pod-failed"
    assert f"{reason}: the kubelet says so" in str(error)
    assert await world.clean_up() == Done()
    assert await world.left() == []


async def test_a_busy_node_is_waited_for_with_the_kubelets_words() -> None:
    world = World()
    await world.build()
    world.csi.nodes.faults.waiting = ("CreateContainerError", "context deadline exceeded")
    assert "CreateContainerError: context deadline exceeded" in await _waiting(world, looks=10)
    world.csi.nodes.faults.waiting = ("", "")
    await _comes_back(world)


async def test_a_volume_that_cannot_be_mounted_is_waited_for_with_the_kubelets_words() -> None:
    world = World()
    await world.build()
    world.csi.nodes.faults.mounting = "MountVolume.MountDevice failed: timed out waiting for the condition"
    assert "FailedMount: MountVolume.MountDevice failed" in await _waiting(world, looks=10)
    world.csi.nodes.faults.mounting = ""
    await _comes_back(world)


async def test_a_pod_that_ended_early_is_definite() -> None:
    world = World()
    await world.build()
    world.csi.nodes.faults.pod_end = "exec format error"
    error = await _broken(world)
    assert error.code == "expose.pod-failed"
    assert "exec format error" in str(error)


async def test_a_node_without_room_is_waited_for_with_the_schedulers_words() -> None:
    world = World()
    await world.build()
    world.csi.nodes.faults.scheduling = "0/2 nodes are available: 2 Insufficient memory."
    assert "2 Insufficient memory" in await _waiting(world, looks=30)
    world.csi.nodes.faults.scheduling = ""
    await _comes_back(world)


async def test_an_affinity_that_no_node_has_is_definite_within_a_minute() -> None:
    world = World()
    await world.build()
    world.configure(load_affinity=(LoadAffinity(LabelSelector(match_labels={"disk": "none-has-it"})),))
    error = await _broken(world, looks=13)
    assert 45 <= world.clock.monotonic() <= 60
    assert error.code == "expose.unschedulable"
    assert "didn't match Pod's node affinity/selector" in str(error)
    assert "loadAffinity" in str(error)


async def test_an_affinity_that_some_node_has_is_waited_for_whatever_the_scheduler_says() -> None:
    world = World()
    await world.build()
    world.csi.nodes.faults.scheduling = "0/2 nodes are available: 2 node(s) didn't match pod affinity rules."
    assert "didn't match pod affinity" in await _waiting(world, looks=30)


@pytest.mark.check(15)
async def test_a_volume_in_a_zone_without_allowed_nodes_is_definite() -> None:
    world = World()
    await world.build()
    world.configure(load_affinity=(LoadAffinity(LabelSelector(match_labels={"kubernetes.io/hostname": "node-a"})),))
    state = await world.exposer().advance(await world.job())
    assert isinstance(state, Waiting)
    await world.csi.step()
    volume = (await world.kube.get(PERSISTENT_VOLUME_CLAIMS, JOB)).spec.volume_name
    await world.kube.patch(PODS, JOB, {"spec": {"nodeName": None}})
    zone = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone-b"]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [zone]}]}
    await world.kube.patch(PERSISTENT_VOLUMES, Key("", volume), {"spec": {"nodeAffinity": {"required": terms}}})
    error = await _broken(world, looks=13)
    assert error.code == "expose.unschedulable"


async def test_what_the_scheduler_says_about_claims_is_never_definite() -> None:
    world = World()
    await world.build()
    world.csi.nodes.faults.scheduling = 'persistentvolumeclaim "backup-x7k2p" not found, affinity of volumes unknown'
    assert isinstance(await world.expose(looks=100), Waiting)


async def test_a_volume_that_the_agent_does_not_see_is_definite() -> None:
    world = World()
    await world.build()
    world.volumes["node-a"].hidden = True
    error = await _broken(world)
    assert error.code == "expose.not-mounted"


@pytest.mark.parametrize("missing", ["velero-repo-credentials", "cloud"])
async def test_a_mover_pod_without_its_secrets_is_not_even_made(missing: str) -> None:
    world = World()
    await world.build()
    world.configure(runner=RunnerChoice.POD)
    await world.kube.delete(SECRETS, Key(VELERO, missing))
    error = await _broken(world, looks=1)
    assert error.code == "expose.pod-failed"
    assert missing in str(error)


async def test_a_mover_pod_without_its_location_is_not_even_made() -> None:
    world = World(sees_host_pods=False)
    await world.build()
    await world.kube.delete(BACKUP_STORAGE_LOCATIONS, Key(VELERO, "default"))
    assert "the backup storage location default does not exist" in str(await _broken(world, looks=1))


async def test_a_storage_class_that_does_not_exist_is_definite_before_anything_is_touched() -> None:
    world = World()
    await world.build()
    world.configure(backup_pvc={"dir": BackupPVC(storage_class="no-such-class")})
    error = await _broken(world, looks=1)
    assert error.code == "expose.provisioning-failed"
    assert "no-such-class" in str(error)
    assert [one.key for one in (await world.kube.list(VOLUME_SNAPSHOTS)).items] == [SOURCE_SNAPSHOT]
    assert not (await world.job()).metadata.annotations


async def test_a_file_system_of_windows_is_refused_before_anything_is_touched() -> None:
    world = World()
    await world.build()
    parameters = {"csi.storage.k8s.io/fstype": "NTFS"}
    await world.kube.patch(STORAGE_CLASSES, Key("", "dir"), {"parameters": parameters})
    assert (await _broken(world, looks=1)).code == "expose.unsupported"
    assert [one.key for one in (await world.kube.list(VOLUME_SNAPSHOTS)).items] == [SOURCE_SNAPSHOT]


async def test_a_secret_of_the_driver_that_does_not_exist_is_definite() -> None:
    world = World()
    await world.build()
    world.configure(backup_pvc={"dir": BackupPVC(secret_names=("luks",))})
    error = await _broken(world, looks=1)
    assert error.code == "expose.source-gone"
    assert "app/luks" in str(error)
    assert await world.clean_up() == Done()
    assert await world.left() == []


async def test_without_a_daemon_set_there_is_nothing_to_copy_the_pod_from_yet() -> None:
    world = World()
    await world.build()
    daemon_set = await world.kube.get(DAEMON_SETS, Key(VELERO, "node-agent"))
    await world.kube.delete(DAEMON_SETS, daemon_set.key)
    assert "no DaemonSet" in await _waiting(world)
    raw = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "node-agent", "namespace": VELERO}}
    spec = {"template": {"spec": {"containers": [{"name": "node-agent", "image": "i"}]}}}
    world.kube.put_raw(DAEMON_SETS, {**raw, "spec": spec})
    await _comes_back(world)


async def test_a_pod_that_somebody_removes_while_the_data_moves_is_not_made_again() -> None:
    world = World()
    await world.build()
    assert isinstance(await world.expose(), Ready)
    await world.kube.delete(PODS, JOB)
    state = await world.exposer().advance(await world.with_status(node="node-a"))
    assert isinstance(state, Broken)
    assert "node-a" in str(state.error)


async def test_a_pod_that_somebody_removes_before_that_is_made_again() -> None:
    world = World()
    await world.build()
    assert isinstance(await world.expose(), Ready)
    await world.kube.delete(PODS, JOB)
    assert isinstance(await world.expose(), Ready)


async def test_a_copied_snapshot_that_somebody_removes_before_the_volume_is_made_is_definite() -> None:
    world = World()
    await world.build()
    world.kube.fail("create", "persistentvolumeclaims", KubeUnavailable("cannot create"))
    with pytest.raises(KubeUnavailable):
        await world.exposer().advance(await world.job())
    await world.csi.step(3)
    await world.kube.delete(VOLUME_SNAPSHOTS, JOB)
    await world.csi.step(3)
    error = await _broken(world, looks=3)
    assert error.code == "expose.snapshot-failed"
    assert await world.clean_up() == Done()
    assert await world.left() == []


@pytest.mark.parametrize("resource", [PODS, PERSISTENT_VOLUME_CLAIMS, VOLUME_SNAPSHOTS, VOLUME_SNAPSHOT_CONTENTS])
async def test_an_object_of_somebody_else_is_left_alone(resource: object) -> None:
    world = World()
    await world.build()
    meta: dict[str, object] = {"name": NAME, "namespace": VELERO, "uid": "theirs", "labels": {"whose": "theirs"}}
    value: dict[str, object] = {"metadata": meta}
    if resource is VOLUME_SNAPSHOT_CONTENTS:
        del meta["namespace"]
        reference = {"namespace": "other", "name": "other", "uid": "x"}
        source = {"snapshotHandle": "theirs"}
        value["spec"] = {
            "driver": "d",
            "deletionPolicy": "Retain",
            "volumeSnapshotRef": reference,
            "source": source,
        }
    if resource is VOLUME_SNAPSHOTS:
        value["spec"] = {"source": {"persistentVolumeClaimName": "theirs"}}
    kinds = {
        PODS.name: "Pod",
        PERSISTENT_VOLUME_CLAIMS.name: "PersistentVolumeClaim",
        VOLUME_SNAPSHOTS.name: "VolumeSnapshot",
        VOLUME_SNAPSHOT_CONTENTS.name: "VolumeSnapshotContent",
    }
    name = resource.name  # type: ignore[attr-defined]
    value |= {"apiVersion": resource.api_version, "kind": kinds[name]}  # type: ignore[attr-defined]
    world.kube.put_raw(resource, value)  # type: ignore[arg-type]
    error = await _broken(world, looks=1)
    assert error.code == "expose.name-taken"
    assert await world.clean_up() == Done()
    there = world.kube.raw(resource, Key("" if resource is VOLUME_SNAPSHOT_CONTENTS else VELERO, NAME))  # type: ignore[arg-type]
    assert "deletionTimestamp" not in there["metadata"]  # type: ignore[operator]


async def test_an_unlabelled_content_with_another_snapshot_is_not_taken_for_ours() -> None:
    world = World()
    await world.build()
    spec = {
        "driver": "d",
        "deletionPolicy": "Delete",
        "volumeSnapshotRef": {"namespace": VELERO, "name": NAME},
        "source": {"snapshotHandle": "another"},
    }
    value = {"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent"}
    world.kube.put_raw(VOLUME_SNAPSHOT_CONTENTS, {**value, "metadata": {"name": NAME, "uid": "x"}, "spec": spec})
    assert (await _broken(world, looks=1)).code == "expose.name-taken"
    assert await world.clean_up() == Done()
    assert "deletionTimestamp" not in world.kube.raw(VOLUME_SNAPSHOT_CONTENTS, Key("", NAME))["metadata"]  # type: ignore[operator]


@pytest.mark.parametrize(
    "resource", ["pods", "persistentvolumeclaims", "volumesnapshotcontents.snapshot.storage.k8s.io"]
)
async def test_what_a_quota_or_policy_forbids_is_waited_for_with_its_words(resource: str) -> None:
    world = World()
    await world.build()
    world.kube.fail("create", resource, KubeForbidden("exceeded quota: pods=10"), times=3)
    assert "exceeded quota" in await _waiting(world)
    await _comes_back(world)


async def test_what_the_api_server_calls_invalid_is_definite() -> None:
    world = World()
    await world.build()
    world.kube.fail("create", "pods", KubeInvalid("spec.containers[0].resources: Invalid value"))
    error = await _broken(world, looks=1)
    assert error.code == "expose.failed"
    assert "Invalid value" in str(error)
    assert await world.clean_up() == Done()
    assert await world.left() == []


async def test_a_pod_of_the_stock_agent_is_cleaned_up_and_not_taken_over() -> None:
    world = World()
    job = await world.build()
    assert isinstance(await world.expose(), Ready)
    stock = world.kube.raw(PODS, JOB)
    stock["spec"]["containers"][0]["command"] = ["/velero", "data-mover", "backup"]  # type: ignore[index,call-overload]
    world.kube.put_raw(PODS, stock)
    for resource, key in ((VOLUME_SNAPSHOTS, JOB), (VOLUME_SNAPSHOT_CONTENTS, Key("", NAME))):
        copy = world.kube.raw(resource, key)
        del copy["metadata"]["labels"]  # type: ignore[union-attr]
        copy["metadata"].pop("ownerReferences", None)  # type: ignore[union-attr]
        world.kube.put_raw(resource, copy)
    error = await _broken(world, looks=1)
    assert "another kind of agent" in str(error)
    assert job.metadata.uid == (await world.job()).metadata.uid
    assert await world.clean_up() == Done()
    assert await world.left() == []


async def test_hostile_texts_of_the_cluster_are_one_line_of_bounded_length() -> None:
    world = World()
    await world.build()
    world.csi.nodes.faults.waiting = ("ErrImagePull", "x\n" * 100_000)
    error = await _broken(world)
    assert len(str(error)) < 1_200
    assert "\n" not in str(error)


async def test_another_snapshot_under_the_name_of_the_source_is_left_alone() -> None:
    world = World()
    await world.build()
    assert isinstance(await world.expose(), Ready)
    await world.exposer().advance(await world.job())
    await world.csi.step(2)
    await world.snapshot(SOURCE_SNAPSHOT)
    assert await world.clean_up() == Done()
    there = await world.kube.get(VOLUME_SNAPSHOTS, SOURCE_SNAPSHOT)
    assert there.metadata.deletion_timestamp is None
    assert len(world.csi.storage.snapshots) == 1


async def test_a_record_that_names_the_content_of_somebody_else_does_no_harm() -> None:
    world = World()
    await world.build()
    other = Key("app", "theirs")
    await world.snapshot(other)
    content = (await world.kube.get(VOLUME_SNAPSHOTS, other)).status.bound_volume_snapshot_content_name
    handle = (await world.kube.get(VOLUME_SNAPSHOT_CONTENTS, Key("", content))).status.snapshot_handle or ""
    record = SourceRecord(content=content, handle=handle, size="1Gi", mode=VolumeMode.FILESYSTEM)
    await write_record(world.kube, await world.job(), record)
    assert await world.clean_up() == Done()
    assert handle in world.csi.storage.snapshots
    assert (await world.kube.get(VOLUME_SNAPSHOTS, other)).status.ready_to_use


async def test_nodes_are_asked_for_only_when_the_scheduler_speaks_of_affinity() -> None:
    world = World()
    await world.build()
    world.csi.nodes.faults.scheduling = "0/2 nodes are available: 2 Insufficient memory."
    await _waiting(world, looks=20)
    world.kube.requests.clear()
    await world.exposer().advance(await world.job())
    assert ("list", "nodes") not in world.kube.requests


async def test_a_source_whose_content_is_not_the_recorded_one_keeps_its_snapshot() -> None:
    world = World()
    await world.build()
    world.kube.fail("patch", "volumesnapshotcontents.snapshot.storage.k8s.io", KubeUnavailable("down"))
    with pytest.raises(KubeUnavailable):
        await world.exposer().advance(await world.job())
    record = read_record(await world.job())
    assert record is not None
    await world.kube.patch(
        VOLUME_SNAPSHOT_CONTENTS, Key("", record.content), {"status": {"snapshotHandle": "another"}}, status=True
    )
    await world.expose()
    source = await world.kube.get(VOLUME_SNAPSHOTS, SOURCE_SNAPSHOT)
    assert source.metadata.deletion_timestamp is None


async def test_a_source_that_its_owner_deletes_during_the_hand_over_is_definite() -> None:
    world = World()
    await world.build()
    world.kube.fail("patch", "volumesnapshotcontents.snapshot.storage.k8s.io", KubeUnavailable("down"))
    with pytest.raises(KubeUnavailable):
        await world.exposer().advance(await world.job())
    world.csi.faults.snapshot_deletion = "busy"
    await world.kube.delete(VOLUME_SNAPSHOTS, SOURCE_SNAPSHOT)
    await world.csi.step(2)
    assert (await _broken(world, looks=1)).code == "expose.snapshot-failed"
    world.csi.faults.snapshot_deletion = ""
    assert await world.clean_up() == Done()
    assert await world.left() == []
