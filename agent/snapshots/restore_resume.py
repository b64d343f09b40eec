"""What is in the target already, and what of it can stay: the choice of the caller, and the work of a killed attempt.

What an earlier attempt of the same restore completed is not touched again (`restore_journal`). A large file that it did
not complete is written on: each of its pieces is read back and hashed, and only what is not yet what its content says
is fetched. Hashing what lies there costs a small part of fetching it, and nothing has to be noted while pieces arrive.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence

from agent.base.errors import TargetExists
from agent.repository.ids import ContentId
from agent.snapshots.model import FILE, Entry
from agent.snapshots.restore_journal import Journal
from agent.snapshots.restore_plan import Piece
from agent.snapshots.restore_report import RestoreReport
from agent.snapshots.restore_write import SMALL_FILE, Directory, File, Sink
from agent.storage.base import Buffer
from agent.volumes.file_write import FileWriter
from agent.volumes.tree_write import Existing, WriteOptions

Matches = Callable[[ContentId, Buffer], bool]


class Resumption:
    """One restore's look at its target. All methods run on the event loop."""

    def __init__(
        self, journal: Journal | None, options: WriteOptions, matches: Matches, sink: Sink, report: RestoreReport
    ) -> None:
        self._journal = journal
        self._options = options
        self._matches = matches
        self._sink = sink
        self._report = report

    async def files(self, directory: Directory, entries: Sequence[Entry]) -> list[File]:
        """The files and links among `entries` that have to be written, or written on."""
        files = [File(directory, entry, entry.name.encode("utf-8", "surrogateescape")) for entry in entries]
        resumed = self._journal is not None and self._journal.resumed
        if not files or directory.fresh or not (resumed or self._options.existing is not Existing.OVERWRITE):
            return files
        found = await self._sink.run(directory.writer.statuses, [file.name for file in files])
        return [
            file
            for file, status in zip(files, found, strict=True)
            if status is None or await self._is_to_be_written(file, status)
        ]

    async def has(self, piece: Piece[File]) -> bool:
        """Whether this piece of a file that is written on is in its place."""
        file = piece.job
        if not file.resumed or file.writer is None or piece.compressed:
            return False
        found = await self._sink.run(_is_there, file.writer, piece.offset, piece.length, piece.content, self._matches)
        if found:
            self._report.resumed_bytes += piece.length
        return found

    async def _is_to_be_written(self, file: File, status: os.stat_result) -> bool:
        journal, directory = self._journal, file.directory
        if journal is not None and journal.completed(status, file.entry, self._options):
            self._report.resumed += 1
            return False
        if journal is not None and journal.resumed and journal.wrote(status):
            writer: FileWriter | None = None
            if file.entry.type == FILE and file.size > SMALL_FILE and stat.S_ISREG(status.st_mode):
                writer = await self._sink.run(directory.writer.reopen_file, file.name)
            if writer is None:
                await self._sink.run(directory.writer.remove, file.name)
            else:
                self._sink.adopt(file, writer)
            return True
        if self._options.existing is Existing.SKIP:
            self._report.skipped += 1
            return False
        if self._options.existing is Existing.FAIL:
            path = directory.child_path(file.entry.name)
            self._sink.fail(path, TargetExists(f"{path!r} is in the target already"))
            return False
        return True


def _is_there(writer: FileWriter, offset: int, length: int, content: ContentId, matches: Matches) -> bool:
    data = writer.read_at(offset, length)
    return len(data) == length and matches(content, data)
