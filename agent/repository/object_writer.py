"""Objects over contents: split, write each chunk, list the chunks (§6.1, §6.2). Thread side.

`ObjectWriter` is the plain way: bytes in, object id out. A caller that reads and hashes chunks of one large file in
parallel writes them as contents itself and lets `assemble` build the list; the parts of a file beyond 2 GiB are
`PartWriter`s, each with a fresh splitter, whose chunks `concatenate` puts into one list as kopia does.

Lists are streamed: an entry becomes text at once and goes into the list's own object, of which one chunk is buffered.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator

import msgspec

from agent.repository.compression import compress_if_smaller
from agent.repository.content_writer import ContentWriter
from agent.repository.ids import NO_PREFIX, ContentId, ObjectId, content_text
from agent.repository.splitter import Splitter
from agent.storage.base import Buffer

INDIRECT_PREFIX = ord("x")
_LIST_START = b'{"stream":"kopia:indirect","entries":['
_LIST_END = b"]}\n"
_LENGTH_AND_FORM = struct.Struct("<Q?")


class ObjectFormat(msgspec.Struct, frozen=True):
    """How objects of one repository are written."""

    contents: ContentWriter
    splitter: Splitter
    """The repository's own, which lists are always split with."""
    metadata_compression: int
    """Header id for lists."""


class Chunk(msgspec.Struct, frozen=True):
    """One content of an object."""

    length: int
    content: ContentId
    compressed: bool
    """The content's plaintext is an object-level compressed stream (`Z`)."""

    @property
    def object_id(self) -> ObjectId:
        """The chunk as an object of its own."""
        return ObjectId(("Z" if self.compressed else "") + content_text(self.content))


class ObjectPart:
    """The chunks of one part of a file, a few bytes each."""

    def __init__(self) -> None:
        self._chunks = bytearray()
        self._record_length = 0
        self.length = 0
        """Bytes of data."""

    def append(self, chunk: Chunk) -> None:
        """Add the next chunk."""
        record = _LENGTH_AND_FORM.pack(chunk.length, chunk.compressed) + chunk.content
        self._record_length = len(record)
        self._chunks += record
        self.length += chunk.length

    def __iter__(self) -> Iterator[Chunk]:
        """The chunks in order."""
        for start in range(0, len(self._chunks), self._record_length or 1):
            length, compressed = _LENGTH_AND_FORM.unpack_from(self._chunks, start)
            content = self._chunks[start + _LENGTH_AND_FORM.size : start + self._record_length]
            yield Chunk(length, ContentId(bytes(content)), compressed)


class _ChunkWriter:
    """Splits a stream and writes its chunks as contents; at most one chunk is buffered."""

    def __init__(
        self,
        contents: ContentWriter,
        splitter: Splitter,
        prefix: int,
        compression: int,
        receive: Callable[[Chunk], None],
    ) -> None:
        self._contents = contents
        self._splitter = splitter
        self._prefix = prefix
        self._compression = compression
        self._receive = receive
        self._buffer = bytearray()
        self._scanned = 0
        self._written = False

    def write(self, data: Buffer) -> None:
        """Add bytes. Where a whole chunk lies in `data`, it is not copied."""
        with memoryview(data) as view:
            position = 0
            while position < len(view):
                position = self._from_buffer(view, position) if self._buffer else self._in_place(view, position)

    def end(self) -> None:
        """Write what is left; nothing at all is one empty chunk."""
        if self._buffer or not self._written:
            self._put(bytes(self._buffer))
            self._buffer.clear()

    def _in_place(self, view: memoryview, position: int) -> int:
        with view[position:] as rest:
            cut = self._splitter.find_cut(rest, len(rest), 0)
            if cut:
                with rest[:cut] as chunk:
                    self._put(chunk)
                return position + cut
            self._buffer += rest
            self._scanned = len(rest)
            return len(view)

    def _from_buffer(self, view: memoryview, position: int) -> int:
        """Fill the buffer up to a chunk's largest length and cut once."""
        buffer, before = self._buffer, len(self._buffer)
        buffer += view[position : position + self._splitter.max_chunk - before]
        with memoryview(buffer) as filled:
            cut = self._splitter.find_cut(filled, len(filled), self._scanned)
            if cut:
                with filled[:cut] as chunk:
                    self._put(chunk)
        if not cut:
            self._scanned = len(buffer)
            return position + len(buffer) - before
        buffer.clear()
        self._scanned = 0
        return position + cut - before

    def _put(self, chunk: Buffer) -> None:
        self._written = True
        self._receive(write_chunk(self._contents, chunk, self._prefix, self._compression))


class _ListWriter:
    """The list above several chunks; of a single chunk the object id is the chunk's own."""

    def __init__(self, objects: ObjectFormat, prefix: int, compression: int | None = None) -> None:
        self._objects = objects
        self._compression = objects.metadata_compression if compression is None else compression
        self._prefix = prefix or INDIRECT_PREFIX
        self._first: tuple[int, ObjectId] | None = None
        self._list: ObjectWriter | None = None
        self._start = 0

    def append(self, length: int, object_id: ObjectId) -> None:
        """Add the next entry."""
        if self._first is None:
            self._first = (length, object_id)
            return
        if self._list is None:
            # Contents and the list above them, if there are so many, are compressed alike.
            self._list = ObjectWriter(
                self._objects, self._objects.splitter, self._prefix, self._compression, self._compression
            )
            self._list.write(_LIST_START)
            self._write_entry(self._list, *self._first)
        self._list.write(b",")
        self._write_entry(self._list, length, object_id)

    def finish(self) -> ObjectId:
        """The object id of everything appended, at least one entry."""
        if self._first is None:
            raise ValueError("an object has at least one chunk")
        if self._list is None:
            return self._first[1]
        self._list.write(_LIST_END)
        return ObjectId("I" + self._list.finish())

    def _write_entry(self, target: ObjectWriter, length: int, object_id: ObjectId) -> None:
        start = f'"s":{self._start},' if self._start else ""
        size = f'"l":{length},' if length else ""
        target.write(f'{{{start}{size}"o":"{object_id}"}}'.encode())
        self._start += length


class ObjectWriter:
    """Writes one object. Not thread-safe; many may run at once."""

    def __init__(
        self,
        objects: ObjectFormat,
        splitter: Splitter,
        prefix: int,
        compression: int,
        list_compression: int | None = None,
    ) -> None:
        self._list = _ListWriter(objects, prefix, list_compression)
        self._chunks = _ChunkWriter(objects.contents, splitter, prefix, compression, self._receive)

    def write(self, data: Buffer) -> None:
        """Add bytes to the object."""
        self._chunks.write(data)

    def finish(self) -> ObjectId:
        """The id of the object; of no bytes, that of the empty content. Call once, after the last `write`."""
        self._chunks.end()
        return self._list.finish()

    def _receive(self, chunk: Chunk) -> None:
        self._list.append(chunk.length, chunk.object_id)


class PartWriter:
    """Writes one part of a file; its list is written by `concatenate`, with those of the other parts."""

    def __init__(self, objects: ObjectFormat, splitter: Splitter, compression: int) -> None:
        self._part = ObjectPart()
        self._chunks = _ChunkWriter(objects.contents, splitter, NO_PREFIX, compression, self._part.append)

    def write(self, data: Buffer) -> None:
        """Add bytes to the part."""
        self._chunks.write(data)

    def finish(self) -> ObjectPart:
        """The part's chunks; a part of no bytes has one empty chunk (§14.7)."""
        self._chunks.end()
        return self._part


def write_chunk(contents: ContentWriter, data: Buffer, prefix: int, compression: int) -> Chunk:
    """Write one chunk of an object as a content, compressed the way the repository's version calls for (§4.2)."""
    if compression and prefix == NO_PREFIX and contents.pack_format.index_version == 1:
        body, header = compress_if_smaller(compression, data)
        return Chunk(len(data), contents.write_content(body), bool(header))
    return Chunk(len(data), contents.write_content(data, prefix, compression), False)


def assemble(
    objects: ObjectFormat,
    entries: Iterable[tuple[int, ObjectId]],
    prefix: int = NO_PREFIX,
    compression: int | None = None,
) -> ObjectId:
    """The object made of these (length, object id), in order, at least one; a list is written for several, with this
    compression or the writer's own for metadata.
    """
    writer = _ListWriter(objects, prefix, compression)
    for length, object_id in entries:
        writer.append(length, object_id)
    return writer.finish()


def concatenate(objects: ObjectFormat, parts: Iterable[ObjectPart], compression: int | None = None) -> ObjectId:
    """The object made of these parts, at least one, each cut by a fresh splitter (§6.2, §14.7)."""
    entries = ((chunk.length, chunk.object_id) for part in parts for chunk in part)
    return assemble(objects, entries, NO_PREFIX, compression)
