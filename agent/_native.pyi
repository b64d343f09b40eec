"""Compiled inner loops of the data path (sources in `agent/native/`)."""

from collections.abc import Sequence
from typing import Protocol, Self, final

from typing_extensions import Buffer

# entry.c, scan.c: directory entries as JSON (§7.3)

class EntryAttributes(Protocol):
    """What a directory entry keeps of lstat; `agent.volumes.attributes.Attributes` is one."""

    @property
    def mode(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...

def entry_prefix(name: Buffer, kind: bytes, mode: int, size: int, mtime_ns: int, uid: int, gid: int, /) -> bytes:
    """A directory entry as Go's encoder writes it, up to and including `"obj":"`; zero values are left out.

    `name` is raw file name bytes, `kind` one byte, `mode` Go permission bits.
    """

def entry_prefixes(names: list[bytes], attributes: Sequence[EntryAttributes], /) -> list[bytes]:
    """`entry_prefix` of many names; type and Go mode bits come from the POSIX mode, directories have no size."""

def quote_string(text: Buffer, /) -> bytes:
    """A JSON string as Go's encoder writes it; each byte that is not UTF-8 becomes the escape of U+FFFD."""

def format_time(ns: int, /) -> bytes:
    """RFC 3339 with nanoseconds, UTC, without trailing zeros of the fraction."""

def scan_value(data: Buffer, start: int, /) -> int:
    """Where the JSON value that starts at `start` ends, -1 when `data` ends before it. `ValueError` when malformed."""

def split_elements(data: Buffer, start: int, state: int, /) -> tuple[list[bytes], int, int]:
    """The whole elements of a JSON list from `start` on, where scanning has to go on, and the state to go on with.

    `state` is 0 behind the opening bracket; 3 comes back behind the closing one. `ValueError` when malformed.
    """

def unchanged_run(prefixes: list[bytes], i: int, raws: list[bytes], j: int, /) -> int:
    """How many entries in a row, from `raws[j]`, are their `prefixes[i]`, an object id and nothing else."""

# attributes.c

@final
class Attributes:
    """lstat of one entry. `mode` is the whole st_mode, times are nanoseconds since 1970. Equal when all fields are."""

    def __init__(
        self,
        mode: int,
        size: int,
        mtime_ns: int,
        uid: int,
        gid: int,
        dev: int = 0,
        ino: int = 0,
        nlink: int = 1,
        rdev: int = 0,
    ) -> None: ...
    @property
    def mode(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def dev(self) -> int: ...
    @property
    def ino(self) -> int: ...
    @property
    def nlink(self) -> int: ...
    @property
    def rdev(self) -> int: ...
    @property
    def is_directory(self) -> bool:
        """Whether this is a directory."""
    @property
    def is_file(self) -> bool:
        """Whether this is a regular file."""
    @property
    def is_symlink(self) -> bool:
        """Whether this is a symbolic link."""

# tree_read.c, tree_write.c. A name is one raw component of a path; anything else (empty, `.`, `..`, with `/` or NUL)
# is EINVAL for its item. An int in place of a result is an errno.

def list_names(directory: int, /) -> list[tuple[bytes, int]]:
    """The next names of an open directory (up to 128 KiB of kernel entries) with their `d_type`; empty at the end."""

def stat_many(directory: int, names: Sequence[bytes], /) -> list[Attributes | int]:
    """lstat of each name."""

def file_system_magic(fd: int, /) -> int:
    """`f_type` of statfs(2). Raises OSError."""

def survey(
    directory: int, names: Sequence[bytes], most: int, stop: bytearray, /
) -> list[tuple[int, int, int, int, bytes] | None]:
    """Look into directories of a directory one after the other, until about `most` names have been seen.

    For each that is done: device, inode, CLOCK_MONOTONIC in ns before it was listed, number of entries, and what
    `surveyed` reads; None for one that is a link, on another file system, cannot be listed or has more names. Ends
    early when the first byte of `stop` is not 0. Releases the lock.
    """

def surveyed(count: int, data: bytes, /) -> tuple[list[bytes], list[Attributes | int]]:
    """Names in Kopia's order, directories first, each once; and for each what `stat_many` would say."""

def warm(directory: int, names: Sequence[bytes], stop: bytearray, /) -> None:
    """lstat of names for its effect on the kernel's caches alone; ends early like `survey`. Releases the lock."""

def read_many(
    directory: int, names: Sequence[bytes], limit: int, total: int, flags: int, at_once: int, /
) -> list[tuple[Attributes, bytes | None] | int]:
    """Each regular file whole, links not followed; None for data beyond `limit` bytes or without room in `total`.

    `flags` are those of preadv2(2), left out where the file system does not have them. `at_once` files are open, and
    asked for before the first is waited for.

    A directory is EISDIR, anything else that is no regular file ESTALE.
    """

def readlink_many(directory: int, names: Sequence[bytes], /) -> list[bytes | int]:
    """The target of each symbolic link."""

def create_many(
    directory: int, items: Sequence[tuple[bytes, Buffer, int, int, int, int]], flags: int, write_flags: int = 0, /
) -> list[int]:
    """Create each file (name, data, mode, uid, gid, mtime_ns).

    `write_flags` are those of pwritev2(2) for files of 512 KiB and more, left out where the file system does not have
    them.

    Results: 0; an errno when the file could not be made (nothing is left behind); minus an errno when it is there but
    owner, mode or time was refused (set-id bits are then left out). After ENOSPC or EDQUOT the rest is not tried.
    Flags: 1 owner, 2 mode, 4 times, 8 replace what is there.
    """

def symlink_many(directory: int, items: Sequence[tuple[bytes, Buffer, int, int, int, int]], flags: int, /) -> list[int]:
    """Create each symbolic link; the data is the target. Results and flags as for `create_many`."""

def data_runs(data: Buffer, block: int, /) -> list[tuple[int, int]]:
    """(start, length) of each stretch of blocks that are not all zero; only the last block may be short."""

def allocate(descriptor: int, mode: int, offset: int, length: int, /) -> None:
    """fallocate(2) as it is: no emulation. Raises OSError."""

def sync_filesystem(descriptor: int, /) -> None:
    """syncfs(2): everything written to this file system is on stable storage. Raises OSError."""

# hash.c

def blake2b_supported() -> bool:
    """Whether `blake2b` can run on this processor (AVX2)."""

def blake2b(data: Buffer, key: Buffer, digest_size: int, /) -> bytes:
    """Keyed BLAKE2b (RFC 7693), about a fifth faster than hashlib's. Releases the lock for all but short data.

    Raises `ValueError` for a key or digest of more than 64 bytes, `RuntimeError` where it is not supported.
    """

def blake2b_many(data: Sequence[Buffer], key: Buffer, digest_size: int, /) -> list[bytes]:
    """`blake2b` of each, several at once: four of a length take little longer than one.

    Raises as `blake2b` does.
    """

# scrypt.c

def scrypt_romix(block: Buffer, n: int, stride: int, portably: bool = False, /) -> bytes:
    """ROMix of scrypt (RFC 7914 §5) of a block of 128 * r bytes; takes 128 * r * n / stride bytes of memory.

    `portably` is without instructions that only some processors have.

    Raises `ValueError` when n is no power of two up to 2**24, r above 64 or the stride above 64; `MemoryError`.
    """

# split.c

def buzhash_cut(
    buffer: Buffer, length: int, scanned: int, minimum: int, maximum: int, mask: int, portably: bool = False, /
) -> int:
    """The length of the chunk that begins with `buffer`, or 0 when its first `length` bytes hold no cut (§6.3).

    Cuts up to `scanned` were looked for before. `minimum` is at least 64. `portably` is without instructions that only
    some processors have. Raises `ValueError` when lengths contradict.
    """

def rabin_karp_cut(buffer: Buffer, length: int, scanned: int, minimum: int, maximum: int, mask: int, /) -> int:
    """As `buzhash_cut`, with the other rolling hash."""

# index.c

def find_key(buffer: Buffer, base: int, stride: int, key_size: int, count: int, key: Buffer, /) -> int:
    """Position of `key` among `count` sorted entries of `stride` bytes from `base` on, each with its key first; or -1.

    A key of another size than `key_size` is absent. Raises `ValueError` when the entries do not lie inside the buffer.
    """

def find_keys(buffer: Buffer, base: int, stride: int, key_size: int, count: int, keys: Buffer, /) -> bytes:
    """As `find_key` for concatenated keys: native int64 positions (`memoryview(…).cast("q")`). Releases the lock."""

def first_unsorted(buffer: Buffer, base: int, stride: int, key_size: int, count: int, /) -> int:
    """Position of the first entry whose key is not greater than the one before; -1 when sorted. Releases the lock."""

# rows.c, build.c

@final
class RowTable:
    """Where contents that are being written lie: a row for each, numbered in the order they were claimed.

    Contents have 2 to 65 bytes, all of a table the same number. Thread-safe, but only whoever keeps other claims away
    knows the numbers of his own.
    """

    def __new__(cls) -> Self: ...
    def __len__(self) -> int: ...
    def __contains__(self, content: object, /) -> bool: ...
    def claim(self, contents: Sequence[bytes], others: Sequence[RowTable], /) -> list[int]:
        """Add a row without a place for each of `contents` that is neither here nor in `others`; their positions.

        Nothing is added when this raises `ValueError` or `MemoryError`.
        """

    def place(
        self,
        first: int,
        pack: int,
        offset: int,
        packed: Sequence[int],
        original: Sequence[int],
        compression: Sequence[int],
        time_s: Sequence[int],
        /,
    ) -> None:
        """Give the rows from number `first` on their places, one behind the other in a pack from `offset` on.

        A place is final. None has one when this raises `ValueError`.
        """

    def select(self, pack: int | None = None, /) -> list[int]:
        """The numbers of the rows whose place is in this pack, or of all."""

    def row(self, number: int, /) -> tuple[bytes, int, int, int, int, int, int]:
        """Content, pack, offset, packed and original length, compression and time. `ValueError` without a place."""

    def index(self, pack: int | None = None, /) -> tuple[bytes, int, int, list[int], list[int]]:
        """Sorted index rows of version 2 (§4.6) for what is in this pack, or for all, with the sizes of key and value.

        Also the numbers of the packs and the compression ids of the formats, in the order of their numbers there, which
        is that of their first use. Releases the lock while it sorts. Raises `ValueError` for what an index cannot hold,
        `MemoryError`.
        """

# read_ahead.c

def read_ahead(folders: Sequence[bytes], threads: int, /) -> None:
    """Have the modules in `folders` (with their bytecode) and JSON files read into the page cache; returns at once.

    What is not there or cannot be read is passed over. `ValueError` unless there are 1 to 64 threads.
    """

# memory.c

def return_large_blocks() -> None:
    """Have the C library give blocks of 1 MiB and more back to the system when they are freed, for the whole process.

    For programs, at their start. Does nothing where the C library is not glibc.
    """

def return_free_pages() -> None:
    """Have the C library give back whole pages that hold nothing, also between those that do. Takes a millisecond.

    For after work that made much and kept little. Does nothing where the C library is not glibc.
    """

# block.c

@final
class BlockPool:
    """Large buffers that are used again: fresh memory costs a page fault for every 4 KiB.

    A buffer comes back by itself when the last view of it is gone. Thread-safe.
    """

    def __new__(cls, limit: int, /) -> Self:
        """Keep at most `limit` bytes that nobody uses."""

    @property
    def kept(self) -> int:
        """Bytes that nobody uses now."""

    def take(self, length: int, /) -> memoryview:
        """A writable view of `length` bytes, at least one, with whatever is in them.

        Raises `ValueError`, `MemoryError`.
        """
