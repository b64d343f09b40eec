"""Checkpoints: the part of a tree that is done, as a tree of its own (§14.8).

Every unfinished directory becomes a real one under its own name with what it holds so far, and shares the chunks that
are written with the one that goes on. Of large files on their way the chunks that are written are kept alive under
names that no later run takes for the file. A canceled run ends with the same, without the unfinished files.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable

from agent import _native
from agent.repository.ids import ObjectId
from agent.snapshots.directory_write import Tally, UploadSink
from agent.snapshots.model import INCOMPLETE_CHECKPOINT, DirectorySummary, Entry
from agent.snapshots.upload_state import Frame, Span, add_files, directory_raw, root_entry
from agent.volumes.attributes import go_mode


def partial_tree(unclosed: Iterable[Frame], reason: str, sink: UploadSink, random: Callable[[int], bytes]) -> Entry:
    """The root of the tree as it stands, every unfinished directory marked with `reason`; the walk can go on.

    `unclosed` are the directories that are not finished, each before those below it. Thread side; called by the walk.
    """
    below: dict[Frame, list[tuple[Frame, ObjectId, DirectorySummary]]] = {}
    root: Entry | None = None
    for frame in reversed(list(unclosed)):
        tally, raws = frame.tally.copy(), []
        for child, obj, summary in reversed(below.pop(frame, [])):
            tally.add_directory(summary, child.mtime_ns)
            raws.append(directory_raw(child, obj, summary))
        for span in frame.spans:
            raws += add_files(tally, span)
            if reason == INCOMPLETE_CHECKPOINT:
                raws += _unfinished(tally, span, sink, random)
        summary = tally.summary(frame.mtime_ns, reason)
        obj = frame.output.checkpoint(raws, summary)
        if frame.parent is None:
            root = root_entry(frame, obj, summary)
        elif frame.failure is None:
            below.setdefault(frame.parent, []).append((frame, obj, summary))
    if root is None:
        raise AssertionError("a walk always has a root")
    return root


def _unfinished(tally: Tally, span: Span, sink: UploadSink, random: Callable[[int], bytes]) -> list[bytes]:
    """What there is of large files on their way, under names that no later run takes for the file."""
    raws = []
    for i, file in span.large:
        for part in tuple(file.parts):
            length = part.length
            if not length:
                continue
            name = b".checkpointed.%s.%s" % (
                span.names[i],
                str(uuid.UUID(bytes=random(16), version=4)).encode(),
            )
            a = span.attributes[i]
            obj = sink.assemble(part.done())
            prefix = _native.entry_prefix(name, b"f", go_mode(a.mode), length, a.mtime_ns, a.uid, a.gid)
            raws.append(prefix + obj.encode() + b'"}')
            tally.add_files(1, 0, length, a.mtime_ns)
    return raws
