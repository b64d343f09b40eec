"""BackupRepository: one repository of one namespace in one location (contract §1.6).

The server's: we read it, and ask for one that is missing by making it."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from agent.kube.meta import KubeObject, View
from agent.kube.times import Time


class RepositoryPhase(StrEnum):
    """Whether the server could open the repository."""

    EMPTY = ""
    NEW = "New"
    READY = "Ready"
    NOT_READY = "NotReady"


class MaintenanceResult(StrEnum):
    """How a run of maintenance ended."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class BackupRepositorySpec(View, frozen=True, kw_only=True):
    """What the repository is for."""

    volume_namespace: str
    backup_storage_location: str
    repository_type: str = ""
    restic_identifier: str | msgspec.UnsetType = msgspec.UNSET
    """Older servers require it, empty."""
    maintenance_frequency: str
    repository_config: dict[str, str] = msgspec.field(default_factory=dict)


class MaintenanceRun(View, frozen=True, kw_only=True):
    """One of the last runs of maintenance."""

    result: MaintenanceResult | None = None
    start_timestamp: Time | None = None
    complete_timestamp: Time | None = None
    message: str = ""


class BackupRepositoryStatus(View, frozen=True, kw_only=True):
    """What the server found."""

    phase: RepositoryPhase = RepositoryPhase.EMPTY
    message: str = ""
    last_maintenance_time: Time | None = None
    recent_maintenance: tuple[MaintenanceRun, ...] = ()


class BackupRepository(KubeObject, frozen=True, kw_only=True):
    """One repository of one namespace in one location."""

    spec: BackupRepositorySpec
    status: BackupRepositoryStatus = BackupRepositoryStatus()
