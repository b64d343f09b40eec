"""An object store that refuses or is gone: jobs end within their bound and say why (contract §12.24–27)."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator

import pytest

from tests.e2e.cluster import VELERO_NAMESPACE, Cluster
from tests.e2e.direct import data_download, data_upload, waiting_claim
from tests.e2e.location import READER, WRONG, Location
from tests.e2e.node_faults import NodeFaults
from tests.e2e.store_faults import Door, FullDisk, Quota
from tests.e2e.workload import Workload

pytestmark = pytest.mark.usefixtures("clean")

_NOBODY_LISTENS = "http://127.0.0.1:1"


@pytest.fixture
def door(location: Location, faults: NodeFaults) -> Iterator[Door]:
    door = Door(location.s3_url)
    yield door
    door.shut()


@pytest.fixture
def disk(location: Location, faults: NodeFaults) -> Iterator[FullDisk]:
    disk = FullDisk(location.s3_url)
    yield disk
    disk.close()


@pytest.fixture
def quota(location: Location, faults: NodeFaults) -> Iterator[Quota]:
    quota = Quota(location.s3_url, location.folder)
    yield quota
    quota.raise_it()


def test_wrong_credentials_fail_within_a_minute_and_say_which(app: Workload, location: Location) -> None:
    location.create(WRONG)
    ended = data_upload(app, "files", location=location.name).wait_for("Failed", seconds=60)
    # What the store said to Velero's server, which makes the repository.
    assert "Check your key and signing method" in ended["status"]["message"]
    assert location.name in ended["status"]["message"]


@pytest.mark.slow
def test_store_that_never_answered_fails_within_a_minute(app: Workload, location: Location) -> None:
    location.create(s3_url=_NOBODY_LISTENS)
    ended = data_upload(app, "files", location=location.name).wait_for("Failed", seconds=60)
    assert _NOBODY_LISTENS.removeprefix("http://") in ended["status"]["message"]


def test_bucket_that_became_read_only_fails_backups_and_restores_still(app: Workload, location: Location) -> None:
    location.create()
    written = data_upload(app, "files", location=location.name).wait_for("Completed")
    location.change_keys(READER)
    app.make("files", "odd")
    refused = data_upload(app, "files", location=location.name, turn="2").wait_for("Failed", seconds=60)
    assert "AccessDenied" in refused["status"]["message"]
    waiting_claim(app, "target")
    snapshot_id = written["status"]["snapshotID"]
    data_download(app, "target", snapshot_id=snapshot_id, location=location.name).wait_for("Completed")


@pytest.mark.parametrize("answer", [(507, "XMinioStorageFull"), (403, "QuotaExceeded")], ids=["minio", "ceph"])
def test_bucket_that_is_full_fails_backups_until_there_is_room(
    app: Workload, disk: FullDisk, location: Location, answer: tuple[int, str]
) -> None:
    location.create(s3_url=disk.s3_url)
    data_upload(app, "files", location=location.name).wait_for("Completed")
    app.make("files", "odd")
    disk.answer = answer
    refused = data_upload(app, "files", location=location.name, turn="2").wait_for("Failed", seconds=60)
    assert "storage.out-of-space" in refused["status"]["message"]
    disk.answer = None
    data_upload(app, "files", location=location.name, turn="3").wait_for("Completed")


@pytest.mark.slow
@pytest.mark.disturbing  # it keeps the one slot of its node for a minute
def test_quota_that_is_used_up_during_a_backup_is_waited_for(app: Workload, location: Location, quota: Quota) -> None:
    location.create()
    data_upload(app, "files", location=location.name).wait_for("Completed")
    app.make("files", "large")
    quota.use_up()  # SeaweedFS answers with an error that may pass
    job = data_upload(app, "files", location=location.name, turn="2")
    job.wait_for("InProgress")
    time.sleep(20)
    quota.raise_it()
    job.wait_for("Completed")


@pytest.mark.slow
def test_wrong_credentials_from_now_on_fail_the_next_backup(app: Workload, location: Location) -> None:
    location.create()
    data_upload(app, "files", location=location.name).wait_for("Completed")
    location.change_keys(WRONG)
    ended = data_upload(app, "files", location=location.name, turn="2").wait_for("Failed", seconds=60)
    assert "SignatureDoesNotMatch" in ended["status"]["message"]


@pytest.mark.check(26)
@pytest.mark.slow
@pytest.mark.disturbing  # it keeps the one slot of its node for as long
def test_store_that_is_gone_for_ever_fails_in_a_quarter_of_an_hour(
    app: Workload, door: Door, location: Location
) -> None:
    location.create(s3_url=door.s3_url)
    app.make("files", "large")
    job = data_upload(app, "files", location=location.name)
    job.wait_for("InProgress")
    door.shut()
    ended = job.wait_for("Failed", seconds=900)
    assert door.s3_url.removeprefix("http://") in ended["status"]["message"]


@pytest.mark.slow
@pytest.mark.disturbing  # it keeps the slot, too, until its store is given up
def test_store_that_is_gone_for_ever_does_not_hold_up_cancel(app: Workload, door: Door, location: Location) -> None:
    location.create(s3_url=door.s3_url)
    app.make("files", "large")
    job = data_upload(app, "files", location=location.name)
    job.wait_for("InProgress")
    door.shut()
    job.cancel()
    job.wait_for("Canceled", seconds=60)


@pytest.fixture
def other_password(cluster: Cluster) -> Iterator[None]:
    """The password of all repositories, replaced for a while."""
    secret = cluster.get("Secret", "velero-repo-credentials", VELERO_NAMESPACE)
    assert secret is not None
    other = {"repository-password": base64.b64encode(b"somebody-elses").decode()}
    cluster.patch("Secret", "velero-repo-credentials", VELERO_NAMESPACE, {"data": other})
    yield
    cluster.patch("Secret", "velero-repo-credentials", VELERO_NAMESPACE, {"data": secret["data"]})


@pytest.mark.disturbing
def test_password_that_was_replaced_is_named(app: Workload, location: Location, request: pytest.FixtureRequest) -> None:
    location.create()
    data_upload(app, "files", location=location.name).wait_for("Completed")
    request.getfixturevalue("other_password")
    ended = data_upload(app, "files", location=location.name, turn="2").wait_for("Failed", seconds=60)
    assert "password" in ended["status"]["message"]
