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

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(LighterageError):
    """The caller asked for something that makes no sense: an option, a URL, a name."""

    code = "usage"
    exit_status = 2


class CanceledError(LighterageError):
    """The work was canceled by its owner before it ended."""

    code = "canceled"
    exit_status = 3


class StorageError(LighterageError):
    """An object store or folder did not do what was asked."""

    code = "storage.failed"
    exit_status = 10


class BlobNotFound(StorageError):
    """The named blob does not exist."""

    code = "storage.blob-not-found"
    exit_status = 11


class BlobExists(StorageError):
    """A blob of that name exists already and the put was conditional."""

    code = "storage.blob-exists"
    exit_status = 11


class BlobIdInvalid(StorageError):
    """A blob id that no store could hold: empty, too long, or with characters that lead elsewhere."""

    code = "storage.invalid-blob-id"
    exit_status = 11


class BlobTooShort(StorageError):
    """The asked range reaches beyond the end of the blob."""

    code = "storage.blob-too-short"
    exit_status = 11


class BucketNotFound(StorageError):
    """The bucket or root folder does not exist."""

    code = "storage.no-such-bucket"
    exit_status = 12


class AccessDenied(StorageError):
    """The store refused these credentials or this operation."""

    code = "storage.access-denied"
    exit_status = 13


class CredentialsMissing(StorageError):
    """No credentials were found where they are looked for."""

    code = "storage.credentials-missing"
    exit_status = 13


class TokenExpired(StorageError):
    """The session token is no longer valid."""

    code = "storage.expired-token"
    exit_status = 13


class WrongRegion(StorageError):
    """The bucket lives in another region than the one configured."""

    code = "storage.wrong-region"
    exit_status = 14


class StorageClockSkew(StorageError):
    """The store rejected the request because the local clock is off."""

    code = "storage.clock-skew"
    exit_status = 14


class BadCertificate(StorageError):
    """The TLS certificate of the endpoint is not trusted."""

    code = "storage.bad-certificate"
    exit_status = 15


class NameResolutionFailed(StorageError):
    """The host name of the endpoint cannot be resolved."""

    code = "storage.dns-failure"
    retryable = True
    exit_status = 15


class ConnectionRefused(StorageError):
    """Nothing listens at the endpoint."""

    code = "storage.connection-refused"
    retryable = True
    exit_status = 15


class StorageUnavailable(StorageError):
    """The store is throttling, failing or silent; trying again can help."""

    code = "storage.unavailable"
    retryable = True
    exit_status = 16

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after
        """Seconds the store asked to wait, when it said so."""


class OutOfSpace(StorageError):
    """The store or its file system has no room left."""

    code = "storage.out-of-space"
    exit_status = 17


class StorageUnsupported(StorageError):
    """The provider cannot do what was asked (retention, conditional put, an option)."""

    code = "storage.unsupported"
    exit_status = 18


class KubeError(LighterageError):
    """The API server did not do what was asked."""

    code = "kube.failed"
    exit_status = 100


class KubeNotFound(KubeError):
    """The object, or its kind, does not exist."""

    code = "kube.not-found"
    exit_status = 101


class KubeAlreadyExists(KubeError):
    """An object of that name exists already."""

    code = "kube.already-exists"
    exit_status = 102


class KubeConflict(KubeError):
    """The object changed since it was read, or is another one of the same name; read it again and decide anew."""

    code = "kube.conflict"
    retryable = True
    exit_status = 102


class KubeGone(KubeError):
    """The resource version or page is too old to go on from; list again."""

    code = "kube.gone"
    retryable = True
    exit_status = 103


class KubeForbidden(KubeError):
    """The service account lacks the right, or its token is not accepted."""

    code = "kube.forbidden"
    exit_status = 104


class KubeInvalid(KubeError):
    """The API server refused the object or the request as malformed."""

    code = "kube.invalid"
    exit_status = 105


class KubeUnavailable(KubeError):
    """The API server is unreachable, overloaded, failing or silent; trying again can help."""

    code = "kube.unavailable"
    retryable = True
    exit_status = 106

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after
        """Seconds the API server asked to wait, when it said so."""


class KubeUnreadable(KubeError):
    """An object does not have the shape that its kind has in any version we know."""

    code = "kube.unreadable"
    exit_status = 107


class RepositoryError(LighterageError):
    """The repository, or something in it, is not as it has to be."""

    code = "repository.failed"
    exit_status = 30


class NotARepository(RepositoryError):
    """The location holds no repository."""

    code = "repository.not-found"
    exit_status = 31


class RepositoryExists(RepositoryError):
    """The location is not empty, so nothing is created there."""

    code = "repository.exists"
    exit_status = 31


class WrongPassword(RepositoryError):
    """The password does not open the repository."""

    code = "repository.wrong-password"
    exit_status = 32


class RepositoryLocked(RepositoryError):
    """Another client is upgrading the repository."""

    code = "repository.locked"
    retryable = True
    exit_status = 33


class NewerFormat(RepositoryError):
    """The repository has a format version that this release does not know."""

    code = "repository.newer-format"
    exit_status = 34


class RequiredFeatureUnknown(RepositoryError):
    """The repository requires a feature that this release does not know."""

    code = "repository.required-feature"
    exit_status = 34


class AlgorithmUnsupported(RepositoryError):
    """A hash, cipher, splitter, compressor or key derivation that this release does not know."""

    code = "repository.unsupported-algorithm"
    exit_status = 34


class CorruptFormat(RepositoryError):
    """The format blob or `kopia.blobcfg` cannot be understood."""

    code = "repository.corrupt-format"
    exit_status = 35


class CorruptIndex(RepositoryError):
    """An index blob is damaged."""

    code = "repository.corrupt-index"
    exit_status = 35


class CorruptContent(RepositoryError):
    """A content does not decrypt, decompress or hash to what its id says."""

    code = "repository.corrupt-content"
    exit_status = 35


class CorruptManifest(RepositoryError):
    """A manifest content or entry cannot be understood."""

    code = "repository.corrupt-manifest"
    exit_status = 35


class CorruptObject(RepositoryError):
    """An object's list of contents, or its id, cannot be understood."""

    code = "repository.corrupt-object"
    exit_status = 35


class CorruptBlob(RepositoryError):
    """A blob that is neither format, index nor pack is damaged (session marker, maintenance schedule, log)."""

    code = "repository.corrupt-blob"
    exit_status = 35


class ContentNotFound(RepositoryError):
    """No index names this content, or its pack is gone."""

    code = "repository.content-not-found"
    exit_status = 36


class ManifestNotFound(RepositoryError):
    """No manifest has this id."""

    code = "repository.manifest-not-found"
    exit_status = 37


class ClockDrift(RepositoryError):
    """The local clock and the storage clock are too far apart to write safely."""

    code = "repository.clock-drift"
    exit_status = 38


class RepositoryReadOnly(RepositoryError):
    """Writing to this repository is not possible or not allowed."""

    code = "repository.read-only"
    exit_status = 39


class WriteConflict(RepositoryError):
    """Other clients changed the repository so that this write would be lost; trying again can help."""

    code = "repository.write-conflict"
    retryable = True
    exit_status = 39


class VolumeError(LighterageError):
    """A file tree or device could not be read or written."""

    code = "volume.failed"
    exit_status = 50


class SourceNotFound(VolumeError):
    """The path to back up does not exist."""

    code = "volume.not-found"
    exit_status = 51


class SourceUnreadable(VolumeError):
    """The path to back up exists but cannot be read."""

    code = "volume.unreadable"
    exit_status = 51


class TargetExists(VolumeError):
    """Something is already where a restore wants to write."""

    code = "volume.target-exists"
    exit_status = 52


class UnsafeName(VolumeError):
    """A stored name would lead out of the restore target."""

    code = "volume.unsafe-name"
    exit_status = 53


class VolumeOutOfSpace(VolumeError):
    """The target file system is full."""

    code = "volume.out-of-space"
    exit_status = 54


class SnapshotError(LighterageError):
    """Taking, reading or restoring a snapshot failed."""

    code = "snapshot.failed"
    exit_status = 70


class SnapshotNotFound(SnapshotError):
    """No snapshot has this id, or more than one matches."""

    code = "snapshot.not-found"
    exit_status = 71


class PathNotInSnapshot(SnapshotError):
    """The snapshot has no entry at this path."""

    code = "snapshot.path-not-found"
    exit_status = 71


class CorruptDirectory(SnapshotError):
    """A directory object cannot be understood."""

    code = "snapshot.corrupt-directory"
    exit_status = 72


class PartialSnapshot(SnapshotError):
    """The snapshot was saved, but some of its source could not be read."""

    code = "snapshot.partial"
    exit_status = 73


class PartialRestore(SnapshotError):
    """The restore went on to its end, but some entries could not be restored."""

    code = "snapshot.partial-restore"
    exit_status = 74


class VerificationFailed(SnapshotError):
    """At least one file of a snapshot cannot be restored from this repository."""

    code = "snapshot.verification-failed"
    exit_status = 75


class InvalidPolicy(SnapshotError):
    """A policy manifest cannot be understood."""

    code = "snapshot.invalid-policy"
    exit_status = 76


class MoverError(LighterageError):
    """A worker process that moves data did not do its job."""

    code = "mover.failed"
    exit_status = 90


class MoverCrashed(MoverError):
    """The worker ended without a result: a signal, an exit, a lost fork server."""

    code = "mover.crashed"
    retryable = True
    exit_status = 91


class MoverSilent(MoverError):
    """The worker gave no sign of life for too long and was killed."""

    code = "mover.silent"
    retryable = True
    exit_status = 92


class MoverOutOfMemory(MoverError):
    """The worker needed more memory than it was allowed."""

    code = "mover.out-of-memory"
    exit_status = 93


class MoverUnavailable(MoverError):
    """No worker could be started."""

    code = "mover.unavailable"
    retryable = True
    exit_status = 94


class MoverProtocolError(MoverError):
    """What came from the other side of a worker's socket cannot be understood."""

    code = "mover.protocol"
    exit_status = 95
