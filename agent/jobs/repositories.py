"""The BackupRepository of a namespace in a location: found, or asked for, and ready (contract §5.2).

Velero's server makes and opens the repository itself when it sees such an object, and looks after it from then on. So a
job that comes first makes the object, and every job waits until the server says that it is ready.
"""

from __future__ import annotations

from typing import Final

from agent.base.errors import (
    KubeAlreadyExists,
    NotARepository,
    RepositoryNotReady,
    RepositoryRefused,
)
from agent.kube.api import KubeApi
from agent.kube.backup_repository import BackupRepository, BackupRepositorySpec, RepositoryPhase
from agent.kube.meta import Key, ObjectMeta
from agent.kube.names import (
    REPOSITORY_TYPE_LABEL,
    STORAGE_LOCATION_LABEL,
    VOLUME_NAMESPACE_LABEL,
    is_dns_label,
    repository_name,
    valid_name,
)
from agent.kube.resource import BACKUP_REPOSITORIES
from agent.kube.selector import Selector

REPOSITORY_TYPE: Final = "kopia"
_SERVER_DECIDES: Final = "0s"
"""A frequency of maintenance that the server replaces by its own."""


class Repositories:
    """Those of Velero's namespace."""

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self._api = api
        self._namespace = namespace

    async def ensure(self, volume_namespace: str, storage_location: str) -> BackupRepository:
        """The one that is ready. May be called again and again; makes it once.

        Raises `RepositoryNotReady` while the server works on it, `RepositoryRefused` with the server's own words, and
        `KubeError`. An API server that has just started knows neither roles nor definitions for some seconds: what it
        forbids or does not find is for the caller to ask again.
        """
        found = await self._find(volume_namespace, storage_location)
        if found is None:
            found = await self._make(volume_namespace, storage_location)
        if found.status.phase is RepositoryPhase.READY:
            return found
        if found.status.phase is RepositoryPhase.NOT_READY:
            why = found.status.message or "it does not say why"
            raise RepositoryRefused(
                f"Velero's server cannot use the repository {found.key}: {why}",
                hint="it tries again every five minutes; correct the location or its credentials",
            )
        raise RepositoryNotReady(
            f"the repository {found.key} is not ready yet", hint="Velero's server creates or opens it"
        )

    async def require(self, volume_namespace: str, storage_location: str) -> BackupRepository:
        """One that is there, which is not made: `NotARepository` when there is none; else as `ensure`."""
        if not is_dns_label(volume_namespace) or await self._find(volume_namespace, storage_location) is None:
            raise NotARepository(
                f"there is no repository of the namespace {volume_namespace[:64]!r} in {storage_location}",
                hint="`kubectl -n velero get backuprepositories` lists them",
            )
        return await self.ensure(volume_namespace, storage_location)

    async def _find(self, volume_namespace: str, storage_location: str) -> BackupRepository | None:
        """By labels: older servers made up names. Of several, one that is ready."""
        labels = _labels(volume_namespace, storage_location)
        page = await self._api.list(BACKUP_REPOSITORIES, self._namespace, selector=Selector(labels=labels))
        wanted = [one for one in page.items if _is_of(one, volume_namespace, storage_location)]
        ready = [one for one in wanted if one.status.phase is RepositoryPhase.READY]
        return next(iter(ready or wanted), None)

    async def _make(self, volume_namespace: str, storage_location: str) -> BackupRepository:
        key = Key(self._namespace, repository_name(volume_namespace, storage_location))
        wanted = BackupRepository(
            api_version=BACKUP_REPOSITORIES.api_version,
            kind="BackupRepository",
            metadata=ObjectMeta(
                name=key.name, namespace=key.namespace, labels=_labels(volume_namespace, storage_location)
            ),
            spec=BackupRepositorySpec(
                volume_namespace=volume_namespace,
                backup_storage_location=storage_location,
                repository_type=REPOSITORY_TYPE,
                restic_identifier="",
                maintenance_frequency=_SERVER_DECIDES,
            ),
        )
        try:
            return await self._api.create(BACKUP_REPOSITORIES, wanted)
        except KubeAlreadyExists:
            there = await self._api.get(BACKUP_REPOSITORIES, key)
        if not _is_of(there, volume_namespace, storage_location):
            raise RepositoryRefused(
                f"the repository {key} is of the namespace {there.spec.volume_namespace} in the location"
                f" {there.spec.backup_storage_location}, although its name is that of {volume_namespace} in"
                f" {storage_location}",
                hint="delete that BackupRepository; Velero's server makes it anew",
            )
        return there


def _labels(volume_namespace: str, storage_location: str) -> dict[str, str]:
    return {
        VOLUME_NAMESPACE_LABEL: valid_name(volume_namespace),
        STORAGE_LOCATION_LABEL: valid_name(storage_location),
        REPOSITORY_TYPE_LABEL: REPOSITORY_TYPE,
    }


def _is_of(repository: BackupRepository, volume_namespace: str, storage_location: str) -> bool:
    spec = repository.spec
    return (
        spec.volume_namespace == volume_namespace
        and spec.backup_storage_location == storage_location
        and spec.repository_type in (REPOSITORY_TYPE, "")
    )
