"""Files from the volume into the repository: batches of those that are one chunk, large ones chunk by chunk.

The walk (`upload_tree.py`) hands work over and goes on; futures come back. Small files are read natively into fresh
memory, middling ones side by side into a pooled slab; either way one thread hashes and seals a whole batch. Large files
are split by `upload_stream.py`; beyond the policy's limit they are cut into parts with a fresh splitter each, as kopia
does (§6.2, §14.7), and several threads read one file. Memory is slabs × their size, however many and large the files
are.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress

import msgspec

from agent.repository.ids import NO_PREFIX, ObjectId, content_text
from agent.snapshots.directory_write import UploadSink
from agent.snapshots.progress import Cancellation, UploadProgress
from agent.snapshots.upload_chunks import Chunks, ChunkSource, Holes, PartQueue, Slabs
from agent.snapshots.upload_plan import MIDDLING_FILE, FilePlan
from agent.snapshots.upload_stream import LARGEST_CHUNK, READ_PIECE, StreamUpload
from agent.volumes.attributes import Attributes
from agent.volumes.tree_read import DirectoryReader, FileContent, FileReader, Unreadable

_READS_OF_A_BATCH = 4
_OPEN_SMALL_FILES = 256
"""Of all threads: a process may have 1,024 descriptors in all where nobody has raised that."""
_AT_ONCE = 64
"""Of one thread; more are no faster."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A file in the repository."""

    obj: ObjectId
    size: int
    """Bytes that were read, whatever the directory said."""
    parts: int
    attributes: Attributes | None
    """As they were when the file was opened; None for a symbolic link."""


class _Slot(msgspec.Struct, frozen=True):
    """Where a file of a batch is read to."""

    place: int
    """In the batch."""
    name: bytes
    buffer: memoryview


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
        self.threads = threads
        """That read, and as many that hash."""
        self._at_once = max(1, min(_AT_ONCE, _OPEN_SMALL_FILES // threads))
        self._empty: dict[FilePlan, ObjectId] = {}
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="upload")
        self._helpers = ThreadPoolExecutor(threads, thread_name_prefix="hash")
        # Each worker holds at most one; what is left is handed to helpers.
        self._slabs = Slabs(LARGEST_CHUNK + READ_PIECE, threads + 1, cancellation)
        self._stream = StreamUpload(sink, cancellation, progress, self._slabs, self._helpers)

    def close(self) -> None:
        """Give up what has not begun and wait for what has; again does nothing. Before what is read from is closed."""
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._helpers.shutdown(wait=True)

    # ---- files of one chunk, and links ----

    def small(
        self, reader: DirectoryReader, names: Sequence[bytes], limit: int, total: int, plan: FilePlan
    ) -> Future[list[Stored | Unreadable | None]]:
        """Store files of at most `limit` bytes, together `total`. None is one that has grown: take `large`."""
        return self._workers.submit(self._small, reader, names, limit, total, plan)

    def middling(
        self, reader: DirectoryReader, names: Sequence[bytes], sizes: Sequence[int], plan: FilePlan
    ) -> Future[list[Stored | Unreadable | None]]:
        """Store files of these sizes, at most `plan.middling_limit`. None is one that has grown: take `large`."""
        return self._workers.submit(self._middling, reader, names, sizes, plan)

    def empty(self, plan: FilePlan) -> ObjectId:
        """The object of a file without bytes, stored once; for the thread of the walk."""
        if (obj := self._empty.get(plan)) is None:
            obj = self._empty[plan] = self._objects([b""], plan)[0]
        return obj

    def links(self, reader: DirectoryReader, names: Sequence[bytes]) -> Future[list[Stored | Unreadable | None]]:
        """Store where symbolic links point."""
        return self._workers.submit(self._links, reader, names)

    def _small(
        self, reader: DirectoryReader, names: Sequence[bytes], limit: int, total: int, plan: FilePlan
    ) -> list[Stored | Unreadable | None]:
        self._cancellation.check()
        try:
            files = reader.read_files(names, limit, total=total, at_once=self._at_once)
        except OSError as error:
            return [Unreadable(name, error.errno or errno.EIO) for name in names]
        data = [item.data for item in files if isinstance(item, FileContent) and item.data is not None]
        size = sum(map(len, data))
        self._progress.read(size)
        self._cancellation.check()
        objects = iter(self._objects(data, plan))
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

    def _middling(
        self, reader: DirectoryReader, names: Sequence[bytes], sizes: Sequence[int], plan: FilePlan
    ) -> list[Stored | Unreadable | None]:
        results: list[Stored | Unreadable | None] = [None] * len(names)
        slab = self._slabs.take()
        try:
            filled = 0
            slots: list[_Slot] = []
            for i, size in enumerate(sizes):
                if filled > MIDDLING_FILE:
                    self._store_slots(reader, slots, plan, results)
                    slots, filled = [], 0
                # One byte more tells whether the file has grown.
                slots.append(_Slot(i, names[i], slab[filled : filled + size + 1]))
                filled += size + 1
            self._store_slots(reader, slots, plan, results)
        finally:
            self._slabs.give_back(slab)
        return results

    def _store_slots(
        self, reader: DirectoryReader, slots: Sequence[_Slot], plan: FilePlan, results: list[Stored | Unreadable | None]
    ) -> None:
        """Read the files side by side: one after the other they would keep a disk waiting. Then store them."""
        read: list[tuple[Attributes, memoryview] | Unreadable | None] = [None] * len(slots)

        def read_one(number: int) -> None:
            slot = slots[number]
            read[number] = self._read_middling(reader, slot.name, slot.buffer)

        self._side_by_side(PartQueue(len(slots)), read_one, min(len(slots), _READS_OF_A_BATCH), self._helpers)
        found: list[tuple[int, Attributes, memoryview]] = []
        for slot, item in zip(slots, read, strict=True):
            if isinstance(item, Unreadable):
                results[slot.place] = item
            elif item is not None and len(item[1]) < len(slot.buffer):
                found.append((slot.place, *item))
        self._write_found(found, plan, results)

    def _read_middling(
        self, reader: DirectoryReader, name: bytes, buffer: memoryview
    ) -> tuple[Attributes, memoryview] | Unreadable:
        """The file; a full buffer means that it is too large for it."""
        self._cancellation.check()
        opened = reader.open_file(name)
        if isinstance(opened, Unreadable):
            return opened
        with opened:
            try:
                got = opened.readinto_at(buffer, 0)
            except OSError as error:
                return Unreadable(name, error.errno or errno.EIO)
            return opened.attributes, buffer[:got]

    def _write_found(
        self,
        found: Sequence[tuple[int, Attributes, memoryview]],
        plan: FilePlan,
        results: list[Stored | Unreadable | None],
    ) -> None:
        data = [content for _, _, content in found]
        size = sum(map(len, data))
        self._progress.read(size)
        contents = self._sink.write_contents(data, NO_PREFIX, plan.compression)
        self._progress.hashed(size)
        for (i, attributes, content), cid in zip(found, contents, strict=True):
            results[i] = Stored(ObjectId(content_text(cid)), len(content), 1, attributes)

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

    def _objects(self, data: Sequence[bytes], plan: FilePlan) -> list[ObjectId]:
        """One object for each of these files."""
        if plan.whole_objects and plan.compression:
            return [self._whole(item, plan) for item in data]
        contents = self._sink.write_contents(data, NO_PREFIX, plan.compression)
        return [ObjectId(content_text(content)) for content in contents]

    def _whole(self, data: bytes, plan: FilePlan) -> ObjectId:
        part = self._sink.new_part(plan.compression, plan.splitter.name)
        part.write(data)
        return self._sink.concatenate([part.finish()], plan.list_compression)

    # ---- large files ----

    def large(self, reader: DirectoryReader, name: bytes, size: int, plan: FilePlan) -> LargeFile:
        """Store one file of about `size` bytes."""
        file = LargeFile(name)
        self._workers.submit(self._run, file, lambda: self._large(file, reader, size, plan))
        return file

    def device(self, file: LargeFile, source: ChunkSource, size: int, holes: Holes, plan: FilePlan) -> LargeFile:
        """Store `size` bytes of a device or image as one object, never in parts (§10.7)."""

        def store() -> Stored:
            chunks = Chunks()
            file.parts.append(chunks)
            self._stream.read(source, 0, size, holes=holes, plan=plan, chunks=chunks)
            chunks.wait(self._cancellation)
            return Stored(self._sink.assemble(chunks.done(), compression=plan.list_compression), chunks.length, 1, None)

        self._workers.submit(self._run, file, store)
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
            if plan.whole_objects and plan.compression:
                return self._serial(opened, attributes, plan)
            # The directory's size decides, as in kopia: the last part reads to the end and may be empty (§14.7).
            count = size // plan.part_size + 1 if plan.part_size and size > plan.part_size else 1
            file.parts += [Chunks() for _ in range(count)]
            self._read_parts(file, opened, plan)
            for chunks in file.parts:
                chunks.wait(self._cancellation)
        entries = (chunk for chunks in file.parts for chunk in chunks.done())
        obj = self._sink.assemble(entries, compression=plan.list_compression)
        return Stored(obj, sum(chunks.length for chunks in file.parts), count, attributes)

    def _read_parts(self, file: LargeFile, opened: FileReader, plan: FilePlan) -> None:
        """Read all parts, with the help of workers that have nothing else to do; none of them reads afterwards."""
        count, sparse = len(file.parts), opened.may_have_holes

        def read(number: int) -> None:
            holes = Holes(opened.data_ranges(), opened.attributes.size) if sparse else Holes()
            start = number * plan.part_size
            end = start + plan.part_size if number + 1 < count else None
            self._stream.read(opened, start, end, holes=holes, plan=plan, chunks=file.parts[number])

        self._side_by_side(PartQueue(count), read, min(count, self.threads), self._workers)

    @staticmethod
    def _side_by_side(queue: PartQueue, read: Callable[[int], None], threads: int, others: Executor) -> None:
        """Read all that is in the queue in this thread and in up to `threads - 1` of others that have time."""
        for _ in range(threads - 1):
            with suppress(RuntimeError):  # the run ends, which `read` sees too
                others.submit(queue.run, read)
        queue.run(read)
        queue.wait()

    def _serial(self, source: ChunkSource, attributes: Attributes, plan: FilePlan) -> Stored:
        part = self._sink.new_part(plan.compression, plan.splitter.name)
        slab = self._slabs.take()
        try:
            at = 0
            while True:
                self._cancellation.check()
                got = source.readinto_at(slab[:READ_PIECE], at)
                part.write(slab[:got])
                self._progress.read(got)
                self._progress.hashed(got)
                at += got
                if got < READ_PIECE:
                    break
        finally:
            self._slabs.give_back(slab)
        return Stored(self._sink.concatenate([part.finish()], plan.list_compression), at, 1, attributes)
