"""Taking a snapshot: everything around the walk.

    policies, parents  →  walk in a thread (upload_tree, upload_file)  →  recheck  →  manifest, flush
                              checkpoints on the way (§14.8)

`upload_tree` is what the command and an agent call, on the event loop, with an open repository and a writer of it. The
walk runs in one thread with a few helpers; it comes back to the loop only to read directories of earlier snapshots that
are not cached and to make checkpoints visible.

Canceling: `Cancellation.cancel()` ends the walk within a second and saves what there is as an incomplete snapshot, if
the store takes it within `save_within`; canceling the task saves nothing more and ends within a second, also while the
store does not answer. Either way a later run resumes from the last checkpoint.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from agent.base.clock import Clock
from agent.base.errors import CanceledError
from agent.repository.ids import ManifestId
from agent.repository.repository import Repository
from agent.repository.writer import RepositoryWriter
from agent.snapshots.bridge import Bridge, object_reader
from agent.snapshots.model import DIRECTORY, INCOMPLETE_CHECKPOINT, Entry, Snapshot, Source, Stats
from agent.snapshots.policy import PolicyTree, policy_tree
from agent.snapshots.progress import Cancellation, Totals, UploadProgress
from agent.snapshots.recheck import revive_deleted
from agent.snapshots.store import (
    find_parents,
    find_snapshot,
    forget_snapshots,
    list_snapshots,
    save_snapshot,
    superseded,
)
from agent.snapshots.upload_file import FileUploads
from agent.snapshots.upload_plan import Plans
from agent.snapshots.upload_single import SingleFileUpload, is_single_file
from agent.snapshots.upload_tree import Run, TreeUpload
from agent.volumes.tree_read import open_directory

_T = TypeVar("_T")

CHECKPOINT_INTERVAL = 30 * 60.0
"""Seconds. Whatever a run deduplicated against has to be visible to others within 45 minutes (§14.6, §14.8)."""
RESTORE_HELPER_FOLDERS = frozenset({b".velero"})
_REFRESH_INTERVAL = 10 * 60.0
_MAX_THREADS = 16
_LEAVE_AFTER = 1.0


class UploadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a snapshot is taken."""

    description: str = ""
    tags: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Of the snapshot and of its checkpoints; `tag:` prefixes are the caller's business (§7.2)."""
    pins: tuple[str, ...] = ()
    parallel: int = 0
    """Threads that read, and as many that hash; 0: as the policy says, else one a processor."""
    fail_fast: bool = False
    """The first file that cannot be read ends the run, and nothing is saved."""
    full: bool = False
    """Compare with no earlier snapshot."""
    parent: ManifestId | None = None
    """Compare with this snapshot only."""
    parent_tags: Mapping[str, str] | None = None
    """Compare only with snapshots that carry these tags (§10.5)."""
    velero: bool = False
    """Store as Velero's adapter does: no compression of data and directories, the repository's own splitter (§10.5).

    A `.velero` in the root stays out: what Velero's restore helper left there would tell the next one that it is done.
    """
    ignore_rules: bool = True
    """Leave out what policies, dot-ignore files and cache tags say."""
    one_file_system: bool = False
    """Stay out of other file systems mounted below the root, whatever the policy says. Needs `ignore_rules`."""
    checkpoint_interval: float = CHECKPOINT_INTERVAL
    save_within: float = 10.0
    """Seconds that a canceled run may take to save what there is: a store that hangs is waited for no longer."""
    spill_folder: str | None = None
    """Where names of huge directories go; None: the system's folder for temporary files."""


class UploadResult(msgspec.Struct, frozen=True):
    """What came of it."""

    snapshot: Snapshot
    """As saved. `incomplete` is not empty when the run was canceled."""
    errors: int
    """Entries that are missing because they could not be read, ignored ones not counted; any make it partial."""
    warnings: tuple[str, ...]
    parents: tuple[ManifestId, ...]
    """What was compared with."""


class Walked(msgspec.Struct, frozen=True):
    """What the thread of a run brings back."""

    root: Entry
    stats: Stats
    incomplete: str = ""
    warnings: tuple[str, ...] = ()


async def upload_tree(
    repo: Repository,
    writer: RepositoryWriter,
    source: Source,
    path: str,
    *,
    options: UploadOptions | None = None,
    progress: UploadProgress | None = None,
    cancellation: Cancellation | None = None,
) -> UploadResult:
    """Back up the tree or file at `path` as `source`, save the snapshot, and tombstone incomplete ones it supersedes.

    Everything is flushed when it returns. Raises `SourceNotFound` and `SourceUnreadable` for the root (with
    `fail_fast` for any entry), `InvalidPolicy`, `CanceledError` when a canceled run could not be saved in time, and
    what the repository raises; then nothing was saved but checkpoints.
    """
    options = options or UploadOptions()
    run = UploadRun(repo, writer, source, options, progress=progress, cancellation=cancellation)
    parents, warnings = _choose_parents(repo, source, options)
    if parents and parents[0].root is not None and parents[0].root.summ is not None:
        run.progress.totals = Totals(parents[0].root.summ.files, parents[0].root.summ.size)
    roots = [snapshot.root for snapshot in parents if snapshot.root is not None]
    walk = _read_file if is_single_file(path) else _walk
    result = await run.do(lambda uploads, bridge: walk(run, path, roots, uploads, bridge), parents)
    return replace(result, warnings=(*warnings, *result.warnings), parents=tuple(parent.id for parent in parents))


def _read_file(run: UploadRun, path: str, parents: list[Entry], uploads: FileUploads, bridge: Bridge) -> Walked:
    upload = SingleFileUpload(
        run.writer,
        uploads,
        Plans(run.repo.format.splitter, run.repo.format.index_version, velero=run.options.velero),
        run.policies.effective,
        cancellation=run.cancellation,
        progress=run.progress,
        due=run.checkpoint_due,
        save=lambda root: bridge.call(run.save_checkpoint(root)),
    )
    done = upload.upload(path, root_name(path), parents)
    return Walked(done.root, done.stats, done.incomplete, done.warnings)


def _walk(run: UploadRun, path: str, parents: list[Entry], uploads: FileUploads, bridge: Bridge) -> Walked:
    repo, options = run.repo, run.options
    objects = [root.obj for root in parents if root.type == DIRECTORY and root.obj]
    with open_directory(path, spill_folder=options.spill_folder) as reader:
        tree = TreeUpload(
            Run(
                sink=run.writer,
                uploads=uploads,
                plans=Plans(repo.format.splitter, repo.format.index_version, velero=options.velero),
                policies=run.policies,
                read=object_reader(repo, bridge),
                cancellation=run.cancellation,
                progress=run.progress,
                random=os.urandom,
                due=run.checkpoint_due,
                save=lambda root: bridge.call(run.save_checkpoint(root)),
                fail_fast=options.fail_fast,
                ignore_rules=options.ignore_rules,
                left_out=RESTORE_HELPER_FOLDERS if options.velero else frozenset(),
            )
        )
        try:
            root = tree.upload(reader, root_name(path), objects)
        finally:
            uploads.close()
        return Walked(root, tree.stats.freeze(), tree.incomplete, tuple(tree.warnings))


def _on_one_file_system(policies: PolicyTree) -> PolicyTree:
    effective = policies.effective
    files = msgspec.structs.replace(effective.files, one_file_system=True)
    stricter = msgspec.structs.replace(effective, files=files)
    return replace(policies, effective=stricter, defined=stricter)


def load_policies(repo: Repository, source: Source) -> PolicyTree:
    """The policies that hold for a source. Raises `InvalidPolicy`."""
    found = repo.manifests.find({"type": "policy"})
    return policy_tree(((manifest.labels, bytes(manifest.data)) for manifest in found), source)


def _choose_parents(repo: Repository, source: Source, options: UploadOptions) -> tuple[list[Snapshot], tuple[str, ...]]:
    if options.full:
        return [], ()
    if options.parent is not None:
        return [find_snapshot(repo.manifests, options.parent)], ()
    known = list_snapshots(repo.manifests, source)
    return find_parents(known.snapshots, options.parent_tags), known.warnings


class UploadRun:
    """One backup, of a tree or of a device: its thread, its checkpoints, its end."""

    def __init__(
        self,
        repo: Repository,
        writer: RepositoryWriter,
        source: Source,
        options: UploadOptions,
        *,
        progress: UploadProgress | None = None,
        cancellation: Cancellation | None = None,
    ) -> None:
        """Raises `InvalidPolicy`."""
        self.repo = repo
        self.writer = writer
        self.options = options
        policies = load_policies(repo, source)
        self.policies = _on_one_file_system(policies) if options.one_file_system else policies
        self.progress = progress or UploadProgress()
        self.cancellation = cancellation or Cancellation()
        self._clock: Clock = repo.options.clock
        self.start_ns = self._clock.now_ns()
        self._prototype = Snapshot(
            source=source,
            description=options.description,
            start_ns=self.start_ns,
            end_ns=self.start_ns,
            root=None,
            tags=options.tags,
            pins=options.pins,
        )
        self._next_checkpoint = self._clock.monotonic() + options.checkpoint_interval
        self._checkpoint: Snapshot | None = None

    async def do(self, work: Callable[[FileUploads, Bridge], Walked], parents: Sequence[Snapshot] = ()) -> UploadResult:
        """`work` in a thread, then `finish`. Raises `CanceledError` `save_within` seconds after a cancelation."""
        return await self._until_patience_ends(self._walk_and_finish(work, parents))

    async def _walk_and_finish(
        self, work: Callable[[FileUploads, Bridge], Walked], parents: Sequence[Snapshot]
    ) -> UploadResult:
        return await self.finish(await self.in_thread(work), parents)

    async def _until_patience_ends(self, work: Awaitable[_T]) -> _T:
        loop, canceled = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(canceled.set)

        self.cancellation.listen(tell)

        async def patience() -> None:
            await canceled.wait()
            await self._clock.sleep(self.options.save_within)

        working = asyncio.ensure_future(work)
        tasks = working, asyncio.create_task(patience())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise CanceledError(
                f"the backup was canceled; what there was is not saved: {self.repo.storage.location} did not take it"
                f" within {self.options.save_within:g} seconds",
                hint="run the same backup again: it goes on from the last checkpoint, if there is one",
            )
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def in_thread(self, work: Callable[[FileUploads, Bridge], Walked]) -> Walked:
        """Run `work` in a thread; when this task is canceled, wait for it to let go, but for a second at most."""
        bridge = Bridge(self.cancellation)
        refresher = asyncio.create_task(_keep_fresh(self.repo, self._clock))
        thread = asyncio.ensure_future(asyncio.to_thread(self._work, work, bridge))
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            self.cancellation.abandon()
            await asyncio.wait([thread], timeout=_LEAVE_AFTER)
            thread.add_done_callback(lambda left: left.cancelled() or left.exception())
            raise
        finally:
            refresher.cancel()
            await asyncio.gather(refresher, return_exceptions=True)

    def _work(self, work: Callable[[FileUploads, Bridge], Walked], bridge: Bridge) -> Walked:
        wanted = self.options.parallel or self.policies.effective.upload.max_parallel_file_reads or 0
        threads = min(wanted if wanted > 0 else os.cpu_count() or 1, _MAX_THREADS)
        uploads = FileUploads(self.writer, self.cancellation, self.progress, threads)
        try:
            return work(uploads, bridge)
        finally:
            uploads.close()

    def checkpoint_due(self) -> bool:
        """Whether it is time for one. Either side."""
        return self._clock.monotonic() >= self._next_checkpoint

    async def save_checkpoint(self, root: Entry) -> None:
        """Make a partial tree visible, in place of the last checkpoint of this run (§14.8)."""
        before = self._checkpoint
        self._checkpoint = await save_snapshot(
            self.writer,
            msgspec.structs.replace(
                self._prototype,
                end_ns=self._clock.now_ns(),
                root=root,
                incomplete=INCOMPLETE_CHECKPOINT,
                description="",
                pins=(),
            ),
        )
        if before is not None:
            await self.repo.manifests.load()
            await forget_snapshots(self.writer, [before])
        await self.writer.flush()
        self._next_checkpoint = self._clock.monotonic() + self.options.checkpoint_interval

    async def finish(self, walked: Walked, parents: Sequence[Snapshot] = ()) -> UploadResult:
        """Save the snapshot: recheck (§14.6), manifest, tombstones (§14.8), flush.

        Where the policy ignores identical snapshots (§7.5), none is saved when the newest complete one of `parents`
        has the same root; the result is that one.
        """
        repo, writer = self.repo, self.writer
        if not walked.incomplete and (before := self._identical(walked.root, parents)) is not None:
            await writer.flush()
            warning = f"nothing was saved: snapshot {before.id} is identical, and the policy ignores identical ones"
            return UploadResult(before, walked.stats.error_count, (*walked.warnings, warning), ())
        if await writer.contents_deleted_since(self.start_ns):
            await writer.flush()
            await revive_deleted(repo, writer, walked.root)
        saved = await save_snapshot(
            writer,
            msgspec.structs.replace(
                self._prototype,
                end_ns=self._clock.now_ns(),
                root=walked.root,
                stats=walked.stats,
                incomplete=walked.incomplete,
                pins=() if walked.incomplete else self._prototype.pins,
            ),
        )
        if not saved.incomplete:
            await repo.manifests.load()
            known = list_snapshots(repo.manifests, saved.source)
            await forget_snapshots(writer, superseded([*known.snapshots, saved]))
        await writer.flush()
        await writer.compact_manifests()
        return UploadResult(saved, walked.stats.error_count, walked.warnings, ())

    def _identical(self, root: Entry, parents: Sequence[Snapshot]) -> Snapshot | None:
        if self.options.velero or not self.policies.effective.retention.ignore_identical_snapshots:
            return None
        before = next((snapshot for snapshot in parents if not snapshot.incomplete), None)
        return before if before is not None and before.root is not None and before.root.obj == root.obj else None


def root_name(path: str) -> bytes:
    """The name of a root entry: the last element of its path (§14.19)."""
    absolute = os.path.abspath(path)
    return os.fsencode(os.path.basename(absolute) or absolute)


async def _keep_fresh(repo: Repository, clock: Clock) -> None:
    """Long runs look at the index of others now and then (§8.5, point 4)."""
    while True:
        await clock.sleep(_REFRESH_INTERVAL)
        await repo.refresh_if_older()
