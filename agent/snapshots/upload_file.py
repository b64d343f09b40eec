"""Files from the volume into the repository: small ones in batches, large ones as chunks in parallel.

The walk (`upload_tree.py`) hands work over and goes on; futures come back. Small files are read natively and written as
one batch. A large file is read into pooled slabs by one thread, which splits it, while a shared pool hashes and seals
its chunks in place; the order is kept by number. Beyond the policy's limit it is cut into parts with a fresh splitter
each, as kopia does (§6.2, §14.7). Memory is slabs × their size, however many and large the files are. Holes are not
read: the content of a chunk of zeros is made once.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from agent import _native
from agent.base.errors import CanceledError
from agent.repository.ids import NO_PREFIX, ObjectId, content_text
from agent.snapshots.directory_write import UploadSink
from agent.snapshots.progress import Cancellation, UploadProgress
from agent.snapshots.upload_chunks import Chunks, ChunkSource, Holes, Slab, Slabs
from agent.snapshots.upload_plan import FilePlan
from agent.volumes.attributes import Attributes
from agent.volumes.tree_read import DirectoryReader, FileContent, Unreadable

READ_PIECE = 4 * 1024 * 1024
_SLAB_CHUNKS = 2
_POLL = 0.2
_LARGEST_CHUNK = 16 * 1024 * 1024
"""Of any splitter that a policy may name; slabs are touched no further than the splitter in use needs."""
_ZERO_PROBE = 4096


@dataclass(frozen=True, slots=True)
class Stored:
    """A file in the repository."""

    obj: ObjectId
    size: int
    """Bytes that were read, whatever the directory said."""
    parts: int
    attributes: Attributes | None
    """As they were when the file was opened; None for a symbolic link."""


class LargeFile:
    """A large file on its way; a checkpoint looks at `parts`."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.parts: list[Chunks] = []
        self.result: Future[Stored | Unreadable] = Future()


class FileUploads:
    """The threads and buffers that the files of one run share. Close it when the run is over."""

    def __init__(self, sink: UploadSink, cancellation: Cancellation, progress: UploadProgress, threads: int) -> None:
        self._sink = sink
        self._cancellation = cancellation
        self._progress = progress
        self._slabs = Slabs(_SLAB_CHUNKS * _LARGEST_CHUNK, 2 * threads + 1, cancellation)
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="read")
        self._hashers = ThreadPoolExecutor(threads, thread_name_prefix="hash")
        self._zeros: dict[tuple[int, int], ObjectId] = {}

    def close(self) -> None:
        """Give up what has not begun and wait for what has; again does nothing. Before what is read from is closed."""
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._hashers.shutdown(wait=True, cancel_futures=True)

    # ---- small files and links ----

    def small(
        self, reader: DirectoryReader, names: Sequence[bytes], limit: int, total: int, plan: FilePlan
    ) -> Future[list[Stored | Unreadable | None]]:
        """Store files of at most `limit` bytes, together `total`. None is one that has grown: take `large`."""
        return self._hashers.submit(self._small, reader, names, limit, total, plan)

    def links(self, reader: DirectoryReader, names: Sequence[bytes]) -> Future[list[Stored | Unreadable | None]]:
        """Store where symbolic links point."""
        return self._hashers.submit(self._links, reader, names)

    def _small(
        self, reader: DirectoryReader, names: Sequence[bytes], limit: int, total: int, plan: FilePlan
    ) -> list[Stored | Unreadable | None]:
        self._cancellation.check()
        try:
            files = reader.read_files(names, limit, total=total)
        except OSError as error:
            return [Unreadable(name, error.errno or errno.EIO) for name in names]
        data = [item.data for item in files if isinstance(item, FileContent) and item.data is not None]
        size = sum(map(len, data))
        self._progress.read(size)
        self._cancellation.check()
        if plan.whole_objects and plan.compression:
            objects = iter([self._whole(item, plan) for item in data])
        else:
            contents = self._sink.write_contents(data, NO_PREFIX, plan.compression)
            objects = (ObjectId(content_text(content)) for content in contents)
        self._progress.hashed(size)
        results: list[Stored | Unreadable | None] = []
        for item in files:
            if isinstance(item, Unreadable):
                results.append(item)
            elif item.data is None:
                results.append(None)
            else:
                results.append(Stored(next(objects), len(item.data), 1, item.attributes))
        return results

    def _links(self, reader: DirectoryReader, names: Sequence[bytes]) -> list[Stored | Unreadable | None]:
        self._cancellation.check()
        try:
            links = reader.read_links(names)
        except OSError as error:
            return [Unreadable(name, error.errno or errno.EIO) for name in names]
        targets = [item.target for item in links if not isinstance(item, Unreadable)]
        objects = iter(self._sink.write_contents(targets))
        return [
            item
            if isinstance(item, Unreadable)
            else Stored(ObjectId(content_text(next(objects))), len(item.target), 0, None)
            for item in links
        ]

    def _whole(self, data: bytes, plan: FilePlan) -> ObjectId:
        part = self._sink.new_part(plan.compression, plan.splitter.name)
        part.write(data)
        return self._sink.concatenate([part.finish()], plan.list_compression)

    # ---- large files ----

    def large(self, reader: DirectoryReader, name: bytes, size: int, plan: FilePlan) -> LargeFile:
        """Store one file of about `size` bytes."""
        file = LargeFile(name)
        self._readers.submit(self._run, file, lambda: self._large(file, reader, size, plan))
        return file

    def device(self, file: LargeFile, source: ChunkSource, size: int, holes: Holes, plan: FilePlan) -> LargeFile:
        """Store `size` bytes of a device or image as one object, never in parts (§10.7)."""

        def store() -> Stored:
            chunks = Chunks()
            file.parts.append(chunks)
            self._read_part(source, 0, size, holes=holes, plan=plan, chunks=chunks)
            chunks.wait(self._cancellation)
            return Stored(self._sink.assemble(chunks.done(), compression=plan.list_compression), chunks.length, 1, None)

        self._readers.submit(self._run, file, store)
        return file

    def _run(self, file: LargeFile, store: Callable[[], Stored | Unreadable]) -> None:
        try:
            file.result.set_result(store())
        except OSError as error:
            file.result.set_result(Unreadable(file.name, error.errno or errno.EIO))
        except BaseException as error:  # noqa: BLE001 - raised again by whoever asks for the result
            file.result.set_exception(error)

    def _large(self, file: LargeFile, reader: DirectoryReader, size: int, plan: FilePlan) -> Stored | Unreadable:
        self._cancellation.check()
        opened = reader.open_file(file.name)
        if isinstance(opened, Unreadable):
            return opened
        with opened:
            attributes = opened.attributes
            holes = Holes(opened.data_ranges(), attributes.size) if opened.may_have_holes else Holes()
            if plan.whole_objects and plan.compression:
                return self._serial(opened, attributes, plan)
            # The directory's size decides, as in kopia: the last part reads to the end and may be empty (§14.7).
            count = size // plan.part_size + 1 if plan.part_size and size > plan.part_size else 1
            file.parts += [Chunks() for _ in range(count)]
            for number, chunks in enumerate(file.parts):
                start = number * plan.part_size
                end = start + plan.part_size if number + 1 < count else None
                self._read_part(opened, start, end, holes=holes, plan=plan, chunks=chunks)
            for chunks in file.parts:
                chunks.wait(self._cancellation)
        entries = (chunk for chunks in file.parts for chunk in chunks.done())
        obj = self._sink.assemble(entries, compression=plan.list_compression)
        return Stored(obj, sum(chunks.length for chunks in file.parts), count, attributes)

    def _serial(self, source: ChunkSource, attributes: Attributes, plan: FilePlan) -> Stored:
        part = self._sink.new_part(plan.compression, plan.splitter.name)
        slab = self._slabs.take()
        try:
            at = 0
            while True:
                self._cancellation.check()
                got = source.readinto_at(slab.view[:READ_PIECE], at)
                part.write(slab.view[:got])
                self._progress.read(got)
                self._progress.hashed(got)
                at += got
                if got < READ_PIECE:
                    break
        finally:
            slab.release()
        return Stored(self._sink.concatenate([part.finish()], plan.list_compression), at, 1, attributes)

    def _read_part(
        self, source: ChunkSource, start: int, end: int | None, *, holes: Holes, plan: FilePlan, chunks: Chunks
    ) -> None:
        """Read from `start` to `end` or to the end of the file, split, and have the chunks written."""
        splitter = plan.splitter
        limit = min(_SLAB_CHUNKS * max(splitter.max_chunk, READ_PIECE), self._slabs.size)
        slab = self._slabs.take()
        at = start
        begin = filled = scanned = 0
        try:
            while True:
                self._cancellation.check()
                chunks.check()
                chunk_at = at - (filled - begin)
                if zeros := holes.zeros_at(chunk_at, end) // splitter.min_chunk:
                    # A chunk begins in a hole: what was read of it already is given up, the rest is not read at all.
                    filled, scanned = begin, 0
                    at = chunk_at + self._put_zeros(chunks, zeros, plan)
                    if at == end:
                        break
                    continue
                if filled + READ_PIECE > limit:
                    slab, begin, filled = self._next_slab(slab, begin, filled)
                wanted = READ_PIECE if end is None else min(READ_PIECE, end - at)
                got = source.readinto_at(slab.view[filled : filled + wanted], at)
                self._progress.read(got)
                at += got
                filled += got
                while cut := splitter.find_cut(slab.view[begin:filled], filled - begin, scanned):
                    self._put(chunks, slab, begin, begin + cut, plan)
                    begin, scanned = begin + cut, 0
                scanned = filled - begin
                if got < wanted or at == end:
                    break
            if filled > begin or not chunks.given:
                self._put(chunks, slab, begin, filled, plan)
        finally:
            slab.release()

    def _next_slab(self, slab: Slab, begin: int, filled: int) -> tuple[Slab, int, int]:
        """Go on in another slab with what is not cut yet."""
        other = self._slabs.take()
        other.view[: filled - begin] = slab.view[begin:filled]
        slab.release()
        return other, 0, filled - begin

    def _put(self, chunks: Chunks, slab: Slab, begin: int, end: int, plan: FilePlan) -> None:
        number = chunks.number()
        slab.use()
        try:
            self._hashers.submit(self._write, chunks, number, slab=slab, begin=begin, end=end, plan=plan)
        except RuntimeError as error:
            slab.release()
            raise CanceledError("the backup has ended") from error

    def _write(self, chunks: Chunks, number: int, *, slab: Slab, begin: int, end: int, plan: FilePlan) -> None:
        try:
            self._cancellation.check()
            data, length = slab.view[begin:end], end - begin
            if length == plan.splitter.min_chunk and _is_zero(data):
                chunks.put(number, length, self._zero_chunk(plan))
            else:
                content = self._sink.write_content(data, NO_PREFIX, plan.compression)
                chunks.put(number, length, ObjectId(content_text(content)))
            self._progress.hashed(length)
        except BaseException as error:  # noqa: BLE001 - raised again by the reader of this file
            chunks.fail(error)
        finally:
            slab.release()

    def _put_zeros(self, chunks: Chunks, count: int, plan: FilePlan) -> int:
        """So many chunks of zeros; how many bytes that is."""
        length, obj = plan.splitter.min_chunk, self._zero_chunk(plan)
        for _ in range(count):
            chunks.put(chunks.number(), length, obj)
        self._progress.hashed(count * length)
        return count * length

    def _zero_chunk(self, plan: FilePlan) -> ObjectId:
        """The object of the chunk into which this splitter cuts zeros (§6.3)."""
        key = (plan.splitter.min_chunk, plan.compression)
        if key not in self._zeros:
            content = self._sink.write_content(bytes(key[0]), NO_PREFIX, plan.compression)
            self._zeros[key] = ObjectId(content_text(content))
        return self._zeros[key]


def _is_zero(data: memoryview) -> bool:
    return not any(data[:_ZERO_PROBE]) and not _native.data_runs(data, _ZERO_PROBE)
