"""Packs while they are being filled, and the memory they are filled in.

A pack being filled is one mapping, as large as the largest pack can get and touched only as far as it is filled: of
anonymous memory, or of a temporary file where it fills slowly. Threads reserve ranges of it under the content writer's
lock and seal straight into them without the lock, so a content is copied nowhere between its caller's buffer and the
request that uploads it. A full pack gets its tail (padding, local index, postamble) and becomes a `SealedPack`, which
`pack_upload` puts in one request.

Called by `content_writer` only. Nothing in here locks; who may call what, and when, is said at each method.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence

import msgspec

from agent._native import RowTable
from agent.base.scratch import FileMemory, scratch
from agent.repository.encryption import Cipher
from agent.repository.hashing import Hasher
from agent.repository.index_build import RANDOM_SUFFIX_LENGTH
from agent.repository.index_rows import build_rows_index
from agent.repository.pack import PREAMBLE_LENGTH, Postamble, encode_postamble, padding_length
from agent.storage.base import BlobId

RandomBytes = Callable[[int], bytes]
"""`random(n)` gives n random bytes."""


class PackFormat(msgspec.Struct, frozen=True):
    """What of the repository's format decides how packs are written."""

    hasher: Hasher
    cipher: Cipher
    format_version: int
    index_version: int
    max_pack_size: int
    """A pack is closed once it has this many bytes."""
    recovery_block: bytes
    """The copy of the format blob that starts every pack (§2.8), or empty."""


class PackBuffers:
    """The pool of mappings. `acquire` is for holders of the writer's lock, `release` for them too.

    How many exist is decided by the content writer, which opens no pack while too many are on their way; a mapping that
    was used is kept for the next pack, because touching fresh memory costs several times what sealing into it does.
    """

    def __init__(self, usual: int, largest: int, keep: int) -> None:
        """A pack has `usual` bytes and now and then up to `largest` more; `keep` mappings wait for the next pack."""
        self.size = usual + largest
        self._usual = -(-usual // mmap.PAGESIZE) * mmap.PAGESIZE
        self._keep = keep
        self._free: list[mmap.mmap] = []

    def acquire(self, at_least: int, *, slow: bool = False) -> mmap.mmap:
        """A mapping of `size` bytes, or one of its own when that is not enough.

        A pack that is `slow` to fill may stay open for long: what is in it need not stay in memory.
        """
        if slow:
            return scratch(max(at_least, self.size))
        if at_least <= self.size and self._free:
            return self._free.pop()
        return mmap.mmap(-1, max(at_least, self.size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def release(self, buffer: mmap.mmap) -> None:
        """Take back a mapping that nobody reads or writes any more."""
        if len(buffer) == self.size and len(self._free) < self._keep and not isinstance(buffer, FileMemory):
            if self._usual < self.size:
                buffer.madvise(mmap.MADV_DONTNEED, self._usual, self.size - self._usual)
            self._free.append(buffer)

    def clear(self) -> None:
        """Give the memory back."""
        self._free.clear()


class SealedPack(msgspec.Struct, frozen=True):
    """A finished pack on its way to the store."""

    blob_id: BlobId
    body: memoryview
    """Preamble and contents, in `buffer`."""
    tail: tuple[bytes, bytes, bytes]
    """Padding, sealed local index, postamble."""
    buffer: mmap.mmap

    @property
    def length(self) -> int:
        """Bytes of the blob."""
        return len(self.body) + sum(map(len, self.tail))


class OpenPack:
    """A pack that ranges are still reserved in, or whose ranges are still being sealed into.

    Only `view` may be used without the writer's lock, by the thread that reserved the range.
    """

    __slots__ = ("blob_id", "buffer", "length", "number", "unsealed", "view")

    def __init__(self, number: int, blob_id: BlobId, buffer: mmap.mmap, pack_format: PackFormat, random: RandomBytes):
        self.number = number
        """Of the session's packs, in the order they were opened."""
        self.blob_id = blob_id
        self.buffer = buffer
        self.view = memoryview(buffer)
        self.unsealed = 0
        """Reservations that are not sealed yet."""
        start = pack_format.recovery_block + random(PREAMBLE_LENGTH)
        self.view[: len(start)] = start
        self.length = len(start)

    def reserve(self, sizes: Sequence[int], first: int, max_length: int) -> int:
        """Reserve ranges for `sizes[first:]` until the pack is full; gives how many.

        They follow each other from `length` as it was. A pack is full when it has `max_length` bytes or the next
        content does not fit into its mapping.
        """
        length, capacity, index = self.length, len(self.view), first
        while index < len(sizes) and length < max_length and length + sizes[index] <= capacity:
            length += sizes[index]
            index += 1
        self.length = length
        self.unsealed += index - first
        return index - first

    def seal_tail(
        self, rows: RowTable, packs: Sequence[BlobId], pack_format: PackFormat, random: RandomBytes
    ) -> SealedPack:
        """The finished pack (§4.3); `rows` and `packs` are the session's.

        Needs no lock: nobody writes into the pack any more, and the rows of its contents have their places.
        """
        local_index = build_rows_index(
            rows,
            packs,
            index_version=pack_format.index_version,
            format_version=pack_format.format_version,
            pack=self.number,
            suffix=random(RANDOM_SUFFIX_LENGTH),
        )
        iv = pack_format.hasher(local_index)
        sealed = pack_format.cipher.seal(local_index, iv)
        padding = random(padding_length(self.length))
        postamble = encode_postamble(Postamble(iv, self.length + len(padding), len(sealed)))
        return SealedPack(self.blob_id, self.view[: self.length], (padding, sealed, postamble), self.buffer)
