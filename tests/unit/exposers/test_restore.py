"""A DataDownload's volume: made, filled, handed over, and cleaned up, in a cluster in memory."""

from __future__ import annotations

import pytest

from agent.base.errors import (
    KubeForbidden,
    KubeInvalid,
    KubeNotFound,
    PodBroken,
    ProvisioningFailed,
    RebindFailed,
    SourceGone,
)
from agent.exposers.contract import Broken, Done, Ready, Runner, Waiting
from agent.exposers.hosting_pod import owner_of
from agent.exposers.rebind_mark import MARK_ANNOTATION, RESTORED_ANNOTATION
from agent.exposers.restore import GenericRestoreExposer
from agent.kube.agent_config import AgentConfig, CachePVC, LoadAffinity, RestorePVC
from agent.kube.cluster import Secret
from agent.kube.codec import JsonObject
from agent.kube.data_download import DataDownload
from agent.kube.meta import Key, ObjectMeta
from agent.kube.names import DATA_DOWNLOAD_LABEL, DYNAMIC_PV_RESTORE_LABEL, JOB_UID_LABEL
from agent.kube.pods import Container, Pod, PodSpec
from agent.kube.resource import (
    BACKUP_STORAGE_LOCATIONS,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    SECRETS,
    STORAGE_CLASSES,
)
from agent.kube.volumes import BindingMode, LabelSelector, PersistentVolume, ReclaimPolicy, VolumeMode
from tests.unit.exposers.restore_kit import GUARD, JOB, NODES, TARGET, RestoreCluster

_MOST_LOOKS = 40


async def until_ready(cluster: RestoreCluster, exposer: GenericRestoreExposer, job: DataDownload) -> Ready:
    for _ in range(_MOST_LOOKS):
        state = await exposer.advance(job)
        assert not isinstance(state, Broken), state
        if isinstance(state, Ready):
            return state
        await cluster.step()
    raise AssertionError(state)


async def until_finished(cluster: RestoreCluster, exposer: GenericRestoreExposer, job: DataDownload) -> Done | Broken:
    for _ in range(_MOST_LOOKS):
        state = await exposer.finish(job)
        if not isinstance(state, Waiting):
            return state
        await cluster.step()
    raise AssertionError(state)


async def until_clean(cluster: RestoreCluster, exposer: GenericRestoreExposer, job: DataDownload) -> None:
    for _ in range(_MOST_LOOKS):
        state = await exposer.clean_up(job)
        if isinstance(state, Done):
            return
        await cluster.step()
    raise AssertionError(state)


async def assert_handed_over(cluster: RestoreCluster, policy: ReclaimPolicy) -> PersistentVolume:
    target = await cluster.kube.get(PERSISTENT_VOLUME_CLAIMS, TARGET)
    (volume,) = await cluster.volumes()
    assert target.status.phase == volume.status.phase == "Bound"
    assert target.spec.volume_name == volume.metadata.name
    assert volume.spec.claim_ref is not None
    assert volume.spec.claim_ref.uid == target.metadata.uid
    assert volume.spec.persistent_volume_reclaim_policy is policy
    assert volume.metadata.labels == GUARD
    assert MARK_ANNOTATION not in volume.metadata.annotations
    assert volume.spec.csi is not None
    assert cluster.csi.storage.volumes == {volume.spec.csi.volume_handle}
    assert [claim.key for claim in await cluster.claims()] == [TARGET]
    assert await cluster.pods() == ()
    return volume


async def assert_nothing_left(cluster: RestoreCluster) -> None:
    assert [claim.key for claim in await cluster.claims() if claim.key != TARGET] == []
    assert await cluster.volumes() == ()
    assert await cluster.pods() == ()
    assert cluster.csi.storage.volumes == set()


@pytest.mark.parametrize("policy", [ReclaimPolicy.DELETE, ReclaimPolicy.RETAIN])
async def test_the_users_claim_gets_the_restored_volume_with_its_policy(policy: ReclaimPolicy) -> None:
    cluster = RestoreCluster(reclaim_policy=policy)
    job, exposer = await cluster.begin(), cluster.exposer()
    ready = await until_ready(cluster, exposer, job)
    assert (ready.node, ready.mode, ready.runner, ready.pod) == (
        NODES[0],
        VolumeMode.FILESYSTEM,
        Runner.LOCAL,
        JOB.name,
    )
    assert ready.path.endswith("/mount")
    assert await until_finished(cluster, exposer, job) == Done()
    await until_clean(cluster, exposer, job)
    volume = await assert_handed_over(cluster, policy)
    assert volume.metadata.annotations[RESTORED_ANNOTATION] == job.metadata.uid


async def test_what_was_handed_over_stays_so_however_often_it_is_asked() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    await until_ready(cluster, exposer, job)
    for _ in range(3):
        assert await until_finished(cluster, exposer, job) == Done()
        await until_clean(cluster, exposer, job)
        await cluster.step()
    await assert_handed_over(cluster, ReclaimPolicy.DELETE)


async def test_claim_and_pod_look_like_those_of_the_stock_agent() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    await exposer.advance(job)
    claim = await cluster.kube.get(PERSISTENT_VOLUME_CLAIMS, JOB)
    target = await cluster.kube.get(PERSISTENT_VOLUME_CLAIMS, TARGET)
    assert claim.spec.selector is None
    assert claim.spec.access_modes == target.spec.access_modes
    assert claim.spec.resources == target.spec.resources
    assert claim.spec.storage_class_name == "dir"
    assert claim.metadata.labels == {"app": "web", JOB_UID_LABEL: job.metadata.uid}
    assert claim.metadata.annotations == {"team": "storage"}
    (owner,) = claim.metadata.owner_references
    assert (owner.kind, owner.uid, owner.controller, owner.block_owner_deletion) == (
        "DataDownload",
        job.metadata.uid,
        True,
        None,
    )
    pod = await cluster.kube.get(PODS, JOB)
    assert pod.metadata.labels[DATA_DOWNLOAD_LABEL] == JOB.name


async def test_the_claim_is_made_before_the_pod() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    before = len(cluster.kube.requests)
    await exposer.advance(job)
    made = [resource for verb, resource in cluster.kube.requests[before:] if verb == "create"]
    assert made == ["persistentvolumeclaims", "pods"]


async def test_a_class_that_waits_for_a_consumer_waits_for_the_users_pod() -> None:
    cluster = RestoreCluster(binding=BindingMode.WAIT_FOR_FIRST_CONSUMER)
    job, exposer = await cluster.begin(), cluster.exposer()
    state = await exposer.advance(job)
    assert isinstance(state, Waiting)
    assert "no pod uses the claim app/data yet" in state.reason
    assert len(await cluster.claims()) == 1, "nothing is made before"
    await cluster.select_node("node-b")
    await exposer.advance(job)
    claim = await cluster.kube.get(PERSISTENT_VOLUME_CLAIMS, JOB)
    assert claim.metadata.annotations == {"volume.kubernetes.io/selected-node": "node-b"}
    ready = await until_ready(cluster, exposer, job)
    assert ready.node == "node-b"
    pod = await cluster.kube.get(PODS, JOB)
    assert (pod.spec.node_selector, pod.spec.node_name) == ({"kubernetes.io/hostname": "node-b"}, "node-b")


@pytest.mark.check(28)
async def test_a_restore_without_a_consumer_waits_for_none_where_that_is_turned_off() -> None:
    affinity = LoadAffinity(LabelSelector(match_labels={"disk": "fast"}), storage_class="dir")
    config = AgentConfig(restore_pvc=RestorePVC(ignore_delay_binding=True), load_affinity=(affinity,))
    cluster = RestoreCluster(binding=BindingMode.WAIT_FOR_FIRST_CONSUMER, config=config)
    job, exposer = await cluster.begin(), cluster.exposer()
    ready = await until_ready(cluster, exposer, job)
    assert ready.node == "node-b", "without a selected node, loadAffinity counts"
    assert (await cluster.kube.get(PODS, JOB)).spec.node_selector == {}


async def test_a_claim_that_is_bound_already_is_not_restored_into() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    await cluster.kube.patch(PERSISTENT_VOLUME_CLAIMS, TARGET, {"spec": {"volumeName": "pv-of-the-user"}})
    state = await exposer.advance(job)
    assert isinstance(state, Broken)
    assert isinstance(state.error, RebindFailed)
    assert "bound to pv-of-the-user already" in str(state.error)


async def test_a_claim_that_is_gone_is_definite() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    await cluster.delete_target()
    state = await exposer.advance(job)
    assert isinstance(state, Broken)
    assert isinstance(state.error, SourceGone)


async def test_a_class_that_does_not_exist_is_definite() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    await cluster.kube.delete(STORAGE_CLASSES, Key("", "dir"))
    state = await exposer.advance(job)
    assert isinstance(state, Broken)
    assert isinstance(state.error, ProvisioningFailed)


async def test_a_pod_that_went_while_data_moved_is_definite() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    await until_ready(cluster, exposer, job)
    await cluster.kube.delete(PODS, JOB)
    moving = DataDownload(
        api_version=job.api_version,
        kind=job.kind,
        metadata=job.metadata,
        spec=job.spec,
        status=type(job.status)(node=NODES[0]),
    )
    state = await exposer.advance(moving)
    assert isinstance(state, Broken)
    assert isinstance(state.error, PodBroken)


async def test_a_block_volume_is_filled_by_a_mover_pod_with_credentials_and_cache() -> None:
    cluster = RestoreCluster(config=AgentConfig(cache_pvc=CachePVC(storage_class="fast", resident_threshold_mb=10)))
    job, exposer = await cluster.begin(mode=VolumeMode.BLOCK), cluster.exposer()
    ready = await until_ready(cluster, exposer, job)
    assert (ready.mode, ready.runner, ready.path) == (VolumeMode.BLOCK, Runner.POD, f"/{job.metadata.uid}")
    cache = await cluster.kube.get(PERSISTENT_VOLUME_CLAIMS, Key(JOB.namespace, f"{JOB.name}-cache"))
    assert cache.spec.resources.requests == {"storage": "6Gi"}, "5,000 MB and a fifth more, in whole GiB"
    assert (cache.spec.storage_class_name, cache.spec.access_modes) == ("fast", ("ReadWriteOnce",))
    pod = await cluster.kube.get(PODS, JOB)
    mounts = {str(mount["mountPath"]) for mount in pod.spec.containers[0].volume_mounts}
    assert {"/cachedir", "/etc/lighterage/location", "/etc/lighterage/repository"} <= mounts
    assert await until_finished(cluster, exposer, job) == Done()
    await until_clean(cluster, exposer, job)
    await cluster.step(3)
    await assert_handed_over(cluster, ReclaimPolicy.DELETE)


async def test_a_mover_pod_whose_location_is_gone_is_not_made() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(mode=VolumeMode.BLOCK), cluster.exposer()
    await cluster.kube.delete(BACKUP_STORAGE_LOCATIONS, Key(JOB.namespace, "default"))
    state = await exposer.advance(job)
    assert isinstance(state, Broken)
    assert "the backup storage location default does not exist" in str(state.error)
    await until_clean(cluster, exposer, job)
    await assert_nothing_left(cluster)


async def test_what_the_provisioner_says_is_what_is_waited_for() -> None:
    cluster = RestoreCluster()
    cluster.csi.faults.provisioning = "quota of the pool is used up"
    job, exposer = await cluster.begin(), cluster.exposer()
    await exposer.advance(job)
    await cluster.step(2)
    cluster.clock.advance(5)
    state = await exposer.advance(job)
    assert isinstance(state, Waiting)
    assert "quota of the pool is used up" in state.reason
    facts = await exposer.diagnose(job)
    assert "quota of the pool is used up" in facts[0]
    cluster.csi.faults.provisioning = ""
    await until_ready(cluster, exposer, job)


async def test_an_image_that_cannot_be_had_is_definite() -> None:
    cluster = RestoreCluster()
    cluster.csi.nodes.faults.waiting = ("ErrImageNeverPull", "image is not present")
    job, exposer = await cluster.begin(), cluster.exposer()
    await exposer.advance(job)
    await cluster.step(4)
    state = await exposer.advance(job)
    assert isinstance(state, Broken)
    assert isinstance(state.error, PodBroken)
    assert "image is not present" in str(state.error)
    await until_clean(cluster, exposer, job)
    await assert_nothing_left(cluster)


async def test_an_agent_of_another_node_knows_the_path_by_convention() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer(node="node-b")
    ready = await until_ready(cluster, exposer, job)
    assert ready.node == "node-a"
    assert ready == await until_ready(cluster, cluster.exposer(node="node-a"), job)


async def test_secrets_that_the_driver_needs_are_copied_and_removed() -> None:
    cluster = RestoreCluster(config=AgentConfig(restore_pvc=RestorePVC(secret_names=("encryption",))))
    job, exposer = await cluster.begin(), cluster.exposer()
    meta = ObjectMeta(name="encryption", namespace=TARGET.namespace)
    await cluster.kube.create(SECRETS, Secret(api_version="v1", kind="Secret", metadata=meta, data={"k": b"v"}))
    await until_ready(cluster, exposer, job)
    copy = Key(JOB.namespace, "encryption")
    assert (await cluster.kube.get(SECRETS, copy)).data == {"k": b"v"}
    await until_clean(cluster, exposer, job)
    with pytest.raises(KubeNotFound):
        await cluster.kube.get(SECRETS, copy)


async def test_the_pod_of_the_stock_agent_gives_way_to_ours() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    stock = Pod(
        api_version="v1",
        kind="Pod",
        metadata=ObjectMeta(name=JOB.name, namespace=JOB.namespace, owner_references=(owner_of(job),)),
        spec=PodSpec(containers=(Container(name="x", command=("/velero", "data-mover", "restore")),)),
    )
    await cluster.kube.create(PODS, stock)
    assert isinstance(await exposer.advance(job), Waiting)
    ready = await until_ready(cluster, exposer, job)
    assert ready.runner is Runner.LOCAL


async def test_the_volume_of_a_restore_that_failed_goes_even_if_its_class_retains() -> None:
    cluster = RestoreCluster(reclaim_policy=ReclaimPolicy.RETAIN)
    job, exposer = await cluster.begin(), cluster.exposer()
    await until_ready(cluster, exposer, job)
    await until_clean(cluster, exposer, job)
    await assert_nothing_left(cluster)


async def test_a_volume_that_was_made_while_its_claim_went_goes_too() -> None:
    cluster = RestoreCluster(reclaim_policy=ReclaimPolicy.RETAIN)
    job, exposer = await cluster.begin(), cluster.exposer()
    await exposer.advance(job)
    await cluster.step()
    unbound: JsonObject = {"metadata": {"annotations": None}, "spec": {"volumeName": None}}
    await cluster.kube.patch(PERSISTENT_VOLUME_CLAIMS, JOB, unbound)  # the provisioner was not so far yet
    await until_clean(cluster, exposer, job)
    await assert_nothing_left(cluster)


async def test_cleaning_up_before_anything_was_made_is_done_at_once() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    before = len(cluster.kube.requests)
    assert await exposer.clean_up(job) == Done()
    assert {verb for verb, _ in cluster.kube.requests[before:]} == {"get", "list"}


async def test_objects_of_the_same_name_that_are_not_ours_are_left_alone() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    theirs = await cluster.kube.get(PERSISTENT_VOLUME_CLAIMS, TARGET)
    await cluster.kube.create(
        PERSISTENT_VOLUME_CLAIMS,
        type(theirs)(
            api_version="v1",
            kind="PersistentVolumeClaim",
            metadata=type(theirs.metadata)(name=JOB.name, namespace=JOB.namespace),
            spec=theirs.spec,
        ),
    )
    state = await exposer.advance(job)
    assert isinstance(state, Broken)
    assert state.error.code == "expose.name-taken"
    await until_clean(cluster, exposer, job)
    assert JOB in [claim.key for claim in await cluster.claims()]


async def test_a_users_claim_that_went_before_the_end_takes_the_volume_along() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    await until_ready(cluster, exposer, job)
    await cluster.delete_target()
    state = await until_finished(cluster, exposer, job)
    assert isinstance(state, Broken)
    assert isinstance(state.error, RebindFailed)
    await until_clean(cluster, exposer, job)
    await assert_nothing_left(cluster)


async def test_a_users_claim_that_is_deleted_in_the_middle_of_the_hand_over_takes_the_volume_along() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    await until_ready(cluster, exposer, job)
    for _ in range(10):
        await exposer.finish(job)
        (volume,) = await cluster.volumes()
        if volume.metadata.labels.items() >= GUARD.items():
            break
        await cluster.step()
    assert volume.spec.claim_ref is not None
    assert (volume.spec.claim_ref.name, volume.spec.claim_ref.uid) == (TARGET.name, "")
    await cluster.delete_target()
    assert isinstance(await until_finished(cluster, exposer, job), Broken)
    await until_clean(cluster, exposer, job)
    await assert_nothing_left(cluster)


async def test_a_volume_that_is_being_thrown_away_is_not_handed_over_any_more() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    await until_ready(cluster, exposer, job)
    await exposer.finish(job)
    (volume,) = await cluster.volumes()
    assert MARK_ANNOTATION in volume.metadata.annotations
    waiting = await exposer.clean_up(job)
    assert isinstance(waiting, Waiting)
    assert "the storage deletes the volume" in waiting.reason
    state = await exposer.finish(job)
    assert isinstance(state, Broken)
    assert (await cluster.kube.get(PERSISTENT_VOLUME_CLAIMS, TARGET)).spec.volume_name == ""
    await until_clean(cluster, exposer, job)
    await assert_nothing_left(cluster)


async def test_a_users_claim_that_was_bound_to_another_volume_meanwhile_is_told() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    await until_ready(cluster, exposer, job)
    await cluster.kube.patch(PERSISTENT_VOLUME_CLAIMS, TARGET, {"spec": {"volumeName": "another"}})
    state = await until_finished(cluster, exposer, job)
    assert isinstance(state, Broken)
    assert "was bound to another meanwhile" in str(state.error)
    await until_clean(cluster, exposer, job)
    await assert_nothing_left(cluster)


async def test_a_volume_that_is_gone_cannot_be_handed_over() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    await until_ready(cluster, exposer, job)
    (volume,) = await cluster.volumes()
    await cluster.kube.delete(PERSISTENT_VOLUMES, volume.key)
    state = await until_finished(cluster, exposer, job)
    assert isinstance(state, Broken)
    assert "does not exist any more" in str(state.error)


async def test_the_label_by_which_the_server_finds_the_volume_is_on_it() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    await until_ready(cluster, exposer, job)
    await until_finished(cluster, exposer, job)
    (volume,) = await cluster.volumes()
    assert volume.metadata.labels[DYNAMIC_PV_RESTORE_LABEL] == "app.data.bbcng"


async def test_a_quota_is_waited_for_in_its_own_words() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    cluster.kube.fail("create", "persistentvolumeclaims", KubeForbidden("exceeded quota: storage"))
    assert await exposer.advance(job) == Waiting("exceeded quota: storage")
    await until_ready(cluster, exposer, job)


async def test_an_object_that_the_api_server_refuses_is_definite() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    cluster.kube.fail("create", "pods", KubeInvalid("spec.nodeSelector: invalid"))
    state = await exposer.advance(job)
    assert isinstance(state, Broken)
    assert "spec.nodeSelector: invalid" in str(state.error)


async def test_a_claim_that_may_not_be_pointed_to_the_volume_fails_the_restore_and_loses_nothing_else() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    await until_ready(cluster, exposer, job)
    for _ in range(_MOST_LOOKS):
        if JOB not in [claim.key for claim in await cluster.claims()]:
            break
        await exposer.finish(job)
        await cluster.step()
    cluster.kube.fail("patch", "persistentvolumeclaims", KubeInvalid("spec is immutable"))
    state = await exposer.finish(job)
    assert isinstance(state, Broken)
    assert "spec is immutable" in str(state.error)
    await until_clean(cluster, exposer, job)
    await assert_nothing_left(cluster)
