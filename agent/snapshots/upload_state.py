"""What a walk keeps in mind: directories that are not closed yet, runs of their files, and the counters of the run."""

from __future__ import annotations

import os
import stat
from collections import deque
from concurrent.futures import Future

import msgspec

from agent import _native
from agent.repository.ids import ObjectId
from agent.snapshots.compare import ParentDirectory
from agent.snapshots.directory_write import DirectoryObject, Tally
from agent.snapshots.ignore import DirectoryFilter
from agent.snapshots.model import DIRECTORY, DirectorySummary, Entry, Stats
from agent.snapshots.upload_file import LargeFile, Stored
from agent.volumes.attributes import Attributes, go_mode
from agent.volumes.tree_read import DirectoryReader, TreeEntry, Unreadable

TYPE_BITS = 0o170000
LINK_BITS = stat.S_IFLNK


class RunStats(msgspec.Struct):
    """Counters of the manifest while they grow (§7.2, §13.6). The walk's thread only."""

    total_size: int = 0
    excluded_total_size: int = 0
    file_count: int = 0
    cached_files: int = 0
    non_cached_files: int = 0
    dir_count: int = 0
    excluded_file_count: int = 0
    excluded_dir_count: int = 0
    ignored_error_count: int = 0
    error_count: int = 0

    def freeze(self) -> Stats:
        """As they are now."""
        return Stats(**msgspec.structs.asdict(self))


class Frame:
    """A directory that is being walked, or waits for its turn to be closed."""

    __slots__ = (
        "failure",
        "filter",
        "mtime_ns",
        "name",
        "output",
        "parent",
        "parents",
        "path",
        "prefix",
        "reader",
        "spans",
        "tally",
    )

    def __init__(
        self, parent: Frame | None, path: str, entry: TreeEntry, reader: DirectoryReader, output: DirectoryObject
    ) -> None:
        self.parent = parent
        self.path = path
        """Below the source, as messages and summaries show it; empty for the root."""
        self.name = entry.name
        self.prefix = _native.entry_prefixes([entry.name], [entry.attributes])[0]
        """Its entry up to the object id."""
        self.mtime_ns = entry.attributes.mtime_ns
        self.reader = reader
        self.output = output
        self.filter: DirectoryFilter
        self.parents: list[ParentDirectory] = []
        self.tally = Tally()
        self.spans: list[Span] = []
        """Files that are not in `output` yet."""
        self.failure: OSError | None = None

    def below(self, name: bytes) -> str:
        """The path of an entry."""
        text = os.fsdecode(name)
        return f"{self.path}/{text}" if self.path else text


class Span:
    """A run of files and links of one directory: some taken over, some on their way."""

    __slots__ = ("attributes", "frame", "jobs", "large", "names", "prefixes", "raws", "sizes")

    def __init__(self, frame: Frame, names: list[bytes], attributes: list[Attributes]) -> None:
        self.frame = frame
        self.names = names
        self.attributes = attributes
        self.prefixes = _native.entry_prefixes(names, attributes)
        self.raws: list[bytes | None] = [None] * len(names)
        self.sizes = [a.size for a in attributes]
        self.jobs: deque[tuple[list[int], Future[list[Stored | Unreadable | None]]]] = deque()
        self.large: deque[tuple[int, LargeFile]] = deque()


def add_files(tally: Tally, span: Span) -> list[bytes]:
    """Count the files of a span that are there; their entries."""
    raws: list[bytes] = []
    symlinks = size = newest = 0
    for raw, attributes, length in zip(span.raws, span.attributes, span.sizes, strict=True):
        if raw is None:
            continue
        raws.append(raw)
        if attributes.mode & TYPE_BITS == LINK_BITS:
            symlinks += 1
        else:
            size += length
        if attributes.mtime_ns > newest:  # noqa: PLR1730  # no call for every file
            newest = attributes.mtime_ns
    tally.add_files(len(raws) - symlinks, symlinks, size, newest)
    return raws


def directory_raw(frame: Frame, obj: ObjectId, summary: DirectorySummary) -> bytes:
    """The entry of a directory in the one above it."""
    return b'%s%s","summ":%s}' % (frame.prefix, obj.encode(), summary.to_json())


def root_entry(frame: Frame, obj: ObjectId, summary: DirectorySummary) -> Entry:
    """The root of the snapshot."""
    attributes = frame.reader.attributes
    return Entry(
        name=os.fsdecode(frame.name),
        type=DIRECTORY,
        mode=go_mode(attributes.mode),
        mtime_ns=attributes.mtime_ns,
        uid=attributes.uid,
        gid=attributes.gid,
        obj=obj,
        summ=summary,
    )
