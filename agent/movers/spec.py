"""A job as data: everything that a worker has to know, and everything that it has to say in the end.

Controllers make a `JobSpec` and `Secrets`; the supervisor sends both over the worker's socket, never through argv or
environment. Everything here can be sent, compared and logged, but for `Secrets`, which shows nothing of itself.
Section numbers (§) refer to the repository format reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import msgspec

from agent.base.errors import UsageError
from agent.snapshots.model import Source
from agent.storage.limit import Limits
from agent.storage.s3_config import AUTO_REGION, S3Config

MAX_PARALLEL = 64


class OnExisting(Enum):
    """What becomes of files that are in the target of a restore already."""

    OVERWRITE = "overwrite"
    SKIP = "skip"
    FAIL = "fail"


class UrlLocation(msgspec.Struct, frozen=True, kw_only=True, tag="url"):
    """A repository where a storage URL says (`agent.storage.open`); URLs hold no secrets."""

    url: str


class S3Location(msgspec.Struct, frozen=True, kw_only=True, tag="s3"):
    """A repository in a bucket, field by field as `S3Config`; keys are in `Secrets`."""

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = AUTO_REGION
    path_style: bool | None = None
    profile: str = ""
    ca_data: str = ""
    insecure_skip_tls_verify: bool = False
    sse: str = ""
    sse_kms_key_id: str = ""
    storage_class: str = ""
    tags: tuple[tuple[str, str], ...] = ()
    checksum: str = ""


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """What must never be seen. `repr` shows nothing of it."""

    password: str
    """Of the repository, as it is used: white space already trimmed."""
    access_key: str = ""
    secret_key: str = ""
    session_token: str = ""
    credentials: str = ""
    """The text of an AWS credentials file, when keys come in that form."""
    proxy: str = ""
    """`http://[user:password@]host:port`."""
    sse_customer_key: bytes = b""
    trace_headers: str = ""
    """What a collector wants to be shown, as `OTEL_EXPORTER_OTLP_HEADERS` has it."""

    def __repr__(self) -> str:
        return "Secrets(…)"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return []


def s3_config(location: S3Location, secrets: Secrets, credentials_file: str) -> S3Config:
    """Both halves together. `credentials_file` is where the text of `secrets.credentials` can be read, or empty.

    Raises `UsageError`.
    """
    return S3Config(
        bucket=location.bucket,
        prefix=location.prefix,
        endpoint=location.endpoint,
        region=location.region,
        path_style=location.path_style,
        profile=location.profile,
        ca_data=location.ca_data,
        insecure_skip_tls_verify=location.insecure_skip_tls_verify,
        sse=location.sse,
        sse_kms_key_id=location.sse_kms_key_id,
        storage_class=location.storage_class,
        tags=location.tags,
        checksum=location.checksum,
        access_key=secrets.access_key,
        secret_key=secrets.secret_key,
        session_token=secrets.session_token,
        credentials_file=credentials_file,
        proxy=secrets.proxy,
        sse_customer_key=secrets.sse_customer_key,
    )


class RateLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker may ask of the store; bytes and requests a second, 0 for no limit. Can change while it works."""

    upload_bytes: float = 0
    download_bytes: float = 0
    requests: float = 0
    concurrency: int = 32
    paused: bool = False
    """Read, ask and send nothing at all, but stay."""

    def __post_init__(self) -> None:
        if not all(0 <= value < 1e15 for value in (self.upload_bytes, self.download_bytes, self.requests)):
            raise ValueError("rates are numbers from 0")
        if not 0 <= self.concurrency <= 4096:
            raise ValueError("requests at once are 0 to 4096")

    def for_storage(self) -> Limits:
        """The same as the storage takes it."""
        return Limits(
            upload_bytes=self.upload_bytes,
            download_bytes=self.download_bytes,
            requests=self.requests,
            concurrency=self.concurrency,
        )


class NewestParent(msgspec.Struct, frozen=True, kw_only=True, tag="newest"):
    """Compare with the newest complete snapshot of the source and what a broken run left after it (§10.5, §14.9)."""

    tags: Mapping[str, str] | None = None
    """Only among snapshots that carry all of these."""


class GivenParent(msgspec.Struct, frozen=True, kw_only=True, tag="given"):
    """Compare with this snapshot only."""

    snapshot: str


class NoParent(msgspec.Struct, frozen=True, tag="none"):
    """Read everything."""


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """What backups of trees and of devices have in common."""

    path: str
    """What is read."""
    source: Source
    """What it is called in the repository."""
    description: str = ""
    tags: Mapping[str, str] = {}
    pins: tuple[str, ...] = ()
    velero: bool = False
    """Store as Velero's own data path does (§10.5, §10.7)."""


class BackupTree(Backup, frozen=True, kw_only=True, tag="backup-tree"):
    """Back up a folder."""

    parent: NewestParent | GivenParent | NoParent = NewestParent()
    keep_partial: bool = False
    """Whether a snapshot in which something is missing because it could not be read stays in the repository.

    Otherwise everything is read to the end, nothing is published, and the job fails with `snapshot.partial`.
    """


class BackupBlock(Backup, frozen=True, kw_only=True, tag="backup-block"):
    """Back up a device or image."""


class RestoreTree(msgspec.Struct, frozen=True, kw_only=True, tag="restore-tree"):
    """Restore a snapshot, or what lies at `subpath` in it, into a folder."""

    snapshot: str
    """Full id, or a unique start of one."""
    target: str
    subpath: tuple[str, ...] = ()
    on_existing: OnExisting = OnExisting.OVERWRITE
    delete_extra: bool = False
    sparse: bool = False
    sync: bool = True


class RestoreBlock(msgspec.Struct, frozen=True, kw_only=True, tag="restore-block"):
    """Restore the one file of a block snapshot to a device or image."""

    snapshot: str
    target: str
    overwrite: bool = True
    """An image that is there already; a device always is."""


class ListSnapshots(msgspec.Struct, frozen=True, kw_only=True, tag="list-snapshots"):
    """Newest first."""

    source: str = ""
    """`user@host:/path`; empty: of any source."""
    after: tuple[int, str] | None = None
    """Only those behind this `SnapshotItem.key`."""
    limit: int


class ListFolder(msgspec.Struct, frozen=True, kw_only=True, tag="list-folder"):
    """What lies in a folder of a snapshot, in stored order."""

    snapshot: str
    path: tuple[bytes, ...] = ()
    skip: int = 0
    limit: int


class ReadFile(msgspec.Struct, frozen=True, kw_only=True, tag="read-file"):
    """The bytes of a file, or the target of a link."""

    snapshot: str
    path: tuple[bytes, ...]


class Verify(msgspec.Struct, frozen=True, kw_only=True, tag="verify"):
    """Whether a snapshot can be restored."""

    snapshot: str
    files_percent: float = 100.0


Question = ListSnapshots | ListFolder | ReadFile | Verify


class Look(msgspec.Struct, frozen=True, kw_only=True, tag="look"):
    """Look into a repository for somebody who listens at a Unix socket: `agent.movers.answers` says what goes over it.

    The worker goes no faster than the listener takes it. It ends with a `RestoreResult` whose target is the listener:
    `files` are the answers.
    """

    question: Question
    listener: str
    """The path of the socket."""


Work = BackupTree | BackupBlock | RestoreTree | RestoreBlock | Look


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One job."""

    id: str
    """For logs and messages: the name of the object that asked for it."""
    work: Work
    location: UrlLocation | S3Location
    parallel: int = 0
    """Threads; 0: as policies say, else as many as processors."""
    limits: RateLimits = RateLimits()
    cache_dir: str = ""
    """Shared by all jobs of a node; empty: unnamed temporary files."""
    index_cache_bytes: int = 2 << 30
    pack_cache_bytes: int = 1 << 30
    username: str = "default"
    hostname: str = "default"
    """Who writes, in session markers (§8.6)."""
    heartbeat: float = 1.0
    """Seconds between two messages of progress, also when nothing moves."""
    traceparent: str = ""
    """What the spans of this job are a part of; without a valid one there are none."""

    def __post_init__(self) -> None:
        if not 0.01 <= self.heartbeat <= 60:
            raise ValueError("a heartbeat comes every 0.01 to 60 seconds")
        if not 0 <= self.parallel <= MAX_PARALLEL:
            raise ValueError(f"a job has at most {MAX_PARALLEL} threads")


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What a job has done so far."""

    bytes_done: int = 0
    """Of the volume: read, taken over unread, or written."""
    bytes_total: int | None = None
    """An estimate, once there is one."""
    files_done: int = 0
    files_total: int | None = None
    bytes_cached: int = 0
    """The part of `bytes_done` that was taken over from the parent unread."""
    errors: int = 0
    current: str = ""
    """What was begun last."""


class BackupResult(msgspec.Struct, frozen=True, kw_only=True, tag="backup"):
    """A snapshot that is durable."""

    snapshot: str
    """Its id."""
    incomplete: str = ""
    """`canceled` when the job was canceled: such a snapshot only speeds up the next one."""
    total_bytes: int
    """Of the source."""
    incremental_bytes: int
    """The same without the files that were taken over from the parent unread; before deduplication. 0 for devices."""
    uploaded_bytes: int
    """What the store was given."""
    files: int
    errors: int
    """Entries that are missing; only with `keep_partial`."""
    warnings: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()


class RestoreResult(msgspec.Struct, frozen=True, kw_only=True, tag="restore"):
    """A target that is complete."""

    bytes: int
    """Of files, written in this run."""
    files: int
    """Files and links, with those that were there already."""
    directories: int
    downloaded_bytes: int
    denied: int
    """Entries whose owner, mode or time could not be set."""
    warnings: tuple[str, ...] = ()


JobResult = BackupResult | RestoreResult


class JobError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job failed: a leaf of the error tree as data."""

    code: str
    message: str
    hint: str = ""


def check_result(work: Work, result: JobResult) -> None:
    """Raise `UsageError` when a result is not one of this kind of work."""
    if isinstance(work, Backup) != isinstance(result, BackupResult):
        raise UsageError(f"a {type(result).__name__} is no result of a {type(work).__name__}")
