"""A DataDownload's volume: made, filled, handed over, and cleaned up, in a cluster in memory."""

from __future__ import annotations

import pytest

from agent.base.errors import PodBroken, ProvisioningFailed, RebindFailed, SourceGone
from agent.exposers.contract import Broken, Done, Ready, Runner, Waiting
from agent.exposers.rebind import MARK_ANNOTATION, RESTORED_ANNOTATION
from agent.exposers.restore import GenericRestoreExposer
from agent.exposers.restore_claims import cache_claim
from agent.kube.agent_config import AgentConfig, CachePVC, LoadAffinity, RestorePVC
from agent.kube.data_download import DataDownload
from agent.kube.meta import Key
from agent.kube.names import DATA_DOWNLOAD_LABEL, DYNAMIC_PV_RESTORE_LABEL, JOB_UID_LABEL
from agent.kube.resource import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, STORAGE_CLASSES
from agent.kube.volumes import BindingMode, LabelSelector, PersistentVolume, ReclaimPolicy, VolumeMode
from tests.unit.exposers.restore_kit import GUARD, JOB, NODE, TARGET, RestoreCluster

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
    assert cluster.storage == {volume.metadata.name}
    assert [claim.key for claim in await cluster.claims()] == [TARGET]
    assert await cluster.pods() == ()
    return volume


async def assert_nothing_left(cluster: RestoreCluster) -> None:
    assert [claim.key for claim in await cluster.claims() if claim.key != TARGET] == []
    assert await cluster.volumes() == ()
    assert await cluster.pods() == ()
    assert cluster.storage == set()


@pytest.mark.parametrize("policy", [ReclaimPolicy.DELETE, ReclaimPolicy.RETAIN])
async def test_the_users_claim_gets_the_restored_volume_with_its_policy(policy: ReclaimPolicy) -> None:
    cluster = RestoreCluster(reclaim_policy=policy)
    job, exposer = await cluster.begin(), cluster.exposer()
    ready = await until_ready(cluster, exposer, job)
    assert (ready.node, ready.mode, ready.runner, ready.pod) == (NODE, VolumeMode.FILESYSTEM, Runner.LOCAL, JOB.name)
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
    await until_ready(cluster, exposer, job)
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
    verbs = [request for request in cluster.kube.requests if request[0] == "create"]
    assert verbs.index(("create", "pods")) > verbs.index(("create", "persistentvolumeclaims")), "§13.11"


async def test_a_class_that_waits_for_a_consumer_waits_for_the_users_pod() -> None:
    cluster = RestoreCluster(binding=BindingMode.WAIT_FOR_FIRST_CONSUMER)
    job, exposer = await cluster.begin(), cluster.exposer()
    state = await exposer.advance(job)
    assert isinstance(state, Waiting)
    assert "no pod uses the claim app/data yet" in state.reason
    assert len(await cluster.claims()) == 1, "nothing is made before"
    selected = {"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "node-b"}}}
    await cluster.kube.patch(PERSISTENT_VOLUME_CLAIMS, TARGET, dict(selected))
    ready = await until_ready(cluster, exposer, job)
    assert ready.node == "node-b"
    pod = await cluster.kube.get(PODS, JOB)
    assert (pod.spec.node_selector, pod.spec.node_name) == ({"kubernetes.io/hostname": "node-b"}, "node-b")
    claim = await cluster.kube.get(PERSISTENT_VOLUME_CLAIMS, JOB)
    assert claim.metadata.annotations == {"volume.kubernetes.io/selected-node": "node-b"}


async def test_waiting_for_a_consumer_can_be_turned_off() -> None:
    affinity = LoadAffinity(LabelSelector(match_labels={"disk": "fast"}), storage_class="dir")
    config = AgentConfig(restore_pvc=RestorePVC(ignore_delay_binding=True), load_affinity=(affinity,))
    cluster = RestoreCluster(binding=BindingMode.WAIT_FOR_FIRST_CONSUMER, config=config)
    job, exposer = await cluster.begin(), cluster.exposer()
    await until_ready(cluster, exposer, job)
    pod = await cluster.kube.get(PODS, JOB)
    assert pod.spec.node_selector == {}
    assert "disk" in str(pod.spec.affinity), "without a selected node, loadAffinity counts"


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
    await cluster.kube.delete(PERSISTENT_VOLUME_CLAIMS, TARGET)
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
    await cluster.kube.patch(PODS, JOB, {"metadata": {"finalizers": []}})
    await cluster.kube.delete(PODS, JOB)
    moving = DataDownload(
        api_version=job.api_version,
        kind=job.kind,
        metadata=job.metadata,
        spec=job.spec,
        status=type(job.status)(node=NODE),
    )
    state = await exposer.advance(moving)
    assert isinstance(state, Broken)
    assert isinstance(state.error, PodBroken)


async def test_a_block_volume_is_done_in_the_pod_with_what_it_needs() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(mode=VolumeMode.BLOCK), cluster.exposer()
    state = await exposer.advance(job)
    assert isinstance(state, Broken)
    assert "the backup storage location default does not exist" in str(state.error)


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
    await cluster.kube.patch(PERSISTENT_VOLUME_CLAIMS, JOB, {"spec": {"volumeName": None}})  # not bound to it yet
    await until_clean(cluster, exposer, job)
    await assert_nothing_left(cluster)


async def test_cleaning_up_before_anything_was_made_is_done_at_once() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    assert await exposer.clean_up(job) == Done()
    assert [verb for verb, _ in cluster.kube.requests if verb in {"delete", "patch"}] == []


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
    await cluster.kube.patch(PERSISTENT_VOLUME_CLAIMS, TARGET, {"metadata": {"finalizers": []}})
    await cluster.kube.delete(PERSISTENT_VOLUME_CLAIMS, TARGET)
    state = await until_finished(cluster, exposer, job)
    assert isinstance(state, Broken)
    assert isinstance(state.error, RebindFailed)
    await until_clean(cluster, exposer, job)
    await assert_nothing_left(cluster)


async def test_a_users_claim_that_is_deleted_in_the_middle_of_the_hand_over_takes_the_volume_along() -> None:
    cluster = RestoreCluster(binds=True)
    job, exposer = await cluster.begin(), cluster.exposer()
    await until_ready(cluster, exposer, job)
    cluster.binds = False
    for _ in range(10):
        await exposer.finish(job)
        await cluster.step()
    (volume,) = await cluster.volumes()
    assert volume.status.phase == "Available"
    await cluster.kube.patch(PERSISTENT_VOLUME_CLAIMS, TARGET, {"metadata": {"finalizers": []}})
    await cluster.kube.delete(PERSISTENT_VOLUME_CLAIMS, TARGET)
    assert isinstance(await until_finished(cluster, exposer, job), Broken)
    await until_clean(cluster, exposer, job)
    await assert_nothing_left(cluster)


async def test_a_volume_that_is_being_thrown_away_is_not_handed_over_any_more() -> None:
    cluster = RestoreCluster(deletes=False)
    job, exposer = await cluster.begin(), cluster.exposer()
    await until_ready(cluster, exposer, job)
    await exposer.finish(job)
    (volume,) = await cluster.volumes()
    assert MARK_ANNOTATION in volume.metadata.annotations
    for _ in range(10):
        await exposer.clean_up(job)
        await cluster.step()
    state = await exposer.finish(job)
    assert isinstance(state, Broken)
    assert (await cluster.kube.get(PERSISTENT_VOLUME_CLAIMS, TARGET)).spec.volume_name == ""
    waiting = await exposer.clean_up(job)
    assert isinstance(waiting, Waiting)
    assert "the storage deletes the volume" in waiting.reason
    cluster.deletes = True
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


async def test_a_large_restore_in_a_pod_gets_a_cache() -> None:
    cluster = RestoreCluster(config=AgentConfig(cache_pvc=CachePVC(storage_class="fast")))
    job = await cluster.begin()
    claim = cache_claim(job, "fast", 5_000)
    assert claim.key == Key(JOB.namespace, f"{JOB.name}-cache")
    assert claim.spec.resources.requests == {"storage": "6Gi"}
    assert claim.spec.access_modes == ("ReadWriteOnce",)


async def test_a_diagnosis_names_each_object_and_what_it_is() -> None:
    cluster = RestoreCluster(provisions=False)
    job, exposer = await cluster.begin(), cluster.exposer()
    await exposer.advance(job)
    facts = await exposer.diagnose(job)
    assert any(f"{JOB}" in fact for fact in facts)
    assert any(f"{TARGET}" in fact for fact in facts)


async def test_the_label_by_which_the_server_finds_the_volume_is_on_it() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    await until_ready(cluster, exposer, job)
    await until_finished(cluster, exposer, job)
    (volume,) = await cluster.volumes()
    assert volume.metadata.labels[DYNAMIC_PV_RESTORE_LABEL] == "app.data.bbcng"
