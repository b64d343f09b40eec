"""Velero's namespace as a job finds it: a location, its Secrets, a repository that is ready, and the four kinds."""

import random

import msgspec

from agent.jobs.objects import ObjectJobs
from agent.kube.agent_config import AgentConfig
from agent.kube.backup_repository import (
    BackupRepository,
    BackupRepositorySpec,
    BackupRepositoryStatus,
    RepositoryPhase,
)
from agent.kube.backup_storage_location import (
    AccessMode,
    BackupStorageLocation,
    BackupStorageLocationSpec,
    ObjectStorage,
    SecretKey,
)
from agent.kube.cluster import Secret
from agent.kube.codec import encode
from agent.kube.data_download import DataDownload, DataDownloadSpec, TargetVolume
from agent.kube.data_upload import CsiSnapshotSpec, DataUpload, DataUploadSpec
from agent.kube.job import PodReference
from agent.kube.meta import Key, ObjectMeta
from agent.kube.names import REPOSITORY_TYPE_LABEL, STORAGE_LOCATION_LABEL, VOLUME_NAMESPACE_LABEL
from agent.kube.pod_volume_backup import PodVolumeBackup, PodVolumeBackupSpec
from agent.kube.pod_volume_restore import PodVolumeRestore, PodVolumeRestoreSpec
from agent.kube.resource import BACKUP_REPOSITORIES, BACKUP_STORAGE_LOCATIONS, SECRETS
from agent.testing.clock import VirtualClock
from agent.testing.fake_kube import FakeKube

VELERO = "velero"
PASSWORD = "correct-horse-battery-staple"
KEYS = b"[default]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = wJalrXUtnFEMI\n"
SNAPSHOT = "0123456789abcdef0123456789abcdef"
OPERATION = "du-" + "a" * 54 + "123456"


class World:
    """One namespace, one agent."""

    def __init__(self, config=None, environ=None, **options):
        self.clock = VirtualClock()
        self.kube = FakeKube(self.clock, random.Random(1))
        self.config = config or AgentConfig()
        self.environ = environ or {}
        self.jobs = ObjectJobs(
            self.kube, VELERO, self.clock, lambda: self.config, environ=self.environ, cache_dir="/cache", **options
        )

    def put_secret(self, name, **data):
        values = {key.replace("_", "-"): value for key, value in data.items()}
        obj = Secret(
            api_version="v1",
            kind="Secret",
            metadata=ObjectMeta(name=name, namespace=VELERO, uid=f"uid-{name}"),
            data=values,
        )
        self.kube.put_raw(SECRETS, encode(obj))

    def put_location(self, location):
        self.kube.put_raw(BACKUP_STORAGE_LOCATIONS, encode(location))

    def put_repository(self, phase=RepositoryPhase.READY, name="shop-default-kopia", message="", **spec):
        spec = {"volume_namespace": "shop", "backup_storage_location": "default", **spec}
        obj = BackupRepository(
            api_version="velero.io/v1",
            kind="BackupRepository",
            metadata=ObjectMeta(
                name=name,
                uid=f"uid-{name}",
                namespace=VELERO,
                labels={
                    VOLUME_NAMESPACE_LABEL: spec["volume_namespace"],
                    STORAGE_LOCATION_LABEL: spec["backup_storage_location"],
                    REPOSITORY_TYPE_LABEL: "kopia",
                },
            ),
            spec=BackupRepositorySpec(repository_type="kopia", maintenance_frequency="1h0m0s", **spec),
            status=BackupRepositoryStatus(phase=phase, message=message),
        )
        self.kube.put_raw(BACKUP_REPOSITORIES, encode(obj))

    async def drop_secret(self, name):
        await self.kube.delete(SECRETS, Key(VELERO, name))


def ready_world(location=None, **options):
    """Everything is there."""
    world = World(**options)
    world.put_location(location or bucket())
    world.put_secret("velero-repo-credentials", repository_password=f"{PASSWORD}\n".encode())
    world.put_secret("cloud", credentials=KEYS)
    world.put_repository()
    return world


def bucket(config=None, *, provider="aws", credential="cloud", access_mode=AccessMode.UNSET, **storage):
    return BackupStorageLocation(
        api_version="velero.io/v1",
        kind="BackupStorageLocation",
        metadata=ObjectMeta(name="default", namespace=VELERO),
        spec=BackupStorageLocationSpec(
            provider=provider,
            config=config or {},
            credential=SecretKey(name=credential, key="credentials") if credential else None,
            object_storage=ObjectStorage(**{"bucket": "backups", **storage}),
            access_mode=access_mode,
        ),
    )


def folder(path, **config):
    return bucket({"fspath": str(path), **config}, provider="fs", credential=None)


def upload(**spec):
    return DataUpload(
        api_version="velero.io/v2alpha1",
        kind="DataUpload",
        metadata=ObjectMeta(name="daily-x", namespace=VELERO, labels={"velero.io/async-operation-id": OPERATION}),
        spec=DataUploadSpec(
            **{
                "snapshot_type": "CSI",
                "csi_snapshot": CsiSnapshotSpec(volume_snapshot="vs", storage_class="sc"),
                "source_pvc": "data",
                "source_namespace": "shop",
                "backup_storage_location": "default",
                "operation_timeout": "10m0s",
                **spec,
            }
        ),
    )


def download(**spec):
    return DataDownload(
        api_version="velero.io/v2alpha1",
        kind="DataDownload",
        metadata=ObjectMeta(name="restore-x", namespace=VELERO),
        spec=DataDownloadSpec(
            **{
                "target_volume": TargetVolume(pvc="data", namespace="copy"),
                "backup_storage_location": "default",
                "snapshot_id": SNAPSHOT,
                "source_namespace": "shop",
                "operation_timeout": "10m0s",
                **spec,
            }
        ),
    )


def pod_backup(annotations=None, **spec):
    pod = PodReference(kind="Pod", namespace="shop", name="web-0", uid="u")
    return PodVolumeBackup(
        api_version="velero.io/v1",
        kind="PodVolumeBackup",
        metadata=ObjectMeta(name="pvb-x", namespace=VELERO, annotations=annotations or {}),
        spec=PodVolumeBackupSpec(
            **{
                "node": "node-a",
                "pod": pod,
                "volume": "html",
                "backup_storage_location": "default",
                "uploader_type": "kopia",
                **spec,
            }
        ),
    )


def pod_restore(**spec):
    return PodVolumeRestore(
        api_version="velero.io/v1",
        kind="PodVolumeRestore",
        metadata=ObjectMeta(name="pvr-x", namespace=VELERO),
        spec=PodVolumeRestoreSpec(
            **{
                "pod": PodReference(kind="Pod", namespace="copy", name="web-0", uid="u"),
                "volume": "html",
                "backup_storage_location": "default",
                "uploader_type": "kopia",
                "snapshot_id": SNAPSHOT,
                "source_namespace": "shop",
                **spec,
            }
        ),
    )


def without_storage(location):
    return msgspec.structs.replace(location, spec=msgspec.structs.replace(location.spec, object_storage=None))
