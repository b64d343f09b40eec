"""The four kinds as jobs."""

import msgspec
import pytest
import structlog

from agent.base.errors import (
    KubeForbidden,
    KubeUnavailable,
    LocationInvalid,
    LocationNotFound,
    LocationReadOnly,
    RepositoryNotReady,
    RepositoryRefused,
    SecretAwaited,
    SecretMissing,
    SnapshotNotFound,
    SourceNotFound,
)
from agent.kube.agent_config import AgentConfig, AgentLimits
from agent.kube.backup_repository import RepositoryPhase
from agent.kube.backup_storage_location import AccessMode, SecretKey
from agent.kube.meta import Key
from agent.kube.resource import BACKUP_REPOSITORIES, BACKUP_STORAGE_LOCATIONS, SECRETS
from agent.kube.volumes import VolumeMode
from agent.movers.spec import (
    BackupBlock,
    BackupTree,
    GivenParent,
    NewestParent,
    NoParent,
    RateLimits,
    RestoreBlock,
    RestoreTree,
)
from agent.snapshots.model import Source
from tests.unit.jobs.jobs_kit import (
    KEYS,
    OPERATION,
    PASSWORD,
    SNAPSHOT,
    VELERO,
    bucket,
    download,
    folder,
    pod_backup,
    pod_restore,
    ready_world,
    upload,
)

DATA_TAGS = {"snapshot-requester": "snapshot-data-upload-download", "snapshot-uploader": "kopia"}
POD_TAGS = {"snapshot-requester": "snapshot-pod-volume", "snapshot-uploader": "kopia"}
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def job_of(world, obj, mode=VolumeMode.FILESYSTEM):
    make = {
        "DataUpload": world.jobs.data_upload,
        "DataDownload": world.jobs.data_download,
        "PodVolumeBackup": world.jobs.pod_volume_backup,
        "PodVolumeRestore": world.jobs.pod_volume_restore,
    }[obj.kind]
    return make(obj, path="/host/volume", mode=mode)


async def test_a_data_upload_is_named_and_marked_as_velero_does():
    spec, secrets = await job_of(ready_world(), upload())
    assert spec.id == "daily-x" and spec.cache_dir == "/cache"
    assert (spec.username, spec.hostname) == ("default", "default")
    assert spec.location.bucket == "backups" and spec.location.prefix == "kopia/shop/"
    assert spec.work == BackupTree(
        path="/host/volume",
        source=Source(host="default", user="default", path="snapshot-data-upload-download/kopia/shop/data"),
        description="Kopia Uploader",
        tags={**DATA_TAGS, "velero.io/async-operation-id": OPERATION},
        pins=("velero-pin",),
        velero=True,
        parent=NewestParent(tags=DATA_TAGS),
    )
    assert secrets.password == PASSWORD and secrets.credentials == KEYS.decode()
    assert spec.location.profile == "default"


@pytest.mark.parametrize(("annotations", "last"), [({}, "html"), ({"velero.io/pvc-name": "claim"}, "claim")])
async def test_a_pod_volume_is_named_by_its_claim_if_it_has_one(annotations, last):
    spec, _ = await job_of(ready_world(), pod_backup(annotations))
    assert spec.work.source.path == f"snapshot-pod-volume/kopia/shop/web-0/{last}"
    assert spec.work.tags == POD_TAGS and spec.work.parent == NewestParent(tags=POD_TAGS)
    assert spec.work.pins == ("velero-pin",)


@pytest.mark.parametrize("make", [upload, pod_backup])
@pytest.mark.parametrize(
    ("wanted", "kind"), [("auto", NewestParent), ("none", NoParent), (SNAPSHOT, GivenParent), ("0123", NoParent)]
)
async def test_the_object_says_what_is_compared_with(make, wanted, kind):
    spec, _ = await job_of(ready_world(), make(parent_snapshot=wanted))
    assert isinstance(spec.work.parent, kind)


async def test_block_volumes_are_read_and_written_as_devices():
    world = ready_world()
    spec, _ = await job_of(world, upload(), VolumeMode.BLOCK)
    assert isinstance(spec.work, BackupBlock) and spec.work.velero and spec.work.pins == ("velero-pin",)
    spec, _ = await job_of(world, download(), VolumeMode.BLOCK)
    assert spec.work == RestoreBlock(snapshot=SNAPSHOT, target="/host/volume")


async def test_a_restore_reads_the_repository_of_the_namespace_that_was_backed_up():
    world = ready_world()
    for obj in (download(), pod_restore()):
        spec, _ = await job_of(world, obj)
        assert spec.work == RestoreTree(snapshot=SNAPSHOT, target="/host/volume")
        assert spec.location.prefix == "kopia/shop/"


@pytest.mark.parametrize("snapshot", ["", "0123", SNAPSHOT.upper(), SNAPSHOT + "\n", "../" + SNAPSHOT])
async def test_the_start_of_an_id_names_no_snapshot(snapshot):
    for obj in (download(snapshot_id=snapshot), pod_restore(snapshot_id=snapshot)):
        with pytest.raises(SnapshotNotFound):
            await job_of(ready_world(), obj)


@pytest.mark.check(38)
@pytest.mark.parametrize(
    ("wishes", "parallel"),
    [({}, 0), ({"ParallelFilesUpload": "10"}, 10), ({"ParallelFilesUpload": "0"}, 0)]
    + [({"ParallelFilesUpload": text}, 0) for text in ("-1", "ten", "1.5", "9" * 30, "٣")]
    + [({"ParallelFilesUpload": "5000"}, 64), ({"Unknown": "x"}, 0), ({"ParallelFilesDownload": "3"}, 0)],
)
async def test_threads_of_a_backup_are_those_that_were_asked_for(wishes, parallel):
    for obj in (upload(data_mover_config=wishes), pod_backup(uploader_settings=wishes)):
        spec, _ = await job_of(ready_world(), obj)
        assert spec.parallel == parallel


@pytest.mark.check(38)
@pytest.mark.parametrize(
    ("wishes", "parallel", "sparse"),
    [
        ({}, 0, False),
        ({"ParallelFilesDownload": "7", "WriteSparseFiles": "true"}, 7, True),
        ({"WriteSparseFiles": "false"}, 0, False),
        ({"WriteSparseFiles": "maybe", "ParallelFilesDownload": "x"}, 0, False),
        ({"ParallelFilesUpload": "3"}, 0, False),
    ],
)
async def test_wishes_for_a_restore_are_followed(wishes, parallel, sparse):
    for obj in (download(data_mover_config=wishes), pod_restore(uploader_settings=wishes)):
        spec, _ = await job_of(ready_world(), obj)
        assert (spec.parallel, spec.work.sparse) == (parallel, sparse)


async def test_the_configuration_counts_as_it_is_when_the_job_begins():
    world = ready_world(jobs_at_once=lambda: 4)
    spec, _ = await job_of(world, upload())
    assert spec.limits == RateLimits() and not spec.work.keep_partial
    limits = AgentLimits(upload_bytes_per_second=400, download_bytes_per_second=80, requests_per_second=10)
    world.config = AgentConfig(keep_partial=True, limits=limits)
    spec, _ = await job_of(world, upload())
    assert spec.limits == RateLimits(upload_bytes=100, download_bytes=20, requests=2.5)
    assert spec.work.keep_partial


@pytest.mark.parametrize("name", ["..", "a/b", "", "a\n", "x" * 300])
async def test_a_name_that_no_object_can_have_becomes_no_source(name):
    for obj in (upload(source_pvc=name), pod_backup(volume=name), pod_backup({"velero.io/pvc-name": name or "/"})):
        with pytest.raises(SourceNotFound):
            await job_of(ready_world(), obj)


@pytest.mark.check(42)
async def test_a_location_that_is_read_only_takes_no_backup_and_serves_restores():
    world = ready_world(bucket(access_mode=AccessMode.READ_ONLY))
    for obj in (upload(), pod_backup()):
        with pytest.raises(LocationReadOnly, match="default"):
            await job_of(world, obj)
    for obj in (download(), pod_restore()):
        assert await job_of(world, obj)


async def test_a_location_that_does_not_exist_is_told_by_name():
    with pytest.raises(LocationNotFound, match="'nowhere'") as caught:
        await job_of(ready_world(), upload(backup_storage_location="nowhere"))
    assert not caught.value.retryable
    for name in ("../../secrets/x", "", "a/b"):
        with pytest.raises(LocationNotFound, match="cannot be the name"):
            await job_of(ready_world(), upload(backup_storage_location=name))


async def test_an_api_server_that_is_away_is_no_fault_of_the_location():
    world = ready_world()
    world.kube.outage(True)
    with pytest.raises(KubeUnavailable):
        await job_of(world, upload())


async def test_the_password_is_trimmed_and_missed_by_name():
    world = ready_world()
    world.put_secret("velero-repo-credentials", repository_password=b"  pass word\r\n")
    _, secrets = await job_of(world, upload())
    assert secrets.password == "pass word"
    world.put_secret("velero-repo-credentials", other=b"x")
    with pytest.raises(SecretMissing, match=r"velero-repo-credentials.*no key 'repository-password'"):
        await job_of(world, upload())
    world.put_secret("velero-repo-credentials", repository_password=b"\xff\xfe")
    with pytest.raises(SecretMissing, match="UTF-8"):
        await job_of(world, upload())
    await world.kube.delete(SECRETS, Key(VELERO, "velero-repo-credentials"))
    with pytest.raises(SecretAwaited, match="velero-repo-credentials"):
        await job_of(world, upload())


@pytest.mark.check(42)
async def test_certificates_come_from_either_place_but_not_from_both():
    spec, _ = await job_of(ready_world(bucket(ca_cert=PEM.encode())), upload())
    assert spec.location.ca_data == PEM
    ref = SecretKey(name="ca", key="ca.crt")
    world = ready_world(bucket(ca_cert_ref=ref))
    with pytest.raises(SecretAwaited, match="velero/ca, which holds the certificates"):
        await job_of(world, upload())
    world.put_secret("ca", **{"ca.crt": PEM.encode()})
    spec, _ = await job_of(world, upload())
    assert spec.location.ca_data == PEM
    with pytest.raises(LocationInvalid, match=r"caCert and objectStorage.caCertRef exclude"):
        await job_of(ready_world(bucket(ca_cert=PEM.encode(), ca_cert_ref=ref)), upload())
    with pytest.raises(LocationInvalid, match=r"objectStorage.caCert holds no certificates"):
        await job_of(ready_world(bucket(ca_cert=b"\x30\x82")), upload())


async def test_a_folder_needs_no_credentials():
    world = ready_world(folder("/mnt/backups"), environ={"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "B"})
    spec, secrets = await job_of(world, upload())
    assert spec.location.url == "file:///mnt/backups/kopia/shop/"
    assert secrets.access_key == "" and secrets.credentials == ""


async def test_secrets_are_in_no_text_of_a_job():
    spec, secrets = await job_of(ready_world(), upload())
    for text in (repr(spec), repr(secrets), msgspec.json.encode(spec).decode()):
        assert PASSWORD not in text and "wJalrXUtnFEMI" not in text


# ---- the repository ----


async def test_a_repository_that_is_missing_is_asked_for_once_and_waited_for():
    world = ready_world()
    await world.kube.delete(BACKUP_REPOSITORIES, Key(VELERO, "shop-default-kopia"))
    for _ in range(2):
        with pytest.raises(RepositoryNotReady, match="shop-default-kopia") as caught:
            await job_of(world, upload())
        assert caught.value.retryable
    raw = world.kube.raw(BACKUP_REPOSITORIES, Key(VELERO, "shop-default-kopia"))
    assert raw["spec"] == {
        "volumeNamespace": "shop",
        "backupStorageLocation": "default",
        "repositoryType": "kopia",
        "resticIdentifier": "",
        "maintenanceFrequency": "0s",
    }
    assert raw["metadata"]["labels"] == {
        "velero.io/volume-namespace": "shop",
        "velero.io/storage-location": "default",
        "velero.io/repository-type": "kopia",
    }
    assert [verb for verb, name in world.kube.requests if "backuprepositories" in name].count("create") == 1
    world.put_repository()
    assert await job_of(world, upload())


async def test_a_repository_that_the_server_cannot_use_fails_the_job_with_its_words():
    world = ready_world()
    world.put_repository(RepositoryPhase.NOT_READY, message="invalid repository password")
    with pytest.raises(RepositoryRefused, match="invalid repository password") as caught:
        await job_of(world, pod_backup())
    assert not caught.value.retryable


async def test_a_repository_under_an_older_name_is_found_by_its_labels():
    world = ready_world()
    await world.kube.delete(BACKUP_REPOSITORIES, Key(VELERO, "shop-default-kopia"))
    world.put_repository(RepositoryPhase.NEW, name="shop-default-kopia-abcde")
    world.put_repository(name="shop-default-kopia-fghij")
    assert await job_of(world, upload())


async def test_a_repository_of_another_with_the_name_that_is_needed_is_left_alone():
    world = ready_world()
    world.put_repository(volume_namespace="other")
    with pytest.raises(RepositoryRefused, match="is of the namespace other"):
        await job_of(world, upload())


async def test_two_agents_may_ask_for_the_same_repository():
    world = ready_world()
    await world.kube.delete(BACKUP_REPOSITORIES, Key(VELERO, "shop-default-kopia"))
    lost = KubeUnavailable("the answer was lost")
    world.kube.fail("create", BACKUP_REPOSITORIES.name, lost, after=True)
    with pytest.raises(KubeUnavailable):
        await job_of(world, upload())
    with pytest.raises(RepositoryNotReady):
        await job_of(world, upload())


async def test_an_api_server_that_does_not_know_the_roles_yet_says_nothing_of_the_location():
    world = ready_world()
    world.kube.fail("get", BACKUP_STORAGE_LOCATIONS.name, KubeForbidden("the role is not known"))
    with pytest.raises(KubeForbidden):
        await job_of(world, upload())
    assert await job_of(world, upload())


@pytest.mark.parametrize("verb", ["list", "create"])
async def test_an_agent_that_may_not_ask_for_a_repository_says_so(verb):
    world = ready_world()
    await world.kube.delete(BACKUP_REPOSITORIES, Key(VELERO, "shop-default-kopia"))
    world.kube.denied.add((verb, BACKUP_REPOSITORIES.name))
    with pytest.raises(KubeForbidden, match=BACKUP_REPOSITORIES.name):
        await job_of(world, upload())


async def test_a_warning_is_told_once_for_each_object_however_often_it_is_looked_at():
    world = ready_world(bucket({"regoin": "x"}))
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            await job_of(world, upload(data_mover_config={"ParallelFilesUpload": "many"}))
    warnings = [line for line in logs if line["log_level"] == "warning"]
    assert sorted(line["event"][:20] for line in warnings) == ["ParallelFilesUpload ", "backup storage locat"]


async def test_every_secret_that_is_read_is_told_to_whoever_keeps_it_out_of_logs():
    hidden = []
    await job_of(ready_world(hide=hidden.extend), upload())
    assert PASSWORD in hidden and "wJalrXUtnFEMI" in hidden
