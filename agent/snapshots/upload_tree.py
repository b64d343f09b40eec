"""The walk: a tree into directory objects, one thread, without recursion.

Directories are walked depth first in kopia's order, subdirectories before files, and finished after everything below
them. What takes time (reading, hashing, sealing) is handed to `upload_file.py`; what comes back is applied strictly in
the order of the walk, from one queue, so that entries reach every directory in the order in which it has to list them,
and a directory is closed when its turn comes. The walk runs ahead of the queue's head by a bounded number of entries.

Because only this thread touches directories, a checkpoint (`checkpoint.py`) can be taken between any two steps.
Unreadable entries are counted and named, never the end of a run, except for the root and when the run is to fail fast.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, NoReturn

import msgspec

from agent import _native
from agent.base.errors import CanceledError, SourceUnreadable
from agent.repository.ids import ObjectId
from agent.snapshots.checkpoint import partial_tree
from agent.snapshots.compare import ParentDirectory, ReadObject
from agent.snapshots.directory_write import DirectoryObject, UploadSink
from agent.snapshots.ignore import DirectoryFilter, Exclusion, root_filter
from agent.snapshots.model import (
    FILE,
    INCOMPLETE_CANCELED,
    INCOMPLETE_CHECKPOINT,
    DirectorySummary,
    Entry,
    EntryError,
)
from agent.snapshots.policy import Policy, PolicyTree
from agent.snapshots.progress import Cancellation, UploadProgress
from agent.snapshots.upload_file import FileUploads, Stored
from agent.snapshots.upload_plan import FilePlan, Plans
from agent.snapshots.upload_state import (
    LINK_BITS,
    TYPE_BITS,
    Frame,
    RunStats,
    Span,
    add_files,
    directory_raw,
    root_entry,
)
from agent.volumes.attributes import Attributes, go_mode
from agent.volumes.tree_read import DirectoryReader, TreeEntry, Unreadable

BATCH_FILES = 256
BATCH_BYTES = 4 * 1024 * 1024
AHEAD_ENTRIES = 2 * BATCH_FILES
"""Entries that the walk may be ahead of what is done, for each thread that reads."""
_STORED = (stat.S_IFREG, stat.S_IFLNK)
_POLL = 0.2
_MAX_WARNINGS = 1000
_UNKNOWN_TYPE = "unknown or unsupported entry type"


class Run(msgspec.Struct, frozen=True):
    """What one run works with; everything is for the thread side."""

    sink: UploadSink
    uploads: FileUploads
    plans: Plans
    policies: PolicyTree
    read: ReadObject
    """Objects of earlier snapshots."""
    cancellation: Cancellation
    progress: UploadProgress
    random: Callable[[int], bytes]
    due: Callable[[], bool]
    """Whether it is time for a checkpoint."""
    save: Callable[[Entry], None]
    """Make a checkpoint of this root visible."""
    fail_fast: bool = False
    ignore_rules: bool = True
    left_out: frozenset[bytes] = frozenset()
    """Entries of the root that are no part of the volume, whatever the rules say."""


class _Batch:
    """Files that will be read together, each of at most `limit` bytes."""

    __slots__ = ("limit", "places", "plan", "size")

    def __init__(self, plan: FilePlan, limit: int) -> None:
        self.plan = plan
        self.limit = limit
        self.places: list[int] = []
        self.size = 0


class TreeUpload:
    """One walk of one tree."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._queue: deque[Span | Frame] = deque()
        self._ahead = 0
        self._most_ahead = AHEAD_ENTRIES * run.uploads.threads
        self._unclosed: dict[Frame, None] = {}
        self._root: Entry | None = None
        self.stats = RunStats()
        self.warnings: list[str] = []
        self.incomplete = ""
        """Why the tree is not whole, as its manifest has to say; empty when it is."""

    def upload(self, reader: DirectoryReader, name: bytes, parents: list[ObjectId]) -> Entry:
        """Walk from the root on; its entry. Raises `SourceUnreadable` for the root, and whatever ended the run."""
        root = self._frame(None, "", TreeEntry(name, reader.attributes), reader)
        root.filter = root_filter(self._run.policies, reader)
        root.parents = self._parents(parents)
        try:
            self._walk_all(root)
        except CanceledError:
            if not self._run.cancellation.is_canceled or self._run.cancellation.is_abandoned:
                raise
            self.incomplete = INCOMPLETE_CANCELED
            return self.partial(INCOMPLETE_CANCELED)
        _native.return_free_pages()  # what the walk needed, before the packs are sealed that are still open
        if self._root is None:
            raise AssertionError("the root was never closed")
        return self._root

    # ---- the walk ----

    def _walk_all(self, root: Frame) -> None:
        stack = [(root, self._walk(root))]
        while stack:
            frame, steps = stack[-1]
            try:
                child = next(steps, None)
            except OSError as error:
                if frame.parent is None:
                    text = os.fsdecode(frame.reader.path)
                    raise SourceUnreadable(f"cannot list {text!r}: {error.strerror}") from error
                frame.failure = error
                child = None
            if child is not None:
                stack.append((child, self._walk(child)))
                continue
            stack.pop()
            frame.parents = []
            self._queue.append(frame)
            self._ahead += 1
            self._drain(self._most_ahead)
        self._drain(0)

    def _walk(self, frame: Frame) -> Iterator[Frame]:
        """One directory: gives each subdirectory when it is to be walked."""
        self.stats.dir_count += 1
        self._run.progress.directories += 1
        self._run.progress.current = frame.path
        if frame.filter.is_cache and self._run.ignore_rules:
            self.stats.excluded_dir_count += 1
            self._run.progress.excluded_directories += 1
            return
        selective = self._run.ignore_rules and not frame.filter.keeps_everything
        left_out = self._run.left_out if frame.parent is None else frozenset()
        for batch in frame.reader.batches():
            self._check()
            names: list[bytes] = []
            attributes: list[Attributes] = []
            children: list[TreeEntry] = []
            for entry in batch:
                if entry.name in left_out:
                    continue
                if isinstance(entry, Unreadable):
                    self._fail(frame, entry.name, entry.reason, ignored=self._ignores_file_errors(frame))
                elif selective and (
                    why := frame.filter.excludes(entry.name, entry.attributes, frame.reader.attributes)
                ):
                    self._exclude(entry, why)
                elif (kind := entry.attributes.mode & TYPE_BITS) in _STORED:
                    names.append(entry.name)
                    attributes.append(entry.attributes)
                elif kind == stat.S_IFDIR:
                    children.append(entry)
                else:
                    self._special(frame, entry)
            ahead = frame.reader.directories_ahead([child.name for child in children])
            for place, entry in enumerate(children):
                ahead.reached(place)
                child = self._enter(frame, entry)
                if child is not None:
                    yield child
            if names:
                self._files(frame, names, attributes)
            self._drain(self._most_ahead)

    def _enter(self, frame: Frame, entry: TreeEntry) -> Frame | None:
        """A subdirectory that is to be walked; None when it cannot be read."""
        opened = frame.reader.open_directory(entry.name)
        if isinstance(opened, Unreadable):
            self.stats.dir_count += 1
            self._lost(frame, entry.name, opened, ignored=self._ignores_directory_errors(frame, entry.name))
            return None
        try:
            below = frame.filter.enter(entry.name, opened)
        except SourceUnreadable as error:
            opened.close()
            self.stats.dir_count += 1
            ignored = self._ignores_directory_errors(frame, entry.name)
            self._fail(frame, entry.name, error.message, ignored=ignored)
            return None
        child = self._frame(frame, frame.below(entry.name), entry, opened, below)
        child.parents = self._parents([obj for p in frame.parents if (obj := p.directory(entry.name)) is not None])
        return child

    def _frame(
        self,
        parent: Frame | None,
        path: str,
        entry: TreeEntry,
        reader: DirectoryReader,
        below: DirectoryFilter | None = None,
    ) -> Frame:
        run = self._run
        policy = run.policies.effective if below is None else below.tree.effective
        output = DirectoryObject(run.sink, run.plans.splitter, run.plans.metadata(policy), run.plans.lists(policy))
        frame = Frame(parent, path, entry, reader, output)
        if below is not None:
            frame.filter = below
        self._unclosed[frame] = None
        return frame

    def _parents(self, objects: list[ObjectId]) -> list[ParentDirectory]:
        return [ParentDirectory(obj, self._run.read, self.warn) for obj in dict.fromkeys(objects)]

    # ---- files ----

    def _special(self, frame: Frame, entry: TreeEntry) -> None:
        """A socket, pipe or device: kopia's format has no place for it."""
        self._run.progress.special += 1
        if self._policy(frame).error_handling.ignore_unknown_types is False:
            self._fail(frame, entry.name, _UNKNOWN_TYPE, ignored=False)

    def _files(self, frame: Frame, names: list[bytes], attributes: list[Attributes]) -> None:
        """A run of files and links."""
        span = Span(frame, names, attributes)
        for parent in frame.parents:
            parent.match(names, span.prefixes, attributes, span.raws)
        new = [i for i, raw in enumerate(span.raws) if raw is None]
        cached = len(names) - len(new)
        if cached:
            size = sum(span.sizes) - sum(span.sizes[i] for i in new)
            self.stats.cached_files += cached
            self.stats.total_size += size
            self._run.progress.done(cached, cached=cached, cached_bytes=size)
        if new:
            self._store(span, new)
        frame.spans.append(span)
        self._queue.append(span)
        self._ahead += len(names)

    def _store(self, span: Span, new: list[int]) -> None:
        """Have the files and links at these places read and written."""
        uploads, reader, policy = self._run.uploads, span.frame.reader, self._policy(span.frame)
        links: list[int] = []
        empty: dict[FilePlan, list[int]] = {}
        small: dict[FilePlan, _Batch] = {}
        middling: dict[FilePlan, _Batch] = {}
        plans, names, attributes, sizes = self._run.plans, span.names, span.attributes, span.sizes
        for_all = plans.every_file(policy)

        def send(batch: _Batch) -> None:
            chosen, wanted, plan = batch.places, [names[i] for i in batch.places], batch.plan
            if batch.limit == plan.small_limit:
                job = uploads.small(reader, wanted, plan.small_limit, batch.size + plan.small_limit, plan)
            else:
                job = uploads.middling(reader, wanted, [sizes[i] for i in chosen], plan)
            span.jobs.append((chosen, job))
            batch.places, batch.size = [], 0

        for i in new:
            size = sizes[i]
            if attributes[i].mode & TYPE_BITS == LINK_BITS:
                links.append(i)
                continue
            plan = for_all or plans.file(policy, names[i], size)
            if not size and reader.is_known_empty(attributes[i]):
                empty.setdefault(plan, []).append(i)
                continue
            batch = small.get(plan)
            if batch is None:
                batch = small[plan] = _Batch(plan, plan.small_limit)
                middling[plan] = _Batch(plan, plan.middling_limit)
            if size > batch.limit:
                batch = middling[plan]
                self._run.progress.current = span.frame.below(names[i])
            if size > batch.limit:
                span.large.append((i, uploads.large(reader, names[i], size, plan)))
                continue
            batch.places.append(i)
            batch.size += size
            if len(batch.places) >= BATCH_FILES or batch.size >= BATCH_BYTES:
                send(batch)
        self.stats.non_cached_files += len(new) - len(links)
        for batch in (*small.values(), *middling.values()):
            if batch.places:
                send(batch)
        for plan, chosen in empty.items():
            obj = uploads.empty(plan)
            self._take(span, chosen, [Stored(obj, 0, 1, attributes[i]) for i in chosen])
        for start in range(0, len(links), BATCH_FILES):
            chosen = links[start : start + BATCH_FILES]
            span.jobs.append((chosen, uploads.links(reader, [span.names[i] for i in chosen])))

    # ---- the queue ----

    def _drain(self, ahead: int) -> None:
        """Apply what is done, from the head on, and wait while the walk is more than `ahead` entries in front."""
        while self._queue:
            head = self._queue[0]
            if isinstance(head, Frame):
                self._queue.popleft()
                self._ahead -= 1
                self._close(head)
                continue
            while (pending := self._collect(head)) is not None:
                if self._ahead <= ahead:
                    return
                self._wait(pending)
            self._queue.popleft()
            self._ahead -= len(head.names)
            self._apply(head)

    def _collect(self, span: Span) -> Future[Any] | None:
        """Take in the results that are there; what has to be waited for, None when that is nothing."""
        while span.jobs:
            chosen, job = span.jobs[0]
            if not job.done():
                return job
            span.jobs.popleft()
            self._take(span, chosen, job.result())
        while span.large:
            i, file = span.large[0]
            if not file.result.done():
                return file.result
            span.large.popleft()
            self._take(span, [i], [file.result.result()])
        return None

    def _take(self, span: Span, places: list[int], results: list[Stored | Unreadable | None]) -> None:
        """Files have been read, or not."""
        done = parts = size = 0
        for i, stored in zip(places, results, strict=True):
            if stored is None:
                self._has_grown(span, i)
                continue
            if isinstance(stored, Unreadable):
                self._lost(span.frame, span.names[i], stored, ignored=self._ignores_file_errors(span.frame))
                continue
            done += 1
            before, after = span.attributes[i], stored.attributes
            prefix = span.prefixes[i]
            if stored.size != before.size:
                span.sizes[i] = stored.size
                kind = "s" if after is None else FILE
                mode = go_mode(before.mode)
                prefix = _native.entry_prefix(
                    span.names[i], kind.encode(), mode, stored.size, before.mtime_ns, before.uid, before.gid
                )
            span.raws[i] = prefix + stored.obj.encode() + b'"}'
            if after is not None:
                parts += stored.parts
                size += stored.size
                if after.mtime_ns != before.mtime_ns or stored.size != before.size:
                    self.warn(f"{span.frame.below(span.names[i])} changed while it was read")
        self.stats.file_count += parts
        self.stats.total_size += size
        self._run.progress.done(done)

    def _has_grown(self, span: Span, i: int) -> None:
        """Since the directory was read: what was small is read as large."""
        name, size = span.names[i], span.sizes[i]
        plan = self._run.plans.file(self._policy(span.frame), name, size)
        span.large.append((i, self._run.uploads.large(span.frame.reader, name, size, plan)))

    def _apply(self, span: Span) -> None:
        """Put the files of a span into their directory."""
        frame = span.frame
        frame.spans.remove(span)
        raws = add_files(frame.tally, span)
        if raws:
            frame.output.add(b",".join(raws))

    def _close(self, frame: Frame) -> None:
        """A directory is done: write it, and give its entry to the one it is in."""
        if frame.parent is not None:
            frame.reader.close()
        if frame.failure is not None and frame.parent is not None:
            reason = Unreadable(frame.name, frame.failure.errno or errno.EIO)
            ignored = self._ignores_directory_errors(frame.parent, frame.name)
            self._lost(frame.parent, frame.name, reason, ignored=ignored)
        else:
            summary = frame.tally.summary(frame.mtime_ns)
            self._give(frame, frame.output.finish(summary), summary)
        del self._unclosed[frame]

    def _give(self, frame: Frame, obj: ObjectId, summary: DirectorySummary) -> None:
        if frame.parent is None:
            self._root = root_entry(frame, obj, summary)
        else:
            frame.parent.output.add(directory_raw(frame, obj, summary))
            frame.parent.tally.add_directory(summary, frame.mtime_ns)

    def _wait(self, pending: Future[Any]) -> None:
        """Until something is done; checkpoints and cancellation do not wait for it."""
        while not pending.done():
            try:
                pending.exception(_POLL)
            except TimeoutError:
                self._check()

    def _check(self) -> None:
        self._run.cancellation.check()
        if self._run.due():
            self._run.save(self.partial(INCOMPLETE_CHECKPOINT))

    def partial(self, reason: str) -> Entry:
        """The tree as it stands; the walk can go on."""
        return partial_tree(self._unclosed, reason, self._run.sink, self._run.random)

    # ---- what goes wrong ----

    def warn(self, text: str) -> None:
        """Something worth saying that does not make the snapshot a partial one."""
        self._run.progress.warnings += 1
        if len(self.warnings) < _MAX_WARNINGS:
            self.warnings.append(text)

    def _lost(self, frame: Frame, name: bytes, why: Unreadable, *, ignored: bool) -> None:
        if why.error == errno.ENOENT:
            self.warn(f"{frame.below(name)} vanished before it could be read")
        else:
            self._fail(frame, name, why.reason, ignored=ignored)

    def _fail(self, frame: Frame, name: bytes, reason: str, *, ignored: bool) -> None:
        path = frame.below(name)
        self._run.progress.errors += 1
        if ignored:
            self.stats.ignored_error_count += 1
        else:
            self.stats.error_count += 1
        frame.tally.add_error(EntryError(path, reason), ignored=ignored)
        if self._run.fail_fast and not ignored:
            _fail_fast(path, reason)

    def _exclude(self, entry: TreeEntry, why: Exclusion) -> None:
        """Count it for whoever watches; kopia's statistics know only what rules leave out."""
        directory = entry.attributes.is_directory
        if directory:
            self._run.progress.excluded_directories += 1
        else:
            self._run.progress.excluded_files += 1
        if why is Exclusion.LIMIT:
            return
        if directory:
            self.stats.excluded_dir_count += 1
        else:
            self.stats.excluded_file_count += 1
            self.stats.excluded_total_size += entry.attributes.size

    def _policy(self, frame: Frame) -> Policy:
        return frame.filter.tree.effective

    def _ignores_file_errors(self, frame: Frame) -> bool:
        return bool(self._policy(frame).error_handling.ignore_file_errors)

    def _ignores_directory_errors(self, frame: Frame, name: bytes) -> bool:
        policy = frame.filter.tree.child(os.fsdecode(name)).effective
        return bool(policy.error_handling.ignore_directory_errors)


def _fail_fast(path: str, reason: str) -> NoReturn:
    raise SourceUnreadable(
        f"cannot read {path!r}: {reason}", hint="without --fail-fast the snapshot is saved without it"
    )
