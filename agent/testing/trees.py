"""File trees for tests: described as values, planted on disk, looked at again.

Backups are tested with trees that hold whatever a file system can hold. A tree is a value (`Folder` of `File`, `Link`,
`Special`), so that hypothesis can make and shrink it (`tree_strategies.py`) and a test can say what it changes; `plant`
makes it real, `scan` tells what lies on disk now, entry by entry as `os.lstat` has it, and two scans are compared as
dictionaries. `everything` is the tree that holds every known corner case once.

Without the rights of root, owners are those of the caller and nothing is made unreadable.
"""

from __future__ import annotations

import enum
import hashlib
import os
import random
import re
import stat
from collections.abc import Iterator, Mapping

import msgspec
from msgspec.structs import replace

SECOND = 1_000_000_000
LONG_AGO_NS = 1_500_000_000 * SECOND
_WORDS = b"the quick brown fox jumps over the lazy dog and comes back to sleep beside the river ".split(b" ")
_BLOCK = 1 << 20
_ESCAPED = re.compile("[\udc80-\udcff]")


class Fill(enum.Enum):
    """What a stretch of a file is made of."""

    RANDOM = "random"
    TEXT = "text"
    """Compresses well."""
    ZEROS = "zeros"
    HOLE = "hole"
    """Zeros that take no space."""


class Stretch(msgspec.Struct, frozen=True):
    """A part of a file; equal values are equal bytes."""

    fill: Fill
    length: int
    seed: int = 0

    def data(self) -> bytes:
        """Its bytes."""
        if self.fill is Fill.RANDOM:
            return random.Random(self.seed).randbytes(self.length)  # noqa: S311 - repeatable, not secret
        if self.fill is Fill.TEXT:
            rng = random.Random(self.seed)  # noqa: S311
            line = b" ".join(rng.choices(_WORDS, k=997)) + b"\n"
            return (line * (self.length // len(line) + 1))[: self.length]
        return bytes(self.length)


class Metadata(msgspec.Struct, frozen=True):
    """What a file system keeps beside the data. The mode holds the permission bits, setuid, setgid and sticky."""

    mode: int = 0o644
    mtime_ns: int = LONG_AGO_NS
    uid: int = 0
    gid: int = 0


class File(msgspec.Struct, frozen=True):
    """A regular file."""

    stretches: tuple[Stretch, ...] = ()
    metadata: Metadata = Metadata()

    @property
    def size(self) -> int:
        """Bytes in it."""
        return sum(stretch.length for stretch in self.stretches)


class Link(msgspec.Struct, frozen=True):
    """A symbolic link; of its metadata the mode means nothing."""

    target: bytes
    metadata: Metadata = Metadata()


class Special(msgspec.Struct, frozen=True):
    """What a backup leaves out: a named pipe or a socket."""

    socket: bool = False


class Folder(msgspec.Struct, frozen=True):
    """A directory."""

    entries: Mapping[bytes, Node] = msgspec.field(default_factory=dict)
    metadata: Metadata = Metadata(0o755)


Node = File | Link | Special | Folder


def text(data: str | bytes, metadata: Metadata = Metadata()) -> File:
    """A file of random bytes that differs for each `data` and is as long."""
    raw = data.encode() if isinstance(data, str) else data
    return File((Stretch(Fill.RANDOM, len(raw), int.from_bytes(hashlib.blake2b(raw).digest()[:6])),), metadata)


def noise(length: int, seed: int = 0, metadata: Metadata = Metadata()) -> File:
    """A file of so many random bytes."""
    return File((Stretch(Fill.RANDOM, length, seed),), metadata)


# ---- on disk ----


def plant(top: str | bytes | os.PathLike[str], tree: Folder) -> None:
    """Make a tree at `top`, which is not there yet or an empty directory."""
    root = os.fsencode(top)
    os.makedirs(root, exist_ok=True)
    _fill(root, tree)


def _fill(path: bytes, folder: Folder) -> None:
    for name, node in folder.entries.items():
        below = path + b"/" + name
        if isinstance(node, Folder):
            os.mkdir(below, 0o700)
            _fill(below, node)
        elif isinstance(node, Link):
            os.symlink(node.target, below)
            _dress(below, node.metadata, link=True)
        elif isinstance(node, Special):
            os.mknod(below, (stat.S_IFSOCK if node.socket else stat.S_IFIFO) | 0o600)
        else:
            _write(below, node)
    _dress(path, folder.metadata)


def _write(path: bytes, node: File) -> None:
    with open(path, "xb") as file:
        for stretch in node.stretches:
            if stretch.fill is Fill.HOLE:
                file.seek(stretch.length, os.SEEK_CUR)
            else:
                file.write(stretch.data())
        file.truncate()
    _dress(path, node.metadata)


def _dress(path: bytes, metadata: Metadata, *, link: bool = False) -> None:
    privileged = os.geteuid() == 0
    if privileged:
        os.chown(path, metadata.uid, metadata.gid, follow_symlinks=False)
    if not link:
        os.chmod(path, metadata.mode if privileged else metadata.mode | 0o700)
    os.utime(path, ns=(metadata.mtime_ns, metadata.mtime_ns), follow_symlinks=False)


def stored_name(name: bytes) -> str:
    """A name as Kopia's format keeps it: each byte that is not UTF-8 is U+FFFD."""
    return _ESCAPED.sub("\ufffd", name.decode("utf-8", "surrogateescape"))


class Seen(msgspec.Struct, frozen=True):
    """One entry on disk."""

    kind: str
    """`f`, `d`, `s`, or `o` for anything else."""
    mode: int
    size: int
    """Of files and links; 0 for anything else."""
    mtime_ns: int
    uid: int
    gid: int
    digest: str = ""
    """Of a file's data; a link's target."""

    def aged(self, mtime_ns: int) -> Seen:
        """The same with another time."""
        return replace(self, mtime_ns=mtime_ns)


def scan(top: str | bytes | os.PathLike[str]) -> dict[bytes, Seen]:
    """What lies at `top`: {path below it: what is there}, `b""` for itself. Links are not followed."""
    root = os.fsencode(top)
    return dict(_scan(root, b""))


def _scan(root: bytes, path: bytes) -> Iterator[tuple[bytes, Seen]]:
    full = root + b"/" + path if path else root
    status = os.lstat(full)
    mode, kind, size, digest = stat.S_IMODE(status.st_mode), "o", 0, ""
    if stat.S_ISREG(status.st_mode):
        kind, size, digest = "f", status.st_size, _digest(full)
    elif stat.S_ISLNK(status.st_mode):
        kind, size, digest = "s", status.st_size, os.readlink(full).decode("utf-8", "backslashreplace")
    elif stat.S_ISDIR(status.st_mode):
        kind = "d"
    yield path, Seen(kind, mode, size, status.st_mtime_ns, status.st_uid, status.st_gid, digest)
    if kind == "d":
        for name in sorted(os.listdir(full)):
            yield from _scan(root, path + b"/" + name if path else name)


def _digest(path: bytes) -> str:
    with open(path, "rb") as file:
        found = hashlib.blake2b(digest_size=16)
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


# ---- trees ----

ODD_NAMES: tuple[bytes, ...] = (
    b"plain",
    b" ",
    b" leading and trailing ",
    b"-rf",
    b"...",
    b"..two",
    b".hidden",
    b"a",
    b"a-",
    b"a.",
    b"a0",
    b"aa",
    b"A",
    b"new\nline",
    b"tab\tand\x01control\x1f\x7f",
    b"\b\f\r",
    b'quote"back\\slash',
    b"<html>&amp;",
    "\u2028 and \u2029".encode(),
    "caf\u00e9 and cafe\u0301".encode(),
    "\U0001f40b\u200d".encode(),
    "\ufffd".encode(),
    "\ufeffmarked".encode(),
    b"not\xffutf8",
    b"\xed\xa0\x80 surrogate",
    b"\xc0\xaf overlong",
    b"cut \xe2\x82",
    b"*?[a]{b}!#",
    b"%2e%2e%2f",
    b"~",
    b"$HOME;`id`",
    b"con.txt:stream",
    b"n" * 255,
    ("\u20ac" * 85).encode(),
)
"""Names that somebody got wrong once. All different after `stored_name`."""

ODD_MODES: tuple[int, ...] = (0o644, 0o600, 0o000, 0o777, 0o111, 0o4755, 0o2755, 0o1777, 0o6711, 0o7777, 0o400)
ODD_TIMES_NS: tuple[int, ...] = (
    LONG_AGO_NS,
    LONG_AGO_NS + 123_456_789,
    LONG_AGO_NS + 100_000_000,
    LONG_AGO_NS + 1,
    LONG_AGO_NS + 999_999_999,
    0,
    1,
    -1,
    -1_500_000_001,
    -(1 << 31) * SECOND + SECOND,
    (1 << 31) * SECOND,
    4_102_444_800 * SECOND + 5,
)
ODD_OWNERS: tuple[tuple[int, int], ...] = ((0, 0), (1000, 1000), (1, 0), (0, 65534), (2_000_000_000, 4_000_000_000))
ODD_SIZES: tuple[int, ...] = (0, 1, 2, 511, 4095, 4096, 4097, 65_535, 131_071, 131_072, 131_073, 1_048_576, 1_048_577)


def everything() -> Folder:
    """Every known corner case once, about 5 MB in some 150 entries."""
    names = {name: text(name, Metadata(mtime_ns=LONG_AGO_NS + i)) for i, name in enumerate(ODD_NAMES)}
    folders: dict[bytes, Node] = {
        name: Folder(metadata=Metadata(0o755, LONG_AGO_NS + i)) for i, name in enumerate(names)
    }
    owned = {b"%d-%d" % owner: text(f"owned by {owner}", Metadata(0o640, LONG_AGO_NS, *owner)) for owner in ODD_OWNERS}
    times: dict[bytes, Node] = {}
    for ns in ODD_TIMES_NS:
        times[b"file %d" % ns] = text(f"at {ns}", Metadata(mtime_ns=ns))
        times[b"link %d" % ns] = Link(b"file %d" % ns, Metadata(mtime_ns=ns))
        times[b"folder %d" % ns] = Folder(metadata=Metadata(0o755, ns))
        times[b"full %d" % ns] = Folder({b"old": text("old", Metadata(mtime_ns=ns - 5))}, Metadata(0o755, ns))
    deep: Folder = Folder({b"bottom": text("deep down")})
    for level in range(30):
        deep = Folder({b"level %d" % level: deep}, Metadata(0o755, LONG_AGO_NS + level))
    return Folder(
        {
            b"names": Folder(names),
            b"folders": Folder(folders),
            b"modes": Folder({b"%o" % mode: text(f"{mode:o}", Metadata(mode)) for mode in ODD_MODES}),
            b"folder modes": Folder(
                {b"%o" % mode: Folder({b"in": text(f"in {mode:o}")}, Metadata(mode)) for mode in ODD_MODES}
            ),
            b"owners": Folder({**owned, b"link": Link(b"1000-1000", Metadata(uid=1000, gid=7))}),
            b"times": Folder(times),
            b"sizes": Folder({b"%d" % size: noise(size, size) for size in ODD_SIZES}),
            b"same": Folder({b"%d" % i: noise(200_000, 1, Metadata(mtime_ns=i * SECOND)) for i in range(3)}),
            b"links": Folder(
                {
                    b"dangling": Link(b"nowhere"),
                    b"absolute": Link(b"/etc/passwd"),
                    b"up": Link(b"../../../../.."),
                    b"self": Link(b"self"),
                    b"not utf-8": Link(b"tar\xffget"),
                    b"long": Link(b"x/" * 2000),
                    b"\xfe link": Link(b"a\nb"),
                }
            ),
            b"sparse": File(
                (
                    Stretch(Fill.HOLE, 1_000_000),
                    Stretch(Fill.RANDOM, 5000, 3),
                    Stretch(Fill.HOLE, 70_000),
                    Stretch(Fill.ZEROS, 70_000),
                    Stretch(Fill.TEXT, 10, 4),
                    Stretch(Fill.HOLE, 300_000),
                )
            ),
            b"zeros": File((Stretch(Fill.ZEROS, 700_000),)),
            b"prose.txt": File((Stretch(Fill.TEXT, 900_000, 5),)),
            b"pipe": Special(),
            b"socket": Special(socket=True),
            b"empty": Folder(),
            b"only special": Folder({b"pipe": Special()}, Metadata(0o700, -5 * SECOND)),
            b"deep": deep,
        },
        Metadata(0o751, LONG_AGO_NS + 42, 1000, 1000),
    )


def seeded(seed: int, files: int, *, sizes: tuple[int, ...] = ODD_SIZES[:8], width: int = 20) -> Folder:
    """A tree of so many files of sizes drawn from `sizes`, `width` of them to a folder."""
    rng = random.Random(seed)  # noqa: S311
    folders: dict[bytes, Node] = {}
    for first in range(0, files, width):
        entries: dict[bytes, Node] = {}
        for number in range(first, min(first + width, files)):
            meta = Metadata(rng.choice(ODD_MODES), LONG_AGO_NS + rng.randrange(10**15), *rng.choice(ODD_OWNERS))
            entries[b"file-%06d" % number] = noise(rng.choice(sizes), rng.getrandbits(48), meta)
        folders[b"folder-%04d" % (first // width)] = Folder(entries, Metadata(0o755, LONG_AGO_NS + first))
    return Folder(folders)
