"""Compiled inner loops of the data path (sources in `agent/native/`)."""

from collections.abc import Sequence
from typing import Protocol

from typing_extensions import Buffer

# entry.c: directory entries as JSON (§7.3)

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
