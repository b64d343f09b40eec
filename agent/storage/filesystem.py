"""Blobs as files in a local or mounted folder, laid out as kopia does (§1.2).

A put writes a temporary file beside its target, syncs it, renames it and syncs the folder: after a crash the blob is
there completely or not at all. All calls block in a few threads that belong to the storage; a canceled call waits for
its thread to let go of the caller's buffers, which happens between two pieces of at most 32 MiB. Where a `Pace` limits
bytes, no thread waits for it: the work is suspended and goes on in any thread.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from itertools import islice
from typing import TypeVar

from agent.base.clock import SystemClock
from agent.base.errors import (
    AccessDenied,
    BlobExists,
    BlobNotFound,
    BlobTooShort,
    BucketNotFound,
    OutOfSpace,
    StorageError,
    StorageUnavailable,
    StorageUnsupported,
    UsageError,
)
from agent.storage.answer_memory import AnswerMemory
from agent.storage.base import BlobId, BlobMetadata, Buffer, Retention, check_blob_id
from agent.storage.durable import FOLDER_MODE, Done, DurableWriter, Steps, advance, read_into
from agent.storage.pace import Pace, TokenBucket
from agent.storage.sharding import BLOB_SUFFIX, DEFAULT_LAYOUT, PARAMETERS_FILE, Layout, detect_layout, read_layout

T = TypeVar("T")

_THREADS = 8
_LIST_BATCH = 1000


_log = logging.getLogger(__name__)


class FilesystemStorage:
    """`BlobStorage` in the folder `root`, which has to exist."""

    def __init__(self, root: str, pace: Pace | None = None) -> None:
        self._root = os.path.abspath(root)
        self._pace = pace or Pace(SystemClock())
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="blobs")
        self._layout_lock = threading.Lock()
        self._layout: Layout | None = None
        self._writer = DurableWriter(self._root)
        self._memory = AnswerMemory()

    @classmethod
    async def open(cls, root: str, *, create: bool = False, pace: Pace | None = None) -> FilesystemStorage:
        """The storage in `root`; with `create` a missing folder is made. Raises `BucketNotFound`, `AccessDenied`."""
        storage = cls(root, pace)
        try:
            await storage._run(lambda _: storage._open(create))
        except BaseException:
            await storage.close()
            raise
        return storage

    def _open(self, create: bool) -> None:
        with _named_errors("open the repository folder", self._root):
            if create:
                os.makedirs(self._root, FOLDER_MODE, exist_ok=True)
            os.scandir(self._root).close()

    @property
    def location(self) -> str:
        """`file:///abs/path`."""
        return "file://" + self._root

    @property
    def parallel_puts(self) -> int:
        """Two: while the one is synced, the disk has the other to write."""
        return 2

    async def get(self, blob_id: BlobId, offset: int = 0, length: int | None = None) -> Buffer:
        """The asked range of the file."""
        check_blob_id(blob_id)
        if offset < 0 or (length is not None and length < 0):
            raise UsageError(f"range {offset}+{length} of blob {blob_id} makes no sense")
        return await self._run_paced(lambda canceled: self._get(blob_id, offset, length, canceled), self._pace.download)

    def _get(self, blob_id: BlobId, offset: int, length: int | None, canceled: threading.Event) -> Steps[Buffer]:
        with self._blob_errors("read", blob_id):
            # what is no file is no blob, and must not be waited for
            fd = os.open(self._path(blob_id), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode):
                    raise BlobNotFound(f"what lies in the place of blob {blob_id} in {self.location} is no file")
                size = status.st_size
                end = size if length is None else offset + length
                if offset > size or end > size:
                    raise BlobTooShort(
                        f"blob {blob_id} in {self.location} has {size} bytes, {offset}..{end} were asked"
                    )
                data = self._memory.take(end - offset, whole=not offset and length is None)
                yield from read_into(fd, offset, data, canceled)
                return data
            finally:
                os.close(fd)

    async def put(
        self,
        blob_id: BlobId,
        data: Sequence[Buffer],
        *,
        if_absent: bool = False,
        retention: Retention | None = None,
    ) -> None:
        """Write the file and sync it and its folder."""
        check_blob_id(blob_id)
        if retention is not None:
            raise StorageUnsupported(
                f"cannot lock blob {blob_id}: folders have no object lock",
                hint="take the retention settings off the repository or use an object store",
            )
        await self._run_paced(lambda canceled: self._put(blob_id, data, if_absent, canceled), self._pace.upload)

    def _put(self, blob_id: BlobId, data: Sequence[Buffer], if_absent: bool, canceled: threading.Event) -> Steps[None]:
        with self._blob_errors("write", blob_id):
            folder, name = self._layout_for_writing().path(blob_id)
            yield from self._writer.write(folder, name, data, canceled, keep_existing=if_absent)

    async def stat(self, blob_id: BlobId) -> BlobMetadata:
        """Size and modification time of the file."""
        check_blob_id(blob_id)
        return await self._run(lambda _: self._stat(blob_id))

    def _stat(self, blob_id: BlobId) -> BlobMetadata:
        with self._blob_errors("look up", blob_id):
            result = os.stat(self._path(blob_id))
            return BlobMetadata(blob_id, result.st_size, result.st_mtime_ns)

    async def list(self, prefix: str = "") -> AsyncIterator[BlobMetadata]:
        """Blobs by prefix; only folders that can hold matches are read."""
        blobs = self._walk(self._root, "", prefix)

        def next_batch(_: threading.Event) -> list[BlobMetadata]:
            with _named_errors("list", self._root):
                return list(islice(blobs, _LIST_BATCH))

        try:
            while batch := await self._run(next_batch):
                for blob in batch:
                    yield blob
        finally:
            blobs.close()

    def _walk(self, folder: str, above: str, prefix: str) -> Generator[BlobMetadata]:
        folders = []
        try:
            entries = os.scandir(folder)
        except FileNotFoundError:
            if folder == self._root:
                raise
            return
        with entries:
            for entry in entries:
                name = above + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if name.startswith(prefix) or prefix.startswith(name):
                        folders.append((entry.path, name))
                    continue
                if not name.endswith(BLOB_SUFFIX) or not name.startswith(prefix):
                    continue
                blob_id = BlobId(name.removesuffix(BLOB_SUFFIX))
                if not blob_id.startswith(prefix) or not entry.is_file(follow_symlinks=False):
                    continue
                try:
                    check_blob_id(blob_id)
                    result = entry.stat(follow_symlinks=False)
                except (StorageError, FileNotFoundError):  # not a blob of ours, or deleted meanwhile
                    continue
                yield BlobMetadata(blob_id, result.st_size, result.st_mtime_ns)
        for path, name in folders:
            yield from self._walk(path, name, prefix)

    async def delete(self, blob_ids: Sequence[BlobId]) -> None:
        """Remove the files."""
        for blob_id in blob_ids:
            check_blob_id(blob_id)
        await self._run(lambda canceled: self._delete(blob_ids, canceled))

    def _delete(self, blob_ids: Sequence[BlobId], canceled: threading.Event) -> None:
        for blob_id in blob_ids:
            if canceled.is_set():
                return
            with self._blob_errors("delete", blob_id), suppress(FileNotFoundError):
                os.unlink(self._path(blob_id))

    async def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False)

    def _path(self, blob_id: BlobId) -> str:
        folder, name = self._layout_for_reading().path(blob_id)
        return os.path.join(self._root, folder, name)

    def _layout_for_reading(self) -> Layout:
        if self._layout is None:
            with self._layout_lock:
                layout = read_layout(self._root)
                if layout is None:
                    layout = detect_layout(self._root)
                    if layout is None:  # an empty folder: whoever writes first decides
                        return DEFAULT_LAYOUT
                    _warn_of_lost_parameters(self._root, layout)
                self._layout = layout
        return self._layout

    def _layout_for_writing(self) -> Layout:
        """The layout in force. Only a folder without any blob gets a `.shards` file, before its first blob."""
        self._layout_for_reading()
        if self._layout is None:
            with suppress(FileExistsError):
                content = DEFAULT_LAYOUT.to_json()
                steps = self._writer.write("", PARAMETERS_FILE, [content], threading.Event(), keep_existing=True)
                advance(steps, None, lambda: True)
        return self._layout_for_reading()

    def _blob_errors(self, verb: str, blob_id: BlobId) -> AbstractContextManager[None]:
        return _named_errors(f"{verb} blob {blob_id}", self._root, blob=True)

    async def _run_paced(self, start: Callable[[threading.Event], Steps[T]], bucket: TokenBucket) -> T:
        """Run the steps in threads, as far as the bucket lets them at a time."""
        canceled = threading.Event()
        steps = start(canceled)
        granted: int | None = None
        try:
            while True:
                reached = await self._run(partial(_go_on, steps, granted, bucket), canceled)
                if isinstance(reached, Done):
                    return reached.value
                granted = await bucket.allow(reached)
        except BaseException:
            await self._run(lambda _: steps.close())  # it may be suspended between two steps
            raise

    async def _run(self, work: Callable[[threading.Event], T], canceled: threading.Event | None = None) -> T:
        """Run `work` in a thread; on cancelation tell it, and wait until it has let go of everything."""
        canceled = canceled or threading.Event()
        future = asyncio.get_running_loop().run_in_executor(self._threads, work, canceled)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            canceled.set()
            while not future.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
            if not future.cancelled():
                future.exception()  # retrieved: the cancelation is what counts
            raise


def _go_on(steps: Steps[T], granted: int | None, bucket: TokenBucket, _: threading.Event) -> Done[T] | int:
    return advance(steps, granted, lambda: bucket.rate <= 0)


def _warn_of_lost_parameters(root: str, layout: Layout) -> None:
    """Reading and writing go on; other clients assume a layout of old and may find nothing."""
    _log.warning(
        "%s is missing in %s: blobs are looked for where others of their kind lie, but kopia may not find them;"
        " a file with this line brings it back: %s",
        PARAMETERS_FILE,
        root,
        layout.to_json().decode().strip(),
    )


@contextmanager
def _named_errors(attempt: str, root: str, *, blob: bool = False) -> Iterator[None]:
    """Turn an `OSError` into the leaf that says what went wrong. `attempt` completes "cannot …"."""
    try:
        yield
    except OSError as error:
        raise _storage_error(error, attempt, root, blob) from error


_LEAVES: dict[int, tuple[type[StorageError], str]] = {
    errno.EEXIST: (BlobExists, ""),
    errno.EACCES: (AccessDenied, "run as the user who owns the folder, or change its mode"),
    errno.EPERM: (AccessDenied, "run as the user who owns the folder, or change its mode"),
    errno.EROFS: (AccessDenied, "the file system is mounted read-only"),
    errno.ENOSPC: (OutOfSpace, "free some space"),
    errno.EDQUOT: (OutOfSpace, "raise the quota or free some space"),
    errno.ENOTSUP: (StorageUnsupported, "this file system lacks what the operation needs"),
    errno.ENOSYS: (StorageUnsupported, "this file system lacks what the operation needs"),
    **dict.fromkeys(
        (errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.EAGAIN),
        (StorageUnavailable, "the file system may answer again soon"),
    ),
}


def _storage_error(error: OSError, attempt: str, root: str, blob: bool) -> StorageError:
    message = f"cannot {attempt} in file://{root}: {error.strerror or error}"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if blob and os.path.isdir(root):
            return BlobNotFound(message)
        return BucketNotFound(message, hint="create the folder, or check that its file system is mounted")
    leaf, hint = _LEAVES.get(error.errno or 0, (StorageError, ""))
    return leaf(message, hint=hint)
