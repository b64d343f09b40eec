"""What agents left behind is found and removed, and nothing else."""

from __future__ import annotations

import msgspec
import pytest

from agent.base.errors import KubeForbidden, KubeUnavailable
from agent.exposers.csi_snapshot import CsiSnapshotExposer
from agent.exposers.leftovers import FINAL_SECONDS, JobExposers, Leftovers
from agent.exposers.pod_volume import PodVolumeBackupExposer, PodVolumeRestoreExposer
from agent.exposers.rebind_mark import MARK_ANNOTATION
from agent.kube.codec import JsonObject
from agent.kube.meta import Key, ObjectMeta
from agent.kube.names import JOB_UID_LABEL
from agent.kube.resource import (
    DATA_DOWNLOADS,
    DATA_UPLOADS,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    VOLUME_SNAPSHOT_CONTENTS,
)
from agent.kube.snapshots import (
    DeletionPolicy,
    VolumeSnapshotContent,
    VolumeSnapshotContentSource,
    VolumeSnapshotContentSpec,
)
from agent.kube.times import time_from_ns
from agent.kube.volumes import ObjectReference, PersistentVolume, PersistentVolumeSpec, ReclaimPolicy
from tests.unit.exposers.csi_kit import World
from tests.unit.exposers.restore_kit import JOB, TARGET, RestoreCluster
from tests.unit.exposers.test_restore import assert_handed_over, assert_nothing_left, until_ready
from tests.unit.exposers.test_restore_crashes import complete, died, requests_of

POLICIES = (ReclaimPolicy.DELETE, ReclaimPolicy.RETAIN)


def leftovers(cluster: RestoreCluster) -> Leftovers:
    """Those that an agent which starts now would look for."""
    settings = cluster.settings()
    return Leftovers(
        settings,
        JobExposers(
            uploads=CsiSnapshotExposer(settings),
            downloads=cluster.exposer(),
            backups=PodVolumeBackupExposer(settings),
            restores=PodVolumeRestoreExposer(settings),
        ),
    )


async def sweep_until_quiet(cluster: RestoreCluster, sweeper: Leftovers) -> None:
    for _ in range(30):
        report = await sweeper.sweep()
        await cluster.step(2)
        if not report.going:
            return
    raise AssertionError(report)


async def set_status(cluster: RestoreCluster, **status: object) -> None:
    value: JsonObject = {"status": {name: text for name, text in status.items() if isinstance(text, str)}}
    await cluster.kube.patch(DATA_DOWNLOADS, JOB, value)


def ago(cluster: RestoreCluster, seconds: float) -> str:
    return time_from_ns(cluster.clock.now_ns() - round(seconds * 1e9)).strftime("%Y-%m-%dT%H:%M:%SZ")


async def test_a_cluster_without_leftovers_costs_five_lists() -> None:
    cluster = RestoreCluster()
    await cluster.begin()
    before = len(cluster.kube.requests)
    assert (await leftovers(cluster).sweep()).going == ()
    assert [verb for verb, _ in cluster.kube.requests[before:]] == ["list"] * 5


@pytest.mark.parametrize("policy", POLICIES)
async def test_everything_of_a_restore_whose_object_is_gone_goes(policy: ReclaimPolicy) -> None:
    cluster = RestoreCluster(reclaim_policy=policy)
    job, exposer = await cluster.begin(), cluster.exposer()
    await until_ready(cluster, exposer, job)
    await exposer.finish(job)  # the volume is marked, and would stay for ever
    await cluster.kube.delete(DATA_DOWNLOADS, JOB)
    await sweep_until_quiet(cluster, leftovers(cluster))
    await assert_nothing_left(cluster)


@pytest.mark.parametrize("after", [False, True], ids=["before the request", "after it"])
async def test_a_restore_that_died_anywhere_with_its_object_ends_as_one_or_the_other(after: bool) -> None:
    outcomes = set()
    for at in range(1, await requests_of(complete, ReclaimPolicy.DELETE) + 1):
        cluster, _, _ = await died(complete, ReclaimPolicy.DELETE, at, after=after)
        await cluster.kube.delete(DATA_DOWNLOADS, JOB)
        await sweep_until_quiet(cluster, leftovers(cluster))
        await cluster.step(5)
        if (await cluster.kube.get(PERSISTENT_VOLUME_CLAIMS, TARGET)).spec.volume_name:
            await assert_handed_over(cluster, ReclaimPolicy.DELETE)
            outcomes.add("handed over")
        else:
            await assert_nothing_left(cluster)
            outcomes.add("nothing left")
    assert outcomes == {"handed over", "nothing left"}


@pytest.mark.parametrize("phase", ["Accepted", "Prepared", "InProgress", "Canceling"])
async def test_what_a_job_that_goes_on_needs_is_never_touched(phase: str) -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    ready = await until_ready(cluster, exposer, job)
    await set_status(cluster, phase=phase, acceptedTimestamp=ago(cluster, 1e6))
    assert (await leftovers(cluster).sweep()).going == ()
    assert await exposer.advance(job) == ready


async def test_a_final_job_is_cleaned_up_after_its_own_agent_had_the_time() -> None:
    cluster = RestoreCluster(reclaim_policy=ReclaimPolicy.RETAIN)
    job, exposer = await cluster.begin(), cluster.exposer()
    await until_ready(cluster, exposer, job)
    sweeper = leftovers(cluster)
    await set_status(cluster, phase="Failed", completionTimestamp=ago(cluster, FINAL_SECONDS - 60))
    assert (await sweeper.sweep()).going == ()
    cluster.clock.advance(60)
    report = await sweeper.sweep()
    assert "DataDownload velero/dm-big-2rvgs" in report.going[0]
    await cluster.step(2)
    await sweep_until_quiet(cluster, sweeper)
    await assert_nothing_left(cluster)


async def test_a_final_job_that_does_not_say_since_when_is_watched_first() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    await until_ready(cluster, exposer, job)
    await set_status(cluster, phase="Failed")
    sweeper = leftovers(cluster)
    assert (await sweeper.sweep()).going == ()
    cluster.clock.advance(FINAL_SECONDS)
    assert (await sweeper.sweep()).going != ()


async def test_a_volume_of_somebody_else_with_our_label_stays() -> None:
    cluster = RestoreCluster()
    await cluster.begin()
    reference = ObjectReference(kind="PersistentVolumeClaim", namespace="app", name="other", uid="u")
    theirs = PersistentVolume(
        api_version="v1",
        kind="PersistentVolume",
        metadata=ObjectMeta(name="theirs", labels={JOB_UID_LABEL: "gone"}, annotations={MARK_ANNOTATION: "{}"}),
        spec=PersistentVolumeSpec(persistent_volume_reclaim_policy=ReclaimPolicy.RETAIN, claim_ref=reference),
    )
    await cluster.kube.create(PERSISTENT_VOLUMES, theirs)
    assert (await leftovers(cluster).sweep()).going == ()
    kept = await cluster.kube.get(PERSISTENT_VOLUMES, theirs.key)
    assert kept.spec.persistent_volume_reclaim_policy is ReclaimPolicy.RETAIN


async def test_a_copy_that_a_backup_tool_made_of_a_marked_volume_stays() -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    await until_ready(cluster, exposer, job)
    await exposer.finish(job)
    (marked,) = await cluster.volumes()
    reference = ObjectReference(kind="PersistentVolumeClaim", namespace="app", name="restored", uid="u")
    copy = msgspec.structs.replace(
        marked,
        metadata=ObjectMeta(name="copy", labels=marked.metadata.labels, annotations=marked.metadata.annotations),
        spec=msgspec.structs.replace(marked.spec, claim_ref=reference),
    )
    await cluster.kube.create(PERSISTENT_VOLUMES, copy)
    await cluster.kube.delete(DATA_DOWNLOADS, JOB)
    await sweep_until_quiet(cluster, leftovers(cluster))
    kept = await cluster.kube.get(PERSISTENT_VOLUMES, Key("", "copy"))
    assert kept.spec.persistent_volume_reclaim_policy is ReclaimPolicy.RETAIN


async def test_an_upload_that_is_gone_leaves_no_snapshot_at_the_storage() -> None:
    world = World()
    await world.build()
    await world.expose()
    assert world.csi.storage.snapshots
    await world.kube.patch(DATA_UPLOADS, (await world.job()).key, {"metadata": {"finalizers": None}})
    await world.kube.delete(DATA_UPLOADS, (await world.job()).key)
    cluster = RestoreCluster()
    cluster.kube, cluster.csi, cluster.clock = world.kube, world.csi, world.clock
    for _ in range(10):
        await leftovers(cluster).sweep()
        await world.csi.step(2)
    assert world.csi.storage.snapshots == set()
    assert world.csi.storage.volumes == world.kept


async def test_a_content_of_another_namespaces_snapshot_stays() -> None:
    cluster = RestoreCluster()
    await cluster.begin()
    content = VolumeSnapshotContent(
        api_version=VOLUME_SNAPSHOT_CONTENTS.api_version,
        kind="VolumeSnapshotContent",
        metadata=ObjectMeta(name="theirs", labels={JOB_UID_LABEL: "gone"}),
        spec=VolumeSnapshotContentSpec(
            driver="d",
            deletion_policy=DeletionPolicy.DELETE,
            volume_snapshot_ref=ObjectReference(namespace="app", name="snap"),
            source=VolumeSnapshotContentSource(snapshot_handle="h"),
        ),
    )
    await cluster.kube.create(VOLUME_SNAPSHOT_CONTENTS, content)
    assert (await leftovers(cluster).sweep()).going == ()
    await cluster.kube.get(VOLUME_SNAPSHOT_CONTENTS, content.key)


async def test_a_cluster_without_snapshots_is_swept_all_the_same() -> None:
    cluster = RestoreCluster(reclaim_policy=ReclaimPolicy.RETAIN)
    job, exposer = await cluster.begin(), cluster.exposer()
    await until_ready(cluster, exposer, job)
    await exposer.finish(job)
    await cluster.kube.delete(DATA_DOWNLOADS, JOB)
    cluster.kube.denied |= {("list", "volumesnapshots.snapshot.storage.k8s.io")}
    for _ in range(5):
        await leftovers(cluster).sweep()
    (volume,) = await cluster.volumes()
    assert volume.spec.persistent_volume_reclaim_policy is ReclaimPolicy.DELETE


@pytest.mark.parametrize("resource", ["datadownloads.velero.io", "podvolumebackups.velero.io"])
async def test_jobs_that_cannot_be_listed_are_not_taken_for_gone(resource: str) -> None:
    cluster = RestoreCluster()
    job, exposer = await cluster.begin(), cluster.exposer()
    ready = await until_ready(cluster, exposer, job)
    cluster.kube.denied.add(("list", resource))
    with pytest.raises(KubeForbidden):
        await leftovers(cluster).sweep()
    cluster.kube.denied.clear()
    cluster.kube.fail("list", resource, KubeUnavailable("no answer"))
    with pytest.raises(KubeUnavailable):
        await leftovers(cluster).sweep()
    assert await exposer.advance(job) == ready
