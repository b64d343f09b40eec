"""The four kinds as jobs: what `controllers` call `JobSource`.

    object -> location -> repository ready? -> credentials, certificates, password -> JobSpec and Secrets

Nothing is kept between two calls but when a Secret was first missed and which warnings were told: each job sees
location, Secrets and configuration as they are when it begins.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

import msgspec
import structlog

from agent.base.clock import Clock
from agent.base.errors import KubeNotFound, KubeUnreadable, LocationNotFound, LocationReadOnly
from agent.jobs.certificates import trusted_certificates
from agent.jobs.credentials import Credentials, find_credentials, proxy_with_password
from agent.jobs.limits import share
from agent.jobs.location import Backend, Located, backend_of, locate
from agent.jobs.password import repository_password
from agent.jobs.repositories import Repositories
from agent.jobs.secrets import SecretReader
from agent.jobs.settings import Settings, download_settings, upload_settings
from agent.jobs.source import (
    DESCRIPTION,
    IDENTITY,
    PINS,
    Named,
    of_data_upload,
    of_pod_volume_backup,
    snapshot_to_restore,
)
from agent.kube.agent_config import AgentConfig
from agent.kube.api import KubeApi
from agent.kube.backup_storage_location import AccessMode, BackupStorageLocation
from agent.kube.data_download import DataDownload
from agent.kube.data_upload import DataUpload
from agent.kube.meta import Key
from agent.kube.names import is_dns_subdomain
from agent.kube.pod_volume_backup import PodVolumeBackup
from agent.kube.pod_volume_restore import PodVolumeRestore
from agent.kube.resource import BACKUP_STORAGE_LOCATIONS
from agent.kube.volumes import VolumeMode
from agent.movers.failure import secret_words
from agent.movers.spec import (
    Backup,
    BackupBlock,
    BackupTree,
    JobSpec,
    Look,
    RestoreBlock,
    RestoreTree,
    S3Location,
    Secrets,
    UrlLocation,
    Work,
)

_MOST_WARNINGS = 1_000
"""That are remembered as told."""

_log = structlog.stdlib.get_logger(__name__)


class ObjectJobs:
    """Implements `agent.controllers.sources.JobSource`.

    All methods raise `LocationError` and its leaves, `RepositoryNotReady`, `RepositoryRefused`, `SourceNotFound`,
    `SnapshotNotFound`, and `KubeError`. What is `retryable` may heal by itself, and so may `KubeForbidden`: an API
    server that has just started refuses all until it knows the roles.
    """

    def __init__(
        self,
        api: KubeApi,
        namespace: str,
        clock: Clock,
        config: Callable[[], AgentConfig],
        *,
        environ: Mapping[str, str],
        cache_dir: str = "",
        jobs_at_once: Callable[[], int] = lambda: 1,
        hide: Callable[[Iterable[str]], None] = lambda _: None,
    ) -> None:
        """`namespace` is Velero's, `environ` the agent's, `cache_dir` a folder shared by all jobs (empty: none).

        `jobs_at_once` says among how many jobs the node's limits are shared; `hide` is told every secret that is read
        (`Logging.redaction.hide`).
        """
        self._api = api
        self._namespace = namespace
        self._config = config
        self._environ = environ
        self._cache_dir = cache_dir
        self._jobs_at_once = jobs_at_once
        self._hide = hide
        self._secrets = SecretReader(api, namespace, clock)
        self._repositories = Repositories(api, namespace)
        self._warned: OrderedDict[tuple[Key, str], None] = OrderedDict()

    async def data_upload(self, job: DataUpload, *, path: str, mode: VolumeMode) -> tuple[JobSpec, Secrets]:
        """A backup of a snapshot's volume."""
        spec, named = job.spec, of_data_upload(job)
        settings = upload_settings(spec.data_mover_config)
        work = self._backup(named, path, mode)
        self._warn(job.key, (*named.warnings, *settings.warnings))
        return await self._job(job.key, work, spec.backup_storage_location, spec.source_namespace, settings)

    async def data_download(self, job: DataDownload, *, path: str, mode: VolumeMode) -> tuple[JobSpec, Secrets]:
        """A restore into a new volume."""
        spec, settings = job.spec, download_settings(job.spec.data_mover_config)
        work = _restore(spec.snapshot_id, path, mode, settings)
        self._warn(job.key, settings.warnings)
        return await self._job(job.key, work, spec.backup_storage_location, spec.source_namespace, settings)

    async def pod_volume_backup(self, job: PodVolumeBackup, *, path: str, mode: VolumeMode) -> tuple[JobSpec, Secrets]:
        """A backup of a mounted volume."""
        spec, named = job.spec, of_pod_volume_backup(job)
        settings = upload_settings(spec.uploader_settings)
        work = self._backup(named, path, mode)
        self._warn(job.key, (*named.warnings, *settings.warnings))
        return await self._job(job.key, work, spec.backup_storage_location, spec.pod.namespace, settings)

    async def pod_volume_restore(
        self, job: PodVolumeRestore, *, path: str, mode: VolumeMode
    ) -> tuple[JobSpec, Secrets]:
        """A restore into a mounted volume."""
        spec, settings = job.spec, download_settings(job.spec.uploader_settings)
        work = _restore(spec.snapshot_id, path, mode, settings)
        self._warn(job.key, settings.warnings)
        return await self._job(job.key, work, spec.backup_storage_location, spec.source_namespace, settings)

    async def of_repository(
        self, work: Look | RestoreTree, *, volume_namespace: str, storage_location: str
    ) -> tuple[JobSpec, Secrets]:
        """Work that no object asks for, on a repository that is there: `NotARepository` when it is not."""
        await self._location(storage_location)
        await self._repositories.require(volume_namespace, storage_location)
        key = Key(self._namespace, f"{volume_namespace}-{storage_location}")
        return await self._job(key, work, storage_location, volume_namespace, Settings())

    # ---- parts ----

    async def _job(
        self, key: Key, work: Work, storage_location: str, volume_namespace: str, settings: Settings
    ) -> tuple[JobSpec, Secrets]:
        location = await self._location(storage_location)
        if isinstance(work, Backup) and location.spec.access_mode is AccessMode.READ_ONLY:
            raise LocationReadOnly(
                f"the backup storage location {storage_location} is read-only, no backup can be written to it",
                hint="set its accessMode to ReadWrite, or use another location",
            )
        certificates = await trusted_certificates(location, self._secrets)
        located = locate(location, volume_namespace, certificates)
        self._warn(key, located.warnings)
        credentials = Credentials()
        if backend_of(location) is Backend.S3:
            credentials = await find_credentials(location, self._secrets, self._environ)
        secrets = self._secrets_for(located, credentials, await repository_password(self._secrets))
        self._hide(secret_words(secrets))
        _log.debug("a job is made", object=str(key), location=storage_location, identity=credentials.origin)
        await self._repositories.ensure(volume_namespace, storage_location)
        spec = JobSpec(
            id=key.name,
            work=work,
            location=_with_profile(located, credentials),
            parallel=settings.parallel,
            limits=share(self._config().limits, self._jobs_at_once()),
            cache_dir=self._cache_dir,
            username=IDENTITY,
            hostname=IDENTITY,
        )
        return spec, secrets

    async def _location(self, name: str) -> BackupStorageLocation:
        if not is_dns_subdomain(name):  # a name with `/` would lead to another object
            raise LocationNotFound(f"{name[:64]!r} cannot be the name of a backup storage location")
        try:
            return await self._api.get(BACKUP_STORAGE_LOCATIONS, Key(self._namespace, name))
        except KubeNotFound:
            raise LocationNotFound(
                f"there is no backup storage location {name!r} in the namespace {self._namespace}",
                hint="create it, or restore from a backup in another location",
            ) from None
        except KubeUnreadable as error:
            raise LocationNotFound(f"the backup storage location {name!r} cannot be read: {error}") from error

    def _secrets_for(self, located: Located, credentials: Credentials, password: str) -> Secrets:
        return Secrets(
            password=password,
            access_key=credentials.access_key,
            secret_key=credentials.secret_key,
            session_token=credentials.session_token,
            credentials=credentials.text,
            proxy=proxy_with_password(self._environ, located.endpoint) if located.endpoint else "",
        )

    def _backup(self, named: Named, path: str, mode: VolumeMode) -> BackupTree | BackupBlock:
        if mode is VolumeMode.BLOCK:
            return BackupBlock(
                path=path, source=named.source, description=DESCRIPTION, tags=named.tags, pins=PINS, velero=True
            )
        return BackupTree(
            path=path,
            source=named.source,
            description=DESCRIPTION,
            tags=named.tags,
            pins=PINS,
            velero=True,
            parent=named.parent,
            keep_partial=self._config().keep_partial,
        )

    def _warn(self, key: Key, warnings: tuple[str, ...]) -> None:
        """Once for each object: a job is made again and again while it waits."""
        for warning in warnings:
            if (key, warning) not in self._warned:
                _log.warning(warning, object=str(key))
            self._warned[key, warning] = None
            self._warned.move_to_end((key, warning))
        while len(self._warned) > _MOST_WARNINGS:
            self._warned.popitem(last=False)


def _restore(snapshot_id: str, path: str, mode: VolumeMode, settings: Settings) -> RestoreTree | RestoreBlock:
    snapshot = snapshot_to_restore(snapshot_id)
    if mode is VolumeMode.BLOCK:
        return RestoreBlock(snapshot=snapshot, target=path)
    return RestoreTree(snapshot=snapshot, target=path, sparse=settings.sparse)


def _with_profile(located: Located, credentials: Credentials) -> S3Location | UrlLocation:
    location = located.location
    if isinstance(location, S3Location) and credentials.profile:
        return msgspec.structs.replace(location, profile=credentials.profile)
    return location
