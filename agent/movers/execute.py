"""One job, done by the engine: open the store and the repository, back up or restore, say what came of it.

`worker.run_job` calls this in a worker process or a mover pod; it knows nothing of messages. Progress may be read at
any time, `cancel` and `set_limits` may be called at any time, all on the event loop.
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from agent.base.clock import Clock
from agent.base.errors import CanceledError, PartialSnapshot, SnapshotError, SnapshotNotFound
from agent.base.hold import Hold
from agent.movers.look import look
from agent.movers.protocol import Metric
from agent.movers.spec import (
    Backup,
    BackupBlock,
    BackupResult,
    BackupTree,
    GivenParent,
    JobResult,
    JobSpec,
    Look,
    NewestParent,
    NoParent,
    Progress,
    RateLimits,
    RestoreBlock,
    RestoreResult,
    RestoreTree,
    S3Location,
    Secrets,
    s3_config,
)
from agent.observe.tracing import Stage, untimed
from agent.repository.ids import ManifestId
from agent.repository.repository import OpenOptions, Repository
from agent.repository.writer import RepositoryWriter
from agent.snapshots.model import Entry, Snapshot
from agent.snapshots.progress import Cancellation, UploadProgress
from agent.snapshots.restore import RestoreOptions, restore
from agent.snapshots.restore_device import restore_device
from agent.snapshots.restore_report import RestoreReport
from agent.snapshots.store import find_snapshot, forget_snapshots
from agent.snapshots.tree import find_entry
from agent.snapshots.upload import UploadOptions, UploadResult, upload_tree
from agent.snapshots.upload_device import upload_device
from agent.snapshots.velero_policy import set_velero_policy
from agent.storage.meter import LATENCY_BOUNDS
from agent.storage.open import StorageOptions, StorageStack, open_s3_storage, open_storage
from agent.storage.retry import RetryPolicy
from agent.volumes.tree_write import Existing

_NAMED = 100
"""Warnings in a result."""
_TEXT = 1_024
"""Characters of each, and of a path in progress."""
_DEVICE_THREADS = 2
_SAVE_WITHIN = 45.0
"""Seconds; the supervisor kills a canceled job after a minute."""
_RETRY = RetryPolicy(attempts=60, quick_attempts=60, total=600.0)
"""A store that is away for some minutes does not cost a job what it has done, nor its start: Velero's server has opened
the repository before there was a job, so the address is right."""


class Execution:
    """One run of one job."""

    def __init__(self, spec: JobSpec, secrets: Secrets, clock: Clock, stage: Stage = untimed) -> None:
        """`stage` is told of `open`, then of `upload`, `restore` or `look`."""
        self._spec = spec
        self._stage = stage
        self._secrets = secrets
        self._clock = clock
        self._limits = spec.limits
        self._storage: StorageStack | None = None
        self._cache_lookups: Callable[[], Mapping[tuple[str, str], int]] = dict
        self._writer: RepositoryWriter | None = None
        self._upload: UploadProgress | None = None
        self._report = RestoreReport()
        self._whole: Entry | None = None
        self._hold = Hold()
        self._hold.set(closed=spec.limits.paused)
        self._cancellation = Cancellation(self._hold)
        self._canceled: str | None = None
        self._saving = False
        """Whether a canceled job still has something to save."""
        self._task: asyncio.Task[JobResult] | None = None

    async def run(self) -> JobResult:
        """Do it. Raises the leaves of the error tree: what the engine raises, `CanceledError`, `PartialSnapshot`.

        A canceled backup is a result: a snapshot that is `incomplete`.
        """
        self._task = asyncio.create_task(self._run())
        if self._canceled is not None:
            self._task.cancel()
        try:
            return await self._task
        except asyncio.CancelledError:
            if self._canceled is None or not self._task.cancelled():
                self._task.cancel()
                raise
            raise CanceledError(f"the job was canceled{self._canceled and ': '}{self._canceled}") from None

    def cancel(self, reason: str = "") -> None:
        """End soon: a backup saves what it has as an incomplete snapshot, everything else just ends."""
        if self._canceled is not None:
            return
        self._canceled = reason
        self._hold.set(closed=False)  # what was paused still has to save what it has
        if self._saving:
            self._cancellation.cancel()
        elif self._task is not None:
            self._task.cancel()

    async def set_limits(self, limits: RateLimits) -> None:
        """From now on. A canceled job is not paused."""
        self._limits = limits
        self._hold.set(closed=limits.paused and self._canceled is None)
        if self._storage is not None:
            await self._storage.set_limits(limits.for_storage())

    def progress(self) -> Progress:
        """Where it is."""
        return self._restored() if self._upload is None else _uploaded(self._upload)

    def metrics(self) -> list[Metric]:
        """Counters of the store, the caches and the writer, and the memory of this process, as they stand."""
        found = [Metric(name="memory_bytes", value=_resident_bytes())]
        if self._storage is None:
            return found
        totals = self._storage.snapshot()
        by_operation: dict[str, list[int]] = {}
        for (operation, outcome), sums in totals.operations.items():
            labels = {"operation": operation, "outcome": outcome}
            found.append(Metric(name="storage_requests", labels=labels, value=sums.count))
            found.append(Metric(name="storage_bytes", labels=labels, value=sums.bytes))
            found.append(Metric(name="storage_seconds", labels=labels, value=sums.seconds))
            before = by_operation.setdefault(operation, [0] * len(sums.latency))
            by_operation[operation] = [a + b for a, b in zip(before, sums.latency, strict=True)]
        for operation, counts in by_operation.items():
            found += _latency(operation, counts)
        for (operation, code), count in totals.retries.items():
            found.append(Metric(name="storage_retries", labels={"operation": operation, "code": code}, value=count))
        for (cache, outcome), count in self._cache_lookups().items():
            found.append(Metric(name="cache_lookups", labels={"cache": cache, "outcome": outcome}, value=count))
        if self._writer is not None:
            written = self._writer.stats
            found.append(Metric(name="deduplicated_bytes", value=written.bytes_in - written.bytes_new))
        return found

    async def _run(self) -> JobResult:
        work = self._spec.work
        options = OpenOptions(
            cache_dir=Path(self._spec.cache_dir) if self._spec.cache_dir else None,
            index_cache_bytes=self._spec.index_cache_bytes,
            pack_cache_bytes=self._spec.pack_cache_bytes,
            read_only=not isinstance(work, Backup),
            username=self._spec.username,
            hostname=self._spec.hostname,
            clock=self._clock,
        )
        async with AsyncExitStack() as opened:
            with self._stage("open"):
                storage = await opened.enter_async_context(self._open_storage())
                opening = Repository.open(storage, self._secrets.password, options=options)
                repository = await opened.enter_async_context(opening)
                self._cache_lookups = repository.cache_lookups
            if isinstance(work, Backup):
                with self._stage("upload"):
                    return await self._back_up(repository, storage, work)
            if isinstance(work, Look):
                with self._stage("look"):
                    return await look(repository, work)
            with self._stage("restore"):
                return await self._restore(repository, storage, work)

    @asynccontextmanager
    async def _open_storage(self) -> AsyncIterator[StorageStack]:
        options = StorageOptions(limits=self._limits.for_storage(), retry=_RETRY, clock=self._clock, hold=self._hold)
        location, descriptor = self._spec.location, -1
        try:
            if isinstance(location, S3Location):
                path = ""
                if self._secrets.credentials:
                    descriptor, path = _in_memory(self._secrets.credentials)
                config = s3_config(location, self._secrets, path)
                storage = await open_s3_storage(config, options=options)
            else:
                storage = await open_storage(location.url, options=options)
            try:
                self._storage = storage
                if storage.limits != self._limits.for_storage():  # changed while it was opened
                    await storage.set_limits(self._limits.for_storage())
                yield storage
            finally:
                await storage.close()
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    # ---- backup ----

    async def _back_up(
        self, repository: Repository, storage: StorageStack, work: BackupTree | BackupBlock | Backup
    ) -> BackupResult:
        options, warnings = self._upload_options(repository, work)
        self._upload = upload = UploadProgress()
        run = upload_tree if isinstance(work, BackupTree) else upload_device
        async with repository.writer() as writer:
            self._writer = writer
            if work.velero:
                await set_velero_policy(repository, writer, work.source, parallel=self._spec.parallel)
            self._saving = True
            result = await run(
                repository,
                writer,
                work.source,
                work.path,
                options=options,
                progress=upload,
                cancellation=self._cancellation,
            )
            self._saving = False
            partial = result.errors and not result.snapshot.incomplete
            if partial and not (isinstance(work, BackupTree) and work.keep_partial):
                await _unpublish(writer, result.snapshot)
                raise PartialSnapshot(
                    f"{_unread(result, work.path)}, no snapshot was kept{_first(result)}",
                    hint="make them readable, leave them out, or allow partial snapshots",
                )
            if partial:
                warnings.insert(0, f"{_unread(result, work.path)} and are missing in the snapshot{_first(result)}")
        total = result.snapshot.stats.total_size
        incremental = max(total - upload.bytes_cached, 0) if isinstance(work, BackupTree) else 0  # §13.6
        return BackupResult(
            snapshot=result.snapshot.id,
            incomplete=result.snapshot.incomplete,
            total_bytes=total,
            incremental_bytes=incremental,
            uploaded_bytes=storage.snapshot().bytes("put"),
            files=upload.files,
            errors=result.errors,
            warnings=_bounded([*warnings, *result.warnings]),
            parents=result.parents,
        )

    def _upload_options(self, repository: Repository, work: Backup) -> tuple[UploadOptions, list[str]]:
        parent = work.parent if isinstance(work, BackupTree) else NoParent()
        warnings: list[str] = []
        given: ManifestId | None = None
        if isinstance(parent, GivenParent):
            try:
                given = find_snapshot(repository.manifests, parent.snapshot).id
            except SnapshotNotFound as error:  # as Velero does: everything is read (§10.5)
                warnings.append(f"everything was read, because the parent is not there: {error.message}")
                parent = NoParent()
        options = UploadOptions(
            description=work.description,
            tags=work.tags,
            pins=work.pins,
            parallel=self._spec.parallel,
            full=isinstance(parent, NoParent),
            parent=given,
            parent_tags=parent.tags if isinstance(parent, NewestParent) else None,
            velero=work.velero,
            save_within=_SAVE_WITHIN,
        )
        return options, warnings

    # ---- restore ----

    async def _restore(
        self, repository: Repository, storage: StorageStack, work: RestoreTree | RestoreBlock
    ) -> RestoreResult:
        snapshot = find_snapshot(repository.manifests, work.snapshot)
        if snapshot.root is None:
            raise SnapshotError(f"the snapshot {snapshot.id} has no root, there is nothing to restore")
        if isinstance(work, RestoreBlock):
            self._whole = snapshot.root
            await restore_device(
                repository,
                snapshot.root,
                work.target,
                overwrite=work.overwrite,
                parallel=self._spec.parallel or _DEVICE_THREADS,
                report=self._report,
                hold=self._hold,
            )
        else:
            self._whole = await find_entry(repository.objects, snapshot.root, work.subpath)
            options = RestoreOptions(
                existing=Existing(work.on_existing.value),
                delete_extra=work.delete_extra,
                sparse=work.sparse,
                parallel=self._spec.parallel,
                sync=work.sync,
            )
            await restore(repository, self._whole, work.target, options=options, report=self._report, hold=self._hold)
        report = self._report
        return RestoreResult(
            bytes=report.bytes,
            files=_files(report),
            directories=report.directories,
            downloaded_bytes=storage.snapshot().bytes("get"),
            denied=report.denied,
            warnings=_bounded([f"{w.path or '/'}: {w.message}" for w in report.warnings]),
        )

    def _restored(self) -> Progress:
        report, whole = self._report, self._whole
        known = None if whole is None else whole.summ
        partly = bool(report.skipped or report.resumed)
        total = None if whole is None or partly else known.size if known else whole.size
        return Progress(
            bytes_done=report.bytes,
            bytes_total=total,
            files_done=_files(report),
            files_total=known.files + known.symlinks if known else None,
            errors=report.failed,
        )


def _uploaded(upload: UploadProgress) -> Progress:
    totals = upload.totals
    return Progress(
        bytes_done=upload.bytes_hashed + upload.bytes_cached,
        bytes_total=totals.bytes if totals else None,
        files_done=upload.files,
        files_total=totals.files if totals else None,
        bytes_cached=upload.bytes_cached,
        errors=upload.errors,
        current=_text(upload.current),
    )


def _latency(operation: str, counts: Sequence[int]) -> list[Metric]:
    """Requests by the upper bound of their duration; not cumulative, bounds without any left out."""
    bounds = [*map(str, LATENCY_BOUNDS), "+Inf"]
    return [
        Metric(name="storage_latency", labels={"operation": operation, "le": le}, value=count)
        for le, count in zip(bounds, counts, strict=True)
        if count
    ]


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _files(report: RestoreReport) -> int:
    return report.files + report.symlinks + report.skipped + report.resumed


async def _unpublish(writer: RepositoryWriter, snapshot: Snapshot) -> None:
    await forget_snapshots(writer, [snapshot])
    await writer.flush()


def _unread(result: UploadResult, path: str) -> str:
    return f"{result.errors} entries of {path} could not be read"


def _first(result: UploadResult) -> str:
    """The paths that the snapshot itself names."""
    summary = result.snapshot.root.summ if result.snapshot.root else None
    named = "; ".join(f"{e.path}: {e.error}" for e in (summary.errors if summary else ()))
    return f"; the first: {_text(named)}" if named else ""


def _bounded(texts: list[str]) -> tuple[str, ...]:
    """So few and so short that a result fits in a message."""
    more = [f"and {len(texts) - _NAMED} more"] if len(texts) > _NAMED else []
    return (*(_text(text) for text in texts[:_NAMED]), *more)


def _text(text: str) -> str:
    """Short, and something that can be encoded: names in volumes are any bytes."""
    return text[:_TEXT].encode("utf-8", "backslashreplace").decode()


def _in_memory(text: str) -> tuple[int, str]:
    """A file that exists in memory only, and a path to it for this process."""
    descriptor = os.memfd_create("credentials")
    os.write(descriptor, text.encode())
    return descriptor, f"/proc/self/fd/{descriptor}"
