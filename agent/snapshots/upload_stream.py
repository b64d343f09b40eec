"""One large file, part or device into chunks: read in pieces, split, hashed and sealed where it lies.

A thread reads into a slab and looks for cuts until the next chunk might not fit. Then a helper gets the slab, if there
is another to go on with, so that one file keeps several cores busy. Otherwise, when as many files are under way as
there are slabs, the thread writes the chunks itself, without a hop, while they are in the processor's cache. Chunks are
numbered as they are cut, and keep that order. Holes are not read: the content of a chunk of zeros is made once.

Called by `upload_file.py`, from its worker threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor

from agent import _native
from agent.base.errors import CanceledError
from agent.repository.ids import NO_PREFIX, ObjectId, content_text
from agent.snapshots.directory_write import UploadSink
from agent.snapshots.progress import Cancellation, UploadProgress
from agent.snapshots.upload_chunks import Chunks, ChunkSource, Holes, Slabs
from agent.snapshots.upload_plan import FilePlan

READ_PIECE = 2 * 1024 * 1024
"""Bytes read at once, to a multiple of it; what is cut behind the last chunk of a slab, and has to be moved, is less.

The page cache reads ahead in folios of up to this size, and drops a whole folio once a part of it was `read_once`:
smaller pieces have the disk read the rest again.
"""
LARGEST_CHUNK = 16 * 1024 * 1024
"""Of any splitter that a policy may name; slabs are touched no further than the splitter in use needs."""
_LEAST_BATCH = 4 * 1024 * 1024
"""Bytes of small chunks that are written together."""
_ZERO_PROBE = 4096

_Cut = tuple[int, int, int]
"""(number, begin, end) of a chunk in its slab."""


class StreamUpload:
    """What the streams of one run share. Thread side, thread-safe."""

    def __init__(
        self,
        sink: UploadSink,
        cancellation: Cancellation,
        progress: UploadProgress,
        slabs: Slabs,
        helpers: Executor,
    ) -> None:
        self._sink = sink
        self._cancellation = cancellation
        self._progress = progress
        self._slabs = slabs
        self._helpers = helpers
        self._zeros: dict[tuple[int, int], ObjectId] = {}

    def read(
        self, source: ChunkSource, start: int, end: int | None, *, holes: Holes, plan: FilePlan, chunks: Chunks
    ) -> None:
        """Read from `start` to `end` or to the end of the file, and have all chunks written; `chunks.wait` for them.

        Raises OSError, `CanceledError`, what the repository raises.
        """
        splitter = plan.splitter
        room = max(splitter.max_chunk, _LEAST_BATCH)
        slab = self._slabs.take()
        at = start
        begin = filled = scanned = 0
        cuts: list[_Cut] = []
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
                piece = READ_PIECE - at % READ_PIECE
                wanted = piece if end is None else min(piece, end - at)
                got = source.readinto_at(slab[filled : filled + wanted], at)
                self._progress.read(got)
                at += got
                filled += got
                while cut := splitter.find_cut(slab[begin:filled], filled - begin, scanned):
                    cuts.append((chunks.number(), begin, begin + cut))
                    begin, scanned = begin + cut, 0
                scanned = filled - begin
                if got < wanted or at == end:
                    break
                if begin + splitter.max_chunk > room:
                    slab = self._pass_on(chunks, slab, cuts, begin=begin, filled=filled, plan=plan)
                    cuts, begin, filled = [], 0, scanned
            if filled > begin or not chunks.given:
                cuts.append((chunks.number(), begin, filled))
            self._write(chunks, slab, cuts, plan)
        finally:
            self._slabs.give_back(slab)

    def _pass_on(
        self, chunks: Chunks, slab: memoryview, cuts: Sequence[_Cut], *, begin: int, filled: int, plan: FilePlan
    ) -> memoryview:
        """Have what was cut written; a slab that begins with what was not."""
        other = self._slabs.take_if_free()
        if other is None:
            self._write(chunks, slab, cuts, plan)
            slab[: filled - begin] = slab[begin:filled]
            return slab
        other[: filled - begin] = slab[begin:filled]
        try:
            self._helpers.submit(self._help, chunks, slab, cuts, plan)
        except RuntimeError as error:
            self._slabs.give_back(other)
            raise CanceledError("the backup has ended") from error
        return other

    def _help(self, chunks: Chunks, slab: memoryview, cuts: Sequence[_Cut], plan: FilePlan) -> None:
        try:
            self._write(chunks, slab, cuts, plan)
        finally:
            self._slabs.give_back(slab)

    def _write(self, chunks: Chunks, slab: memoryview, cuts: Sequence[_Cut], plan: FilePlan) -> None:
        """Write these chunks; what fails is kept for `chunks.check`."""
        try:
            self._cancellation.check()
            wanted: list[_Cut] = []
            for number, begin, end in cuts:
                if end - begin == plan.splitter.min_chunk and _is_zero(slab[begin:end]):
                    chunks.put(number, end - begin, self._zero_chunk(plan))
                    self._progress.hashed(end - begin)
                else:
                    wanted.append((number, begin, end))
            data = [slab[begin:end] for _, begin, end in wanted]
            contents = self._sink.write_contents(data, NO_PREFIX, plan.compression)
            for (number, begin, end), content in zip(wanted, contents, strict=True):
                chunks.put(number, end - begin, ObjectId(content_text(content)))
            self._progress.hashed(sum(map(len, data)))
        except BaseException as error:  # noqa: BLE001 - raised again by the reader of this file
            chunks.fail(error)

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
