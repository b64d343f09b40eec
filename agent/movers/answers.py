"""What a worker tells somebody who looks into a repository (`Look`): a message for each answer, `End` behind them.

They go over the listener's socket (`looking`) in frames of `protocol`. What ends without an `End` is not all of it.
"""

from __future__ import annotations

import msgspec

from agent.snapshots.verify import VerifyFailure


class SnapshotItem(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot"):
    """One snapshot. Bytes, since sources may be called anything."""

    id: str
    source: bytes
    description: bytes
    start_ns: int
    end_ns: int
    incomplete: str
    total_bytes: int
    files: int
    tags: dict[bytes, bytes]

    @property
    def key(self) -> tuple[int, str]:
        """Its place in a list that is newest first."""
        return -self.start_ns, self.id


class EntryItem(msgspec.Struct, frozen=True, kw_only=True, tag="entry"):
    """One name in a folder."""

    name: bytes
    kind: str
    mode: int
    """POSIX permission bits."""
    size: int
    mtime_ns: int
    uid: int
    gid: int


class Piece(msgspec.Struct, frozen=True, kw_only=True, tag="piece"):
    """A part of a file."""

    data: bytes


class Verdict(msgspec.Struct, frozen=True, kw_only=True, tag="verdict"):
    """What verifying came to."""

    directories: int
    files: int
    files_read: int
    bytes_read: int
    failed: int
    failures: tuple[tuple[bytes, str, str], ...]
    """The first: path, code, message."""


class End(msgspec.Struct, frozen=True, kw_only=True, tag="end"):
    """That was all."""

    answers: int
    size: int
    """Bytes of all pieces together."""
    sha256: bytes
    """Of the same bytes."""


Answer = SnapshotItem | EntryItem | Piece | Verdict
Sent = Answer | End
decoder: msgspec.msgpack.Decoder[Sent] = msgspec.msgpack.Decoder(Sent)


def as_bytes(text: str) -> bytes:
    """A name out of a repository: bytes that are not UTF-8 are surrogates in it."""
    return text.encode("utf-8", "surrogateescape")


def failure(one: VerifyFailure) -> tuple[bytes, str, str]:
    """What cannot be restored whole."""
    return as_bytes(one.path), one.code, one.message
