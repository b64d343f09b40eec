"""Names and label keys that Velero and we agree on (contract §0.9, §1)."""

from __future__ import annotations

import hashlib
import re
from typing import Final

DATA_UPLOAD_DOWNLOAD_FINALIZER: Final = "velero.io/data-upload-download-finalizer"
POD_VOLUME_FINALIZER: Final = "velero.io/pod-volume-finalizer"

BACKUP_NAME_LABEL: Final = "velero.io/backup-name"
BACKUP_UID_LABEL: Final = "velero.io/backup-uid"
RESTORE_NAME_LABEL: Final = "velero.io/restore-name"
RESTORE_UID_LABEL: Final = "velero.io/restore-uid"
PVC_UID_LABEL: Final = "velero.io/pvc-uid"
POD_UID_LABEL: Final = "velero.io/pod-uid"
ASYNC_OPERATION_ID_LABEL: Final = "velero.io/async-operation-id"
EXPOSE_ON_GOING_LABEL: Final = "velero.io/expose-on-going"
DATA_UPLOAD_LABEL: Final = "velero.io/data-upload"
DATA_DOWNLOAD_LABEL: Final = "velero.io/data-download"
POD_VOLUME_BACKUP_LABEL: Final = "velero.io/pod-volume-backup"
POD_VOLUME_RESTORE_LABEL: Final = "velero.io/pod-volume-restore"
EXPOSER_POD_GROUP_LABEL: Final = "velero.io/exposer-pod-group"
DYNAMIC_PV_RESTORE_LABEL: Final = "velero.io/dynamic-pv-restore"
COPIED_FOR_BACKUP_LABEL: Final = "velero.io/backup-pvc-secret"
VOLUME_NAMESPACE_LABEL: Final = "velero.io/volume-namespace"
STORAGE_LOCATION_LABEL: Final = "velero.io/storage-location"
REPOSITORY_TYPE_LABEL: Final = "velero.io/repository-type"
PVC_NAME_ANNOTATION: Final = "velero.io/pvc-name"
JOB_UID_LABEL: Final = "lighterage.io/job-uid"
"""On everything that exposers make: the uid of the object it was made for, also where no owner can be named."""

MAX_LABEL_VALUE: Final = 63
_HASH_LENGTH = 6
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", re.ASCII)
_MAX_SUBDOMAIN = 253


def valid_name(name: str) -> str:
    """`name` as a label value: as it is up to 63 characters, else its first 57 and six digits of its SHA-256 (§0.9)."""
    if len(name) <= MAX_LABEL_VALUE:
        return name
    return name[: MAX_LABEL_VALUE - _HASH_LENGTH] + hashlib.sha256(name.encode()).hexdigest()[:_HASH_LENGTH]


def is_dns_label(name: str) -> bool:
    """Whether `name` is an RFC 1123 label: a namespace, a container, a volume."""
    return len(name) <= MAX_LABEL_VALUE and _DNS_LABEL.fullmatch(name) is not None


def is_dns_subdomain(name: str) -> bool:
    """Whether `name` is an RFC 1123 subdomain: what most objects are named."""
    return len(name) <= _MAX_SUBDOMAIN and all(_DNS_LABEL.fullmatch(part) is not None for part in name.split("."))


def repository_name(volume_namespace: str, storage_location: str) -> str:
    """The name of the `BackupRepository` of a namespace in a location (§1.6), from Velero 1.16 on."""
    return f"{volume_namespace}-{storage_location}-kopia"
