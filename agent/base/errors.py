"""The one error tree.

Every error that can reach a person is a leaf below `LighterageError`. A leaf has a stable `code` (it is the prefix of a
status message, the label of the error metric, and decides the exit status of the command), says whether trying again
can help (`retryable`), and is raised with one sentence that names what was tried and on what, plus
a hint what to do next.

Catch a branch (`StorageError`) where something can be done; never catch `Exception` to hide it.
"""

from __future__ import annotations

from typing import ClassVar


class LighterageError(Exception):
    """Root of the tree. `str(error)` is the sentence for the person, hint included."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    exit_status: ClassVar[int] = 1

    def __init_subclass__(cls, *, code: str, exit_status: int, retryable: bool = False) -> None:
        """Each class of the tree names its code and exit status where it is declared."""
        super().__init_subclass__()
        cls.code = code
        cls.exit_status = exit_status
        cls.retryable = retryable

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class ConfigurationError(LighterageError, code="configuration.invalid", exit_status=4):
    """The configuration of the agent, or of the way to its API server, cannot be used."""


class AgentSuperseded(LighterageError, code="agent.superseded", exit_status=5):
    """Another agent of the same node has taken over its work."""


class UsageError(LighterageError, code="usage", exit_status=2):
    """The caller asked for something that makes no sense: an option, a URL, a name."""


class CanceledError(LighterageError, code="canceled", exit_status=3):
    """The work was canceled by its owner before it ended."""


class StorageError(LighterageError, code="storage.failed", exit_status=10):
    """An object store or folder did not do what was asked."""


class BlobNotFound(StorageError, code="storage.blob-not-found", exit_status=11):
    """The named blob does not exist."""


class BlobExists(StorageError, code="storage.blob-exists", exit_status=11):
    """A blob of that name exists already and the put was conditional."""


class BlobIdInvalid(StorageError, code="storage.invalid-blob-id", exit_status=11):
    """A blob id that no store could hold: empty, too long, or with characters that lead elsewhere."""


class BlobTooShort(StorageError, code="storage.blob-too-short", exit_status=11):
    """The asked range reaches beyond the end of the blob."""


class BucketNotFound(StorageError, code="storage.no-such-bucket", exit_status=12):
    """The bucket or root folder does not exist."""


class AccessDenied(StorageError, code="storage.access-denied", exit_status=13):
    """The store refused these credentials or this operation."""


class CredentialsMissing(StorageError, code="storage.credentials-missing", exit_status=13):
    """No credentials were found where they are looked for."""


class TokenExpired(StorageError, code="storage.expired-token", exit_status=13):
    """The session token is no longer valid."""


class WrongRegion(StorageError, code="storage.wrong-region", exit_status=14):
    """The bucket lives in another region than the one configured."""


class StorageClockSkew(StorageError, code="storage.clock-skew", exit_status=14):
    """The store rejected the request because the local clock is off."""


class BadCertificate(StorageError, code="storage.bad-certificate", exit_status=15):
    """The TLS certificate of the endpoint is not trusted."""


class NameResolutionFailed(StorageError, code="storage.dns-failure", exit_status=15, retryable=True):
    """The host name of the endpoint cannot be resolved."""


class ConnectionRefused(StorageError, code="storage.connection-refused", exit_status=15, retryable=True):
    """Nothing listens at the endpoint."""


class StorageUnavailable(StorageError, code="storage.unavailable", exit_status=16, retryable=True):
    """The store is throttling, failing or silent; trying again can help."""

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after
        """Seconds the store asked to wait, when it said so."""


class OutOfSpace(StorageError, code="storage.out-of-space", exit_status=17):
    """The store or its file system has no room left."""


class StorageUnsupported(StorageError, code="storage.unsupported", exit_status=18):
    """The provider cannot do what was asked (retention, conditional put, an option)."""


class KubeError(LighterageError, code="kube.failed", exit_status=100):
    """The API server did not do what was asked."""


class KubeNotFound(KubeError, code="kube.not-found", exit_status=101):
    """The object, or its kind, does not exist."""


class KubeAlreadyExists(KubeError, code="kube.already-exists", exit_status=102):
    """An object of that name exists already."""


class KubeConflict(KubeError, code="kube.conflict", exit_status=102, retryable=True):
    """The object changed since it was read, or is another one of the same name; read it again and decide anew."""


class KubeGone(KubeError, code="kube.gone", exit_status=103, retryable=True):
    """The resource version or page is too old to go on from; list again."""


class KubeForbidden(KubeError, code="kube.forbidden", exit_status=104):
    """The service account lacks the right, or its token is not accepted."""


class KubeInvalid(KubeError, code="kube.invalid", exit_status=105):
    """The API server refused the object or the request as malformed."""


class KubeUnavailable(KubeError, code="kube.unavailable", exit_status=106, retryable=True):
    """The API server is unreachable, overloaded, failing or silent; trying again can help."""

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after
        """Seconds the API server asked to wait, when it said so."""


class KubeUnreadable(KubeError, code="kube.unreadable", exit_status=107):
    """An object does not have the shape that its kind has in any version we know."""


class ExposeError(LighterageError, code="expose.failed", exit_status=110):
    """A volume could not be made accessible, or could not be handed back."""


class SourceGone(ExposeError, code="expose.source-gone", exit_status=111):
    """The volume, claim, pod or snapshot that was to be moved does not exist (any more)."""


class SnapshotFailed(ExposeError, code="expose.snapshot-failed", exit_status=112):
    """The storage could not make or hand over the snapshot."""


class ProvisioningFailed(ExposeError, code="expose.provisioning-failed", exit_status=113):
    """The storage could not make the volume to read from or to write to."""


class PodUnschedulable(ExposeError, code="expose.unschedulable", exit_status=114):
    """No node can run the pod that mounts the volume."""


class PodBroken(ExposeError, code="expose.pod-failed", exit_status=115):
    """The pod that mounts the volume cannot start, or ended."""


class VolumeNotMounted(ExposeError, code="expose.not-mounted", exit_status=116):
    """The volume is not found among the node's pod volumes."""


class RebindFailed(ExposeError, code="expose.rebind-failed", exit_status=117):
    """The restored volume could not be given to the claim that waits for it."""


class DoneFileFailed(ExposeError, code="expose.done-file-failed", exit_status=117):
    """The pod that waits for its restored volume could not be told that it is complete."""


class ExposeTimeout(ExposeError, code="expose.timeout", exit_status=118):
    """The volume was not accessible in time."""


class NodeLost(ExposeError, code="expose.node-lost", exit_status=118):
    """Nobody looks after the work of a node any more, or no node ever did."""


class VolumeTakenAway(ExposeError, code="expose.taken-away", exit_status=118):
    """The pod that held the volume was deleted, or the volume unmounted, while its data was moved."""


class ExposeUnsupported(ExposeError, code="expose.unsupported", exit_status=119):
    """The volume is of a kind that this release cannot make accessible."""


class NameTaken(ExposeError, code="expose.name-taken", exit_status=119):
    """An object of somebody else has the name that one of ours has to have; it is left alone."""


class LocationError(LighterageError, code="location.failed", exit_status=120):
    """A backup storage location, or something that it refers to, cannot be used."""


class LocationNotFound(LocationError, code="location.not-found", exit_status=121):
    """The backup storage location does not exist or cannot be read."""


class LocationInvalid(LocationError, code="location.invalid", exit_status=122):
    """A field of a backup storage location, or a credentials file, holds what makes no sense there."""


class LocationUnsupported(LocationError, code="location.unsupported", exit_status=123):
    """The backup storage location is of a provider that this release does not know."""


class LocationReadOnly(LocationError, code="location.read-only", exit_status=124):
    """A backup is asked for into a backup storage location that only allows restores."""


class SecretMissing(LocationError, code="location.secret-missing", exit_status=125):
    """A Secret, or the key in it, does not exist, is empty, or cannot be read."""


class SecretAwaited(LocationError, code="location.secret-awaited", exit_status=125, retryable=True):
    """A Secret is not there at the moment, as while it is being replaced; it is looked for again."""


class RepositoryError(LighterageError, code="repository.failed", exit_status=30):
    """The repository, or something in it, is not as it has to be."""


class NotARepository(RepositoryError, code="repository.not-found", exit_status=31):
    """The location holds no repository."""


class RepositoryExists(RepositoryError, code="repository.exists", exit_status=31):
    """The location is not empty, so nothing is created there."""


class WrongPassword(RepositoryError, code="repository.wrong-password", exit_status=32):
    """The password does not open the repository."""


class RepositoryLocked(RepositoryError, code="repository.locked", exit_status=33, retryable=True):
    """Another client is upgrading the repository."""


class NewerFormat(RepositoryError, code="repository.newer-format", exit_status=34):
    """The repository has a format version that this release does not know."""


class RequiredFeatureUnknown(RepositoryError, code="repository.required-feature", exit_status=34):
    """The repository requires a feature that this release does not know."""


class AlgorithmUnsupported(RepositoryError, code="repository.unsupported-algorithm", exit_status=34):
    """A hash, cipher, splitter, compressor or key derivation that this release does not know."""


class CorruptFormat(RepositoryError, code="repository.corrupt-format", exit_status=35):
    """The format blob or `kopia.blobcfg` cannot be understood."""


class CorruptIndex(RepositoryError, code="repository.corrupt-index", exit_status=35):
    """An index blob is damaged."""


class CorruptContent(RepositoryError, code="repository.corrupt-content", exit_status=35):
    """A content does not decrypt, decompress or hash to what its id says."""


class CorruptManifest(RepositoryError, code="repository.corrupt-manifest", exit_status=35):
    """A manifest content or entry cannot be understood."""


class CorruptObject(RepositoryError, code="repository.corrupt-object", exit_status=35):
    """An object's list of contents, or its id, cannot be understood."""


class CorruptBlob(RepositoryError, code="repository.corrupt-blob", exit_status=35):
    """A blob that is neither format, index nor pack is damaged (session marker, maintenance schedule, log)."""


class ContentNotFound(RepositoryError, code="repository.content-not-found", exit_status=36):
    """No index names this content, or its pack is gone."""


class ManifestNotFound(RepositoryError, code="repository.manifest-not-found", exit_status=37):
    """No manifest has this id."""


class ClockDrift(RepositoryError, code="repository.clock-drift", exit_status=38):
    """The local clock and the storage clock are too far apart to write safely."""


class RepositoryReadOnly(RepositoryError, code="repository.read-only", exit_status=39):
    """Writing to this repository is not possible or not allowed."""


class WriteConflict(RepositoryError, code="repository.write-conflict", exit_status=39, retryable=True):
    """Other clients changed the repository so that this write would be lost; trying again can help."""


class RepositoryNotReady(RepositoryError, code="repository.not-ready", exit_status=40, retryable=True):
    """Velero's server has not opened or created the repository yet."""


class RepositoryRefused(RepositoryError, code="repository.refused", exit_status=41):
    """Velero's server could not open or create the repository."""


class VolumeError(LighterageError, code="volume.failed", exit_status=50):
    """A file tree or device could not be read or written."""


class SourceNotFound(VolumeError, code="volume.not-found", exit_status=51):
    """The path to back up does not exist."""


class SourceUnreadable(VolumeError, code="volume.unreadable", exit_status=51):
    """The path to back up exists but cannot be read."""


class TargetExists(VolumeError, code="volume.target-exists", exit_status=52):
    """Something is already where a restore wants to write."""


class UnsafeName(VolumeError, code="volume.unsafe-name", exit_status=53):
    """A stored name would lead out of the restore target."""


class VolumeOutOfSpace(VolumeError, code="volume.out-of-space", exit_status=54):
    """The target file system is full."""


class SnapshotError(LighterageError, code="snapshot.failed", exit_status=70):
    """Taking, reading or restoring a snapshot failed."""


class SnapshotNotFound(SnapshotError, code="snapshot.not-found", exit_status=71):
    """No snapshot has this id, or more than one matches."""


class PathNotInSnapshot(SnapshotError, code="snapshot.path-not-found", exit_status=71):
    """The snapshot has no entry at this path."""


class CorruptDirectory(SnapshotError, code="snapshot.corrupt-directory", exit_status=72):
    """A directory object cannot be understood."""


class PartialSnapshot(SnapshotError, code="snapshot.partial", exit_status=73):
    """The snapshot was saved, but some of its source could not be read."""


class PartialRestore(SnapshotError, code="snapshot.partial-restore", exit_status=74):
    """The restore went on to its end, but some entries could not be restored."""


class VerificationFailed(SnapshotError, code="snapshot.verification-failed", exit_status=75):
    """At least one file of a snapshot cannot be restored from this repository."""


class InvalidPolicy(SnapshotError, code="snapshot.invalid-policy", exit_status=76):
    """A policy manifest cannot be understood."""


class MoverError(LighterageError, code="mover.failed", exit_status=90):
    """A worker process that moves data did not do its job."""


class MoverCrashed(MoverError, code="mover.crashed", exit_status=91, retryable=True):
    """The worker ended without a result: a signal, an exit, a lost fork server."""


class MoverSilent(MoverError, code="mover.silent", exit_status=92, retryable=True):
    """The worker gave no sign of life for too long and was killed."""


class MoverOutOfMemory(MoverError, code="mover.out-of-memory", exit_status=93):
    """The worker needed more memory than it was allowed."""


class MoverUnavailable(MoverError, code="mover.unavailable", exit_status=94, retryable=True):
    """No worker could be started."""


class MoverUnsupported(MoverError, code="mover.unsupported", exit_status=96):
    """The object asks for a data mover, an uploader or a volume that this release does not do."""


class MoverProtocolError(MoverError, code="mover.protocol", exit_status=95):
    """What came from the other side of a worker's socket cannot be understood."""


class ControlError(LighterageError, code="control.failed", exit_status=80):
    """The control API of an agent did not do what was asked."""


class ControlUnreachable(ControlError, code="control.unreachable", exit_status=81, retryable=True):
    """Nobody answers at the address or socket of an agent, or it breaks off."""


class ControlDeadline(ControlError, code="control.deadline", exit_status=81, retryable=True):
    """The answer did not come within the time that the caller gave it."""


class ControlIncomplete(ControlError, code="control.incomplete", exit_status=89, retryable=True):
    """What an agent or its worker answered is not all of it, or not what was sent: counts or digest differ."""


class ControlUnauthenticated(ControlError, code="control.unauthenticated", exit_status=82):
    """The caller did not show who it is, or its token or certificate is not accepted (any more)."""


class ControlForbidden(ControlError, code="control.forbidden", exit_status=83):
    """The caller lacks the right to this method."""


class ControlJobNotFound(ControlError, code="control.job-not-found", exit_status=84):
    """There is no object of this kind and name."""


class ControlNotCancelable(ControlError, code="control.not-cancelable", exit_status=85):
    """The installed Velero does not know canceled objects of this kind."""


class ControlBusy(ControlError, code="control.busy", exit_status=86, retryable=True):
    """The agent does as much as it may for callers already."""


class ControlUnsupported(ControlError, code="control.unsupported", exit_status=87):
    """The agent does not know the method: it is of another release."""


class ControlJobFailed(ControlError, code="control.job-failed", exit_status=88):
    """The job that was watched has ended, and not well."""
