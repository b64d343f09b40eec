"""Kinds of objects as the API server names them, each with the typed view of its objects."""

from __future__ import annotations

from typing import Generic

import msgspec

from agent.kube.backup_repository import BackupRepository
from agent.kube.backup_storage_location import BackupStorageLocation
from agent.kube.cluster import Event, Lease, Node, PriorityClass, Secret, ServiceAccount
from agent.kube.codec import ObjectT
from agent.kube.custom_resources import CustomResourceDefinition
from agent.kube.data_download import DataDownload
from agent.kube.data_upload import DataUpload
from agent.kube.meta import ConfigMap
from agent.kube.pod_volume_backup import PodVolumeBackup
from agent.kube.pod_volume_restore import PodVolumeRestore
from agent.kube.pods import DaemonSet, Pod
from agent.kube.snapshots import VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent
from agent.kube.volumes import (
    CSIDriver,
    PersistentVolume,
    PersistentVolumeClaim,
    StorageClass,
    VolumeAttachment,
)


class Resource(msgspec.Struct, Generic[ObjectT], frozen=True):
    """One kind. Velero's own have no status subresource (contract §0.1): their status is patched with the object."""

    group: str
    version: str
    plural: str
    view: type[ObjectT]
    namespaced: bool = True
    status_subresource: bool = False

    @property
    def api_version(self) -> str:
        """As objects carry it: `velero.io/v1`, `v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def name(self) -> str:
        """For people and access reviews: `datauploads.velero.io`, `configmaps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str = "", name: str = "") -> str:
        """The URL path of the collection or of one object, below the API server's root."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        return "/" + "/".join([*parts, name] if name else parts)


DATA_UPLOADS = Resource("velero.io", "v2alpha1", "datauploads", DataUpload)
DATA_DOWNLOADS = Resource("velero.io", "v2alpha1", "datadownloads", DataDownload)
POD_VOLUME_BACKUPS = Resource("velero.io", "v1", "podvolumebackups", PodVolumeBackup)
POD_VOLUME_RESTORES = Resource("velero.io", "v1", "podvolumerestores", PodVolumeRestore)
BACKUP_REPOSITORIES = Resource("velero.io", "v1", "backuprepositories", BackupRepository)
BACKUP_STORAGE_LOCATIONS = Resource("velero.io", "v1", "backupstoragelocations", BackupStorageLocation)
CONFIG_MAPS = Resource("", "v1", "configmaps", ConfigMap)
SECRETS = Resource("", "v1", "secrets", Secret)
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", ServiceAccount)
EVENTS = Resource("", "v1", "events", Event)
PODS = Resource("", "v1", "pods", Pod, status_subresource=True)
NODES = Resource("", "v1", "nodes", Node, namespaced=False, status_subresource=True)
PERSISTENT_VOLUME_CLAIMS = Resource("", "v1", "persistentvolumeclaims", PersistentVolumeClaim, status_subresource=True)
PERSISTENT_VOLUMES = Resource(
    "", "v1", "persistentvolumes", PersistentVolume, namespaced=False, status_subresource=True
)
DAEMON_SETS = Resource("apps", "v1", "daemonsets", DaemonSet, status_subresource=True)
LEASES = Resource("coordination.k8s.io", "v1", "leases", Lease)
PRIORITY_CLASSES = Resource("scheduling.k8s.io", "v1", "priorityclasses", PriorityClass, namespaced=False)
STORAGE_CLASSES = Resource("storage.k8s.io", "v1", "storageclasses", StorageClass, namespaced=False)
VOLUME_ATTACHMENTS = Resource(
    "storage.k8s.io", "v1", "volumeattachments", VolumeAttachment, namespaced=False, status_subresource=True
)
CSI_DRIVERS = Resource("storage.k8s.io", "v1", "csidrivers", CSIDriver, namespaced=False)
VOLUME_SNAPSHOTS = Resource("snapshot.storage.k8s.io", "v1", "volumesnapshots", VolumeSnapshot, status_subresource=True)
VOLUME_SNAPSHOT_CONTENTS = Resource(
    "snapshot.storage.k8s.io",
    "v1",
    "volumesnapshotcontents",
    VolumeSnapshotContent,
    namespaced=False,
    status_subresource=True,
)
VOLUME_SNAPSHOT_CLASSES = Resource(
    "snapshot.storage.k8s.io", "v1", "volumesnapshotclasses", VolumeSnapshotClass, namespaced=False
)
CUSTOM_RESOURCE_DEFINITIONS = Resource(
    "apiextensions.k8s.io",
    "v1",
    "customresourcedefinitions",
    CustomResourceDefinition,
    namespaced=False,
    status_subresource=True,
)
