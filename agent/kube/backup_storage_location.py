"""BackupStorageLocation: a bucket, and how to get at it. We only read its spec (contract §1.7)."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from agent.kube.meta import KubeObject, View
from agent.kube.times import Time


class AccessMode(StrEnum):
    """Whether backups may be written there."""

    UNSET = ""
    READ_WRITE = "ReadWrite"
    READ_ONLY = "ReadOnly"


class LocationPhase(StrEnum):
    """Whether the server could reach the location."""

    EMPTY = ""
    AVAILABLE = "Available"
    UNAVAILABLE = "Unavailable"


class SecretKey(View, frozen=True, kw_only=True):
    """One key of a Secret in Velero's namespace."""

    name: str = ""
    key: str
    optional: bool | None = None


class ObjectStorage(View, frozen=True, kw_only=True):
    """The bucket. Setting both `ca_cert` (deprecated) and `ca_cert_ref` is a mistake of the user."""

    bucket: str
    prefix: str = ""
    ca_cert: bytes = b""
    ca_cert_ref: SecretKey | None = None


class BackupStorageLocationSpec(View, frozen=True, kw_only=True):
    """How to get at the bucket."""

    provider: str
    config: dict[str, str] = msgspec.field(default_factory=dict)
    credential: SecretKey | None = None
    object_storage: ObjectStorage | None = None
    default: bool = False
    access_mode: AccessMode = AccessMode.UNSET
    backup_sync_period: str | None = None
    validation_frequency: str | None = None


class BackupStorageLocationStatus(View, frozen=True, kw_only=True):
    """What the server found."""

    phase: LocationPhase = LocationPhase.EMPTY
    message: str = ""
    last_synced_time: Time | None = None
    last_validation_time: Time | None = None
    last_synced_revision: str = ""


class BackupStorageLocation(KubeObject, frozen=True, kw_only=True):
    """A bucket, and how to get at it."""

    spec: BackupStorageLocationSpec
    status: BackupStorageLocationStatus = BackupStorageLocationStatus()
