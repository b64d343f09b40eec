"""What becomes of each kind, on its way to the end that was asked for."""

from __future__ import annotations

import io
import json
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import structlog

from agent.base.errors import KubeNotFound, ProvisioningFailed, RebindFailed, SourceNotFound, WrongPassword
from agent.controllers.context import Timing
from agent.controllers.data_upload import DataMovers
from agent.controllers.job import PAUSED_ANNOTATION
from agent.controllers.reasons import cause
from agent.kube.job import Phase
from agent.kube.meta import Key
from agent.kube.pods import ContainerState, Terminated, Waiting
from agent.kube.resource import DATA_DOWNLOADS, DATA_UPLOADS, POD_VOLUME_BACKUPS, POD_VOLUME_RESTORES
from agent.observe.log import LogFormat, Logging, LogOptions
from agent.testing.fake_movers import Script
from tests.unit.controllers.controllers_kit import NODES, Cluster, Server


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = Cluster(random.Random(1))
    yield cluster
    await cluster.stop()


def _start(cluster: Cluster, count: int = 2) -> None:
    for node in NODES[:count]:
        cluster.start_agent(node)


async def test_an_upload_is_accepted_prepared_done_and_cleaned(cluster: Cluster) -> None:
    await cluster.upload("u", node=NODES[1])
    _start(cluster)
    await cluster.run(60)
    upload = await cluster.kube.get(DATA_UPLOADS, Key("velero", "u"))
    status = upload.status
    assert status.phase is Phase.COMPLETED
    assert status.node == NODES[1]
    assert status.accepted_by_node in NODES[:2]
    assert status.snapshot_id == "snapshot-of-DataUpload/u"
    assert status.progress.total_bytes == status.progress.bytes_done == 1 << 20
    assert status.incremental_bytes == 1 << 19
    assert status.accepted_timestamp and status.start_timestamp and status.completion_timestamp
    assert upload.metadata.finalizers == ()
    assert not upload.metadata.labels
    assert not upload.metadata.annotations
    assert not cluster.exposed["upload"].left
    assert [reason for _, reason, _ in cluster.events.told] == ["Accepted", "Prepared", "InProgress", "Completed"]


async def test_the_end_is_told_half_a_second_after_everything_is_gone(cluster: Cluster) -> None:
    await cluster.upload("u")
    _start(cluster)
    while not cluster.exposed["upload"].cleaning_since:
        await cluster.run(0.1)
    await cluster.run(1.0 + 0.5)
    assert await cluster.phase_of(DATA_UPLOADS, "u") is Phase.COMPLETED


async def test_a_download_waits_for_its_claim_and_is_handed_over_before_it_is_completed(cluster: Cluster) -> None:
    await cluster.download("d", claim=False)
    _start(cluster)
    await cluster.run(30)
    assert (await cluster.phase_of(DATA_DOWNLOADS, "d")).is_new
    await cluster.claim("d")
    await cluster.run(60)
    assert await cluster.phase_of(DATA_DOWNLOADS, "d") is Phase.COMPLETED
    assert cluster.exposed["download"].finished == {Key("velero", "d")}


@pytest.mark.check(32)
@pytest.mark.parametrize("minor", [16, 17, 18, 19])
async def test_pod_volumes_go_through_the_phases_that_the_server_knows(minor: int) -> None:
    cluster = Cluster(random.Random(1), server=Server(minor))
    await cluster.pod_backup("b", node=NODES[1])
    await cluster.pod_restore("r", node=NODES[0])
    _start(cluster)
    await cluster.run(60)
    assert await cluster.phase_of(POD_VOLUME_BACKUPS, "b") is Phase.COMPLETED
    assert await cluster.phase_of(POD_VOLUME_RESTORES, "r") is Phase.COMPLETED
    told = {reason for _, reason, _ in cluster.events.told}
    assert told == ({"InProgress", "Completed"} | ({"Accepted", "Prepared"} if minor > 16 else set()))
    await cluster.stop()


@pytest.mark.check(37)
@pytest.mark.parametrize(
    ("minor", "phase"), [(16, Phase.FAILED), (17, Phase.FAILED), (18, Phase.FAILED), (19, Phase.CANCELED)]
)
async def test_a_canceled_pod_volume_backup_ends_as_its_server_can_bear(minor: int, phase: Phase) -> None:
    cluster = Cluster(random.Random(1), server=Server(minor))
    cluster.moved.script = lambda _: Script(seconds=1000)
    await cluster.pod_backup("b")
    _start(cluster)
    await cluster.run(20)
    await cluster.patch(POD_VOLUME_BACKUPS, "b", {"spec": {"cancel": True}})
    await cluster.run(15)
    backup = await cluster.kube.get(POD_VOLUME_BACKUPS, Key("velero", "b"))
    assert backup.status.phase is phase
    assert backup.status.message.startswith("canceled:")
    await cluster.stop()


async def test_a_server_that_is_exchanged_while_the_agent_runs_counts_for_the_end_of_a_canceled_backup() -> None:
    server = Server(19)
    cluster = Cluster(random.Random(1), server=server)
    cluster.moved.script = lambda _: Script(seconds=1000)
    await cluster.pod_backup("b")
    _start(cluster)
    await cluster.run(20)
    server.minor = 18
    await cluster.patch(POD_VOLUME_BACKUPS, "b", {"spec": {"cancel": True}})
    await cluster.run(15)
    assert await cluster.phase_of(POD_VOLUME_BACKUPS, "b") is Phase.FAILED
    await cluster.stop()


@pytest.mark.check(17)
@pytest.mark.parametrize("seconds", [0.0, 3.0, 8.0, 14.0])
async def test_a_cancel_ends_an_upload_within_seconds_in_every_phase(cluster: Cluster, seconds: float) -> None:
    cluster.moved.script = lambda _: Script(seconds=1000)
    await cluster.upload("u", seconds=6.0)
    if not seconds:
        await cluster.patch(DATA_UPLOADS, "u", {"spec": {"cancel": True}})
    _start(cluster)
    await cluster.run(seconds)
    await cluster.patch(DATA_UPLOADS, "u", {"spec": {"cancel": True}})
    await cluster.run(10)
    upload = await cluster.kube.get(DATA_UPLOADS, Key("velero", "u"))
    assert upload.status.phase is Phase.CANCELED
    assert "spec.cancel" in upload.status.message
    assert upload.status.completion_timestamp
    assert not cluster.exposed["upload"].left
    assert cluster.exposed["upload"].cleaned == {Key("velero", "u")}
    assert not upload.metadata.finalizers
    assert not any(cluster.moved.active.values())


@pytest.mark.parametrize(("said", "stands"), [("true", True), ("True", False), ("", False), ("x" * 10_000, False)])
async def test_an_upload_that_is_marked_as_paused_begins_and_stands_still_until_the_mark_is_gone(
    cluster: Cluster, said: str, stands: bool
) -> None:
    cluster.moved.script = lambda _: Script(seconds=60)
    await cluster.upload("u")
    await cluster.patch(DATA_UPLOADS, "u", {"metadata": {"annotations": {PAUSED_ANNOTATION: said}}})
    _start(cluster)
    await cluster.run(600)
    upload = await cluster.kube.get(DATA_UPLOADS, Key("velero", "u"))
    assert upload.status.phase is (Phase.IN_PROGRESS if stands else Phase.COMPLETED)
    await cluster.patch(DATA_UPLOADS, "u", {"metadata": {"annotations": {PAUSED_ANNOTATION: None}}})
    await cluster.run(100)
    upload = await cluster.kube.get(DATA_UPLOADS, Key("velero", "u"))
    assert upload.status.phase is Phase.COMPLETED


@pytest.mark.check(18)
async def test_a_deleted_upload_is_canceled_cleaned_and_gone(cluster: Cluster) -> None:
    cluster.moved.script = lambda _: Script(seconds=1000)
    await cluster.upload("u")
    _start(cluster)
    await cluster.run(20)
    await cluster.kube.delete(DATA_UPLOADS, Key("velero", "u"))
    await cluster.run(20)
    assert ("velero", "u") not in [view.key for view in (await cluster.kube.list(DATA_UPLOADS, "velero")).items]
    assert not cluster.exposed["upload"].left


@pytest.mark.parametrize("agents", [1, 3])
async def test_an_upload_that_is_deleted_while_it_waits_to_be_accepted_is_cleaned_before_it_is_gone(
    agents: int,
) -> None:
    cluster = Cluster(random.Random(1), prepare_queue_length=1)
    await cluster.upload("first", seconds=1000.0)
    _start(cluster, agents)
    await cluster.run(10)
    await cluster.upload("u")
    await cluster.run(20)
    assert (await cluster.phase_of(DATA_UPLOADS, "u")).is_new
    await cluster.kube.delete(DATA_UPLOADS, Key("velero", "u"))
    await cluster.run(20)
    with pytest.raises(KubeNotFound):
        await cluster.kube.get(DATA_UPLOADS, Key("velero", "u"))
    assert cluster.exposed["upload"].cleaned == {Key("velero", "u")}, "Velero has made its snapshot"
    await cluster.stop()


async def test_a_definite_failure_of_the_volume_is_told_at_once_with_its_code(cluster: Cluster) -> None:
    await cluster.upload("u", error=ProvisioningFailed("the driver says no"))
    _start(cluster)
    await cluster.run(20)
    upload = await cluster.kube.get(DATA_UPLOADS, Key("velero", "u"))
    assert upload.status.phase is Phase.FAILED
    assert upload.status.message == "expose.provisioning-failed: the driver says no"
    assert not cluster.exposed["upload"].left


async def test_a_volume_that_never_comes_fails_after_the_time_limit_with_the_reason(cluster: Cluster) -> None:
    await cluster.upload("u", seconds=1e6)
    _start(cluster)
    await cluster.run(1790)
    assert await cluster.phase_of(DATA_UPLOADS, "u") is Phase.ACCEPTED
    await cluster.run(40)
    upload = await cluster.kube.get(DATA_UPLOADS, Key("velero", "u"))
    assert upload.status.phase is Phase.FAILED
    assert "the volume is being made" in upload.status.message
    assert "is Pending" in upload.status.message
    assert upload.status.completion_timestamp


async def test_a_time_limit_that_is_short_is_kept() -> None:
    cluster = Cluster(random.Random(1), timing=Timing(prepare=20.0))
    await cluster.upload("u", seconds=1e6)
    _start(cluster)
    await cluster.run(35)
    assert await cluster.phase_of(DATA_UPLOADS, "u") is Phase.FAILED
    await cluster.stop()


async def test_an_upload_that_was_accepted_by_an_agent_whose_clock_is_hours_behind_has_its_time(
    cluster: Cluster,
) -> None:
    await cluster.upload("u", node=NODES[0], seconds=60)
    accepted = {"phase": "Accepted", "acceptedByNode": NODES[1], "acceptedTimestamp": "2020-01-01T00:00:00Z"}
    await cluster.patch(DATA_UPLOADS, "u", {"status": accepted})
    cluster.start_agent(NODES[1])
    await cluster.run(5)
    cluster.start_agent(NODES[0])
    await cluster.run(115)
    assert await cluster.phase_of(DATA_UPLOADS, "u") is Phase.COMPLETED


async def test_a_failure_is_told_in_time_and_cleaned_up_after_it_also_by_the_next_agent(cluster: Cluster) -> None:
    await cluster.upload("u", seconds=1e6, clean_up_seconds=300)
    _start(cluster)
    await cluster.run(1815)
    upload = await cluster.kube.get(DATA_UPLOADS, Key("velero", "u"))
    assert upload.status.phase is Phase.FAILED
    assert upload.metadata.finalizers, "it is not gone before it is cleaned up"
    assert cluster.exposed["upload"].left
    node = upload.status.accepted_by_node
    await cluster.kill_agent(node)
    cluster.start_agent(node)
    await cluster.run(500)
    assert not cluster.exposed["upload"].left
    assert not (await cluster.kube.get(DATA_UPLOADS, Key("velero", "u"))).metadata.finalizers


@pytest.mark.parametrize(
    ("waiting", "facts", "told"),
    [
        ("the pod starts: FailedMount: no driver", (), "the pod starts: FailedMount: no driver"),
        (
            "the pod cannot be scheduled: pod has unbound immediate PersistentVolumeClaims",
            ("PersistentVolumeClaim velero/u: ProvisioningFailed: no room", "Pod velero/u: phase Pending"),
            "PersistentVolumeClaim velero/u: ProvisioningFailed: no room; "
            "the pod cannot be scheduled: pod has unbound immediate PersistentVolumeClaims",
        ),
        ("", (), "nothing is known about the reason"),
        ("x" * 3_000, ("y" * 3_000,), "x" * 400 + "; " + "y" * 400),
    ],
)
def test_a_time_out_begins_with_the_cause_and_is_no_longer_than_a_person_reads(
    waiting: str, facts: tuple[str, ...], told: str
) -> None:
    assert cause(waiting, facts) == told


async def test_a_pod_that_is_deleted_while_its_volume_is_read_is_named(cluster: Cluster) -> None:
    cluster.moved.script = lambda _: Script(seconds=30, error=SourceNotFound("there is nothing at '/fake/u' to read"))
    await cluster.upload("u")
    _start(cluster)
    await cluster.run(20)
    upload = await cluster.kube.get(DATA_UPLOADS, Key("velero", "u"))
    assert upload.status.phase is Phase.IN_PROGRESS
    del cluster.exposed["upload"].volumes[upload.metadata.uid]
    await cluster.run(40)
    message = (await cluster.kube.get(DATA_UPLOADS, Key("velero", "u"))).status.message
    assert message.startswith(
        "expose.taken-away: the volume was removed, while the job ran (volume.not-found: there is"
    )


async def test_a_path_that_is_missing_in_a_volume_that_is_there_is_reported_as_the_worker_said(
    cluster: Cluster,
) -> None:
    cluster.moved.script = lambda _: Script(error=SourceNotFound("there is nothing at '/fake/u' to read"))
    await cluster.upload("u")
    _start(cluster)
    await cluster.run(40)
    message = (await cluster.kube.get(DATA_UPLOADS, Key("velero", "u"))).status.message
    assert message.startswith("volume.not-found: there is nothing")


async def test_an_error_of_the_worker_is_the_message_with_what_a_person_looks_at(cluster: Cluster) -> None:
    cluster.moved.script = lambda _: Script(error=WrongPassword("the password does not open s3://b"))
    await cluster.upload("u")
    _start(cluster)
    await cluster.run(30)
    upload = await cluster.kube.get(DATA_UPLOADS, Key("velero", "u"))
    assert upload.status.phase is Phase.FAILED
    assert upload.status.message.startswith(
        "repository.wrong-password: the password in the Secret velero/velero-repo-credentials does not open"
        " the repository in the backup storage location default"
    )


async def test_a_volume_that_cannot_be_handed_over_fails_the_download(cluster: Cluster) -> None:
    await cluster.download("d", finish_error=RebindFailed("the claim is gone"))
    _start(cluster)
    await cluster.run(60)
    download = await cluster.kube.get(DATA_DOWNLOADS, Key("velero", "d"))
    assert download.status.phase is Phase.FAILED
    assert "the claim is gone" in download.status.message


async def test_a_download_without_a_snapshot_fails_at_once(cluster: Cluster) -> None:
    await cluster.download("d", snapshot="")
    _start(cluster)
    await cluster.run(5)
    download = await cluster.kube.get(DATA_DOWNLOADS, Key("velero", "d"))
    assert download.status.phase is Phase.FAILED
    assert download.status.message.startswith("snapshot.not-found:")


async def test_what_can_never_be_done_fails_at_once_however_many_wait_to_be_accepted() -> None:
    cluster = Cluster(random.Random(1), prepare_queue_length=1)
    await cluster.upload("first", seconds=1000.0)
    _start(cluster)
    await cluster.run(10)
    await cluster.upload("block", datamover="velero-block")
    await cluster.download("empty", snapshot="")
    await cluster.pod_backup("restic", uploader="restic")
    await cluster.upload("u")
    await cluster.run(2)
    assert await cluster.phase_of(DATA_UPLOADS, "block") is Phase.FAILED
    assert await cluster.phase_of(DATA_DOWNLOADS, "empty") is Phase.FAILED
    assert await cluster.phase_of(POD_VOLUME_BACKUPS, "restic") is Phase.FAILED
    assert (await cluster.phase_of(DATA_UPLOADS, "u")).is_new
    await cluster.stop()


async def test_a_volume_of_a_windows_node_is_not_restored_on_another(cluster: Cluster) -> None:
    await cluster.download("d")
    await cluster.patch(DATA_DOWNLOADS, "d", {"spec": {"nodeOS": "windows"}})
    _start(cluster)
    await cluster.run(5)
    download = await cluster.kube.get(DATA_DOWNLOADS, Key("velero", "d"))
    assert download.status.phase is Phase.FAILED
    assert download.status.message.startswith("expose.unsupported: the volume app/d is of a Windows node")


async def test_data_movers_of_others_are_left_alone_and_that_is_said_once() -> None:
    said: list[str] = []
    cluster = Cluster(random.Random(1), movers=DataMovers(tell=said.append))
    await cluster.upload("other", datamover="acme")
    await cluster.upload("other-2", datamover="acme")
    await cluster.upload("block", datamover="velero-block")
    await cluster.upload("fs", datamover="velero-fs")
    cluster.start_agent(NODES[0])
    await cluster.run(60)
    assert (await cluster.phase_of(DATA_UPLOADS, "other")) is Phase.EMPTY
    assert (await cluster.kube.get(DATA_UPLOADS, Key("velero", "other"))).metadata.finalizers == ()
    assert (await cluster.phase_of(DATA_UPLOADS, "fs")) is Phase.COMPLETED
    block = await cluster.kube.get(DATA_UPLOADS, Key("velero", "block"))
    assert block.status.phase is Phase.FAILED
    assert block.status.message.startswith("mover.unsupported:")
    assert len(said) == 1
    await cluster.stop()


async def test_the_uploader_restic_is_refused(cluster: Cluster) -> None:
    await cluster.pod_backup("b", uploader="restic")
    _start(cluster)
    await cluster.run(10)
    backup = await cluster.kube.get(POD_VOLUME_BACKUPS, Key("velero", "b"))
    assert backup.status.phase is Phase.FAILED
    assert backup.status.message.startswith("mover.unsupported:")


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        (ContainerState(waiting=Waiting(reason="PodInitializing")), Phase.EMPTY),
        (ContainerState(waiting=Waiting(reason="ErrImagePull", message="no such image")), Phase.FAILED),
        (ContainerState(terminated=Terminated(exit_code=0)), Phase.FAILED),
    ],
)
async def test_a_restore_begins_when_the_pod_waits_and_fails_when_it_never_will(
    cluster: Cluster, state: ContainerState, phase: Phase
) -> None:
    await cluster.pod_restore("r", state=state)
    _start(cluster)
    await cluster.run(20)
    assert await cluster.phase_of(POD_VOLUME_RESTORES, "r") is phase


@pytest.mark.check(11, 12)
async def test_no_node_works_on_more_than_its_share_and_the_namespace_exposes_no_more_than_allowed() -> None:
    cluster = Cluster(random.Random(1), concurrency=2, prepare_queue_length=4)
    for number in range(20):
        await cluster.upload(f"u{number}", node=NODES[number % 2])
    _start(cluster)
    exposing = 0
    for _ in range(600):
        await cluster.run(0.5)
        objects = (await cluster.kube.list(DATA_UPLOADS, "velero")).items
        exposing = max(exposing, sum("velero.io/expose-on-going" in one.metadata.labels for one in objects))
    assert {one.status.phase for one in objects} == {Phase.COMPLETED}
    assert cluster.moved.most_at_once == 4
    assert exposing <= 6  # a soft limit: two agents count on their own
    await cluster.stop()


@pytest.mark.check(19)
async def test_many_agents_accept_each_object_once(cluster: Cluster) -> None:
    for number in range(100):
        await cluster.upload(f"u{number}", node=NODES[number % 3])
    _start(cluster, 3)
    await cluster.run(600)
    objects = (await cluster.kube.list(DATA_UPLOADS, "velero")).items
    assert {one.status.phase for one in objects} == {Phase.COMPLETED}
    accepted = [name for name, reason, _ in cluster.events.told if reason == "Accepted"]
    assert len(accepted) == len(set(accepted)) == 100
    assert not cluster.moved.doubled


@pytest.fixture
def log_lines() -> Iterator[Callable[[], list[dict[str, object]]]]:
    """Everything that is logged during a test, as it is written."""
    root, configured, stream = logging.getLogger(), structlog.get_config(), io.StringIO()
    handlers, level = root.handlers, root.level
    Logging(LogOptions(LogFormat.JSON, "debug"), stream).install()
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers, root.level = handlers, level
    structlog.configure(**configured)


async def test_each_line_about_an_object_says_which_its_volume_and_its_uid(
    cluster: Cluster, log_lines: Callable[[], list[dict[str, object]]]
) -> None:
    cluster.moved.script = lambda _: Script(seconds=5, error=RuntimeError("a mistake of ours"))  # type: ignore[arg-type]
    await cluster.upload("u", node=NODES[0])
    await cluster.upload("v", node=NODES[0])
    _start(cluster)
    await cluster.run(120)
    for name in ("u", "v"):
        upload = await cluster.kube.get(DATA_UPLOADS, Key("velero", name))
        expected = ("DataUpload", f"{upload.spec.source_namespace}/{upload.spec.source_pvc}", upload.metadata.uid)
        about = [line for line in log_lines() if line.get("name") == name]
        assert any("unforeseen" in str(line["msg"]) for line in about)
        assert {(line["kind"], line["volume"], line["job"]) for line in about} == {expected}
    assert not [line for line in log_lines() if "unforeseen" in str(line["msg"]) and "job" not in line]
