"""What becomes of DataUploads, without Velero's server: the tests make them, as its CSI plug-in does.

Numbers are those of the contract's acceptance list (§12).
"""

from __future__ import annotations

import time
from collections import Counter

import pytest

from agent.kube.codec import JsonObject
from agent.kube.job import Phase
from agent.kube.names import DATA_UPLOAD_DOWNLOAD_FINALIZER, EXPOSE_ON_GOING_LABEL
from agent.kube.resource import DATA_UPLOADS, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES
from agent.testing.control_plane_csi import LATE_STORAGE_CLASS, STORAGE_CLASS
from agent.testing.control_plane_velero import NAMESPACE
from tests.controlplane.agents import STOCK_CONFIG
from tests.controlplane.cluster import Cluster
from tests.controlplane.transfers import fill, in_progress, slow_application

ZONE = "topology.kubernetes.io/zone"


def cancel(cluster: Cluster, name: str) -> None:
    cluster.patch(DATA_UPLOADS, name, {"spec": {"cancel": True}}, NAMESPACE)


def assert_canceled(cluster: Cluster, name: str) -> None:
    upload = cluster.wait_final(name, seconds=60)
    assert upload.status.phase is Phase.CANCELED
    assert upload.status.message and upload.status.completion_timestamp is not None
    cluster.eventually("its finalizer goes", lambda: cluster.upload_of(name).metadata.finalizers == ())
    cluster.assert_clean()


@pytest.mark.check(11, 12, 19)
def test_check_11_12_19_many_uploads_keep_to_the_limits_and_are_done_once(cluster: Cluster) -> None:
    first = {"matchLabels": {"kubernetes.io/hostname": "n1"}}
    own = [{"nodeSelector": first, "number": number} for number in (3, 1)]
    limits = {"globalConfig": 2, "perNodeConfig": own, "prepareQueueLength": 4}
    cluster.config(STOCK_CONFIG, {"loadConcurrency": limits})
    cluster.agents.restart()
    namespace, volume = cluster.application()
    fill(volume, 1)
    names = [cluster.upload(namespace) for _ in range(10)]
    most_running: Counter[str] = Counter()
    most_exposed = 0
    deadline = time.monotonic() + 150
    while True:
        uploads = [upload for upload in cluster.objects(DATA_UPLOADS, NAMESPACE) if upload.metadata.name in names]
        running = Counter(upload.status.node for upload in uploads if upload.status.phase is Phase.IN_PROGRESS)
        most_running |= running
        most_exposed = max(most_exposed, sum(EXPOSE_ON_GOING_LABEL in upload.metadata.labels for upload in uploads))
        if all(upload.status.phase.is_final for upload in uploads):
            break
        assert time.monotonic() < deadline, cluster.work()
    assert [upload.status.phase for upload in uploads] == [Phase.COMPLETED] * 10
    assert most_running["n1"] <= 1, "the smallest of a node's own numbers counts"
    assert most_running["n2"] <= 2
    assert most_exposed <= 4
    snapshots = {upload.status.snapshot_id for upload in uploads}
    assert len(snapshots) == 10
    manifests = cluster.kopia(namespace).run("snapshot", "list", "--all", "--incomplete", "--show-identical", "--json")
    assert manifests.count('"rootEntry"') == 10
    cluster.assert_clean()


@pytest.mark.check(13)
def test_check_13_work_stays_on_the_nodes_that_were_chosen_for_it(cluster: Cluster) -> None:
    only = {"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "n2"}}}
    first = {"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "n1"}}, "storageClass": LATE_STORAGE_CLASS}
    cluster.config(STOCK_CONFIG, {"loadConcurrency": {"globalConfig": 4}, "loadAffinity": [only, first]})
    cluster.agents.restart()
    namespace, _ = cluster.application()
    cluster.claim(namespace, "late", storage_class=LATE_STORAGE_CLASS)
    cluster.pod(namespace, "other", ["late"])
    names = [cluster.upload(namespace) for _ in range(2)] + [cluster.upload(namespace, "late")]
    assert [cluster.wait_final(name).status.node for name in names] == ["n2", "n2", "n1"]
    cluster.assert_clean()


@pytest.mark.slow
@pytest.mark.check(14)
def test_check_14_the_temporary_claim_is_made_as_configured(cluster: Cluster) -> None:
    wanted = {"storageClass": LATE_STORAGE_CLASS, "readOnly": True, "annotations": {"example.com/a": "b"}}
    cluster.config(STOCK_CONFIG, {"backupPVC": {STORAGE_CLASS: wanted}})
    cluster.agents.restart()
    namespace, volume = cluster.application()
    fill(volume, 1)
    cluster.storage.faults(delay={"NodeStageVolume": 3})
    name = cluster.upload(namespace)
    cluster.wait_phase(name, Phase.ACCEPTED, Phase.PREPARED, Phase.IN_PROGRESS)
    cluster.eventually("the claim is there", lambda: bool(cluster.objects(PERSISTENT_VOLUME_CLAIMS, NAMESPACE)))
    (claim,) = cluster.objects(PERSISTENT_VOLUME_CLAIMS, NAMESPACE)
    assert claim.spec.storage_class_name == LATE_STORAGE_CLASS
    assert claim.spec.access_modes == ("ReadOnlyMany",)
    assert claim.metadata.annotations["example.com/a"] == "b"
    assert cluster.wait_final(name).status.phase is Phase.COMPLETED
    cluster.assert_clean()


@pytest.mark.slow
@pytest.mark.check(15)
@pytest.mark.parametrize(("node", "zone"), [("n1", "a"), ("n2", "b")])
def test_check_15_a_volume_of_a_zone_is_moved_by_a_node_of_the_zone(cluster: Cluster, node: str, zone: str) -> None:
    for name, its in (("n1", "a"), ("n2", "b")):
        cluster.plane.kubectl("label", "node", name, f"{ZONE}={its}", "--overwrite")
    namespace = cluster.namespace()
    cluster.claim(namespace, "data", storage_class=LATE_STORAGE_CLASS)
    cluster.pod(namespace, "app", ["data"], node=node)
    volume = cluster.get(PERSISTENT_VOLUME_CLAIMS, "data", namespace).spec.volume_name
    term = {"matchExpressions": [{"key": ZONE, "operator": "In", "values": [zone]}]}
    affinity: JsonObject = {"nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}
    cluster.patch(PERSISTENT_VOLUMES, volume, {"spec": affinity})
    names = [cluster.upload(namespace) for _ in range(3)]
    assert [cluster.wait_final(name).status.node for name in names] == [node] * 3
    cluster.assert_clean()


@pytest.mark.check(16)
def test_check_16_a_volume_that_cannot_be_mounted_fails_with_the_reason(cluster: Cluster) -> None:
    cluster.agents.restart("--data-mover-prepare-timeout=20s")
    namespace, _ = cluster.application()
    cluster.storage.faults(fail={"NodeStageVolume": "the backend lost the volume"})
    upload = cluster.wait_final(cluster.upload(namespace))
    assert upload.status.phase is Phase.FAILED
    assert "the backend lost the volume" in upload.status.message
    assert upload.status.completion_timestamp is not None
    cluster.assert_clean()


@pytest.mark.slow
@pytest.mark.check(16)
def test_check_16_the_backup_of_such_a_volume_is_partially_failed_and_quotes_it(cluster: Cluster) -> None:
    cluster.agents.restart("--data-mover-prepare-timeout=20s")
    namespace, _ = cluster.application()
    cluster.storage.faults(fail={"NodeStageVolume": "the backend lost the volume"})
    backup = cluster.back_up("--snapshot-move-data", namespace=namespace)
    assert cluster.velero.phase("backup", backup) == "PartiallyFailed"
    assert "the backend lost the volume" in cluster.velero.cli("backup", "describe", backup, "--details")
    cluster.assert_clean()


@pytest.mark.slow
def test_a_snapshot_that_cannot_become_a_volume_fails_with_the_reason(cluster: Cluster) -> None:
    cluster.agents.restart("--data-mover-prepare-timeout=20s")
    namespace, _ = cluster.application()
    cluster.storage.faults(fail={"CreateVolume": "the backend is full"})
    upload = cluster.wait_final(cluster.upload(namespace))
    assert upload.status.phase is Phase.FAILED
    assert "the backend is full" in upload.status.message
    cluster.storage.faults()
    cluster.assert_clean()


@pytest.mark.slow
@pytest.mark.parametrize("call", ["DeleteVolume", "DeleteSnapshot"])
def test_an_upload_is_completed_though_a_call_fails_that_takes_its_volume_away(cluster: Cluster, call: str) -> None:
    namespace, volume = cluster.application()
    fill(volume, 1)
    cluster.storage.faults(fail={call: "the backend is on fire"})
    upload = cluster.wait_final(cluster.upload(namespace))
    assert (upload.status.phase, upload.status.message) == (Phase.COMPLETED, "")
    cluster.storage.faults()
    cluster.assert_clean(180)


@pytest.mark.slow
def test_a_snapshot_that_takes_its_time_is_waited_for(cluster: Cluster) -> None:
    namespace, volume = cluster.application()
    fill(volume, 1)
    cluster.storage.faults(snapshot_ready=8)
    name = cluster.upload(namespace)
    assert cluster.wait_final(name).status.phase is Phase.COMPLETED
    cluster.assert_clean()


@pytest.mark.check(17)
def test_check_17_a_new_upload_can_be_canceled(cluster: Cluster) -> None:
    namespace, _ = cluster.application()
    cluster.agents.stop_all()
    name = cluster.upload(namespace, cancel=True)
    cluster.agents.ensure("n1", "n2")
    assert_canceled(cluster, name)


@pytest.mark.check(17)
def test_check_17_an_accepted_upload_can_be_canceled(cluster: Cluster) -> None:
    namespace, _ = cluster.application()
    cluster.storage.faults(fail={"NodeStageVolume": "not yet"})
    name = cluster.upload(namespace)
    cluster.wait_phase(name, Phase.ACCEPTED)
    cancel(cluster, name)
    assert_canceled(cluster, name)


@pytest.mark.check(17)
def test_check_17_a_prepared_upload_can_be_canceled(cluster: Cluster) -> None:
    only = {"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "n1"}}}
    cluster.config(STOCK_CONFIG, {"loadConcurrency": {"globalConfig": 1}, "loadAffinity": [only]})
    cluster.agents.restart()
    namespace, running = in_progress(cluster, mebibytes=100)
    name = cluster.upload(namespace)
    cluster.wait_phase(name, Phase.PREPARED)
    cancel(cluster, name)
    assert cluster.wait_final(name, seconds=60).status.phase is Phase.CANCELED
    cancel(cluster, running.metadata.name)
    cluster.wait_final(running.metadata.name)
    assert_canceled(cluster, name)


@pytest.mark.check(17)
def test_check_17_an_upload_in_progress_can_be_canceled(cluster: Cluster) -> None:
    name = cluster.upload(slow_application(cluster))
    cluster.wait_phase(name, Phase.IN_PROGRESS)
    cancel(cluster, name)
    assert_canceled(cluster, name)


@pytest.mark.check(18)
def test_check_18_an_upload_that_is_deleted_in_progress_goes(cluster: Cluster) -> None:
    name = cluster.upload(slow_application(cluster))
    cluster.wait_phase(name, Phase.IN_PROGRESS)
    assert DATA_UPLOAD_DOWNLOAD_FINALIZER in cluster.upload_of(name).metadata.finalizers
    cluster.plane.kubectl("delete", "dataupload", name, f"--namespace={NAMESPACE}", "--timeout=60s")
    cluster.assert_clean()


@pytest.mark.slow
def test_a_mover_of_another_name_is_left_alone(cluster: Cluster) -> None:
    namespace, _ = cluster.application()
    theirs = cluster.upload(namespace, datamover="somebody-else")
    ours = cluster.upload(namespace, datamover="velero")
    cluster.wait_final(ours)
    upload = cluster.upload_of(theirs)
    assert (upload.status.phase, upload.metadata.finalizers) == (Phase.EMPTY, ())
    cluster.plane.kubectl("delete", "dataupload", theirs, f"--namespace={NAMESPACE}")
    cluster.plane.kubectl("delete", "volumesnapshot", theirs, f"--namespace={namespace}")
    cluster.assert_clean()


@pytest.mark.parametrize("mover", ["velero-block"])
def test_a_mover_that_is_not_done_yet_fails_at_once(cluster: Cluster, mover: str) -> None:
    namespace, _ = cluster.application()
    upload = cluster.wait_final(cluster.upload(namespace, datamover=mover), seconds=20)
    assert upload.status.phase is Phase.FAILED
    assert upload.status.message.startswith("mover.unsupported")
    cluster.assert_clean()
