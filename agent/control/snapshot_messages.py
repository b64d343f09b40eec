"""Snapshots, entries and verdicts as messages."""

from __future__ import annotations

from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from agent.control.v1 import snapshots_pb2 as pb
from agent.movers.answers import EntryItem, SnapshotItem, Verdict

_TYPES: Final = {"f": pb.ENTRY_TYPE_FILE, "d": pb.ENTRY_TYPE_DIRECTORY, "s": pb.ENTRY_TYPE_SYMLINK}
_EARLIEST: Final = -62_135_596_800 * 10**9
_LATEST: Final = 253_402_300_800 * 10**9 - 1
"""What a timestamp can say: the years 1 to 9999."""
_MOST_ID: Final = 0xFFFF_FFFF


def snapshot_message(item: SnapshotItem) -> pb.Snapshot:
    """One of a list."""
    return pb.Snapshot(
        id=item.id,
        source=_text(item.source),
        description=_text(item.description),
        start_time=_time(item.start_ns),
        end_time=_time(item.end_ns),
        incomplete=item.incomplete,
        total_bytes=item.total_bytes,
        files=item.files,
        tags={_text(key): _text(value) for key, value in item.tags.items()},
    )


def entry_message(item: EntryItem) -> pb.Entry:
    """One name in a folder."""
    return pb.Entry(
        name=item.name,
        type=_TYPES.get(item.kind, pb.ENTRY_TYPE_UNSPECIFIED),
        mode=item.mode & 0o7777,
        size=item.size,
        modify_time=_time(item.mtime_ns),
        uid=item.uid & _MOST_ID,
        gid=item.gid & _MOST_ID,
    )


def verdict_message(verdict: Verdict) -> pb.VerifySnapshotResponse:
    """What verifying came to."""
    failures = [pb.VerifyFailure(path=path, code=code, message=text) for path, code, text in verdict.failures]
    return pb.VerifySnapshotResponse(
        directories=verdict.directories,
        files=verdict.files,
        files_read=verdict.files_read,
        bytes_read=verdict.bytes_read,
        failed=verdict.failed,
        failures=failures,
    )


def _time(ns: int) -> Timestamp:
    made = Timestamp()
    made.FromNanoseconds(min(max(ns, _EARLIEST), _LATEST))
    return made


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")
