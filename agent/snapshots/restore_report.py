"""What a restore did and what it could not do: counters that can be read while it runs."""

from __future__ import annotations

import msgspec

from agent.base.errors import LighterageError, PartialRestore

NAMED = 1_000


class RestoreFailure(msgspec.Struct, frozen=True):
    """One entry that was not restored."""

    path: str
    """Below what was restored; "" for its root."""
    code: str
    """The error's `code`."""
    message: str


class RestoreWarning(msgspec.Struct, frozen=True):
    """One entry that was restored, but not quite as it stands in the snapshot."""

    path: str
    message: str


class RestoreReport(msgspec.Struct):
    """Counters grow while the restore runs. All failures and warnings are counted, the first `NAMED` of each named."""

    directories: int = 0
    files: int = 0
    symlinks: int = 0
    bytes: int = 0
    """Of files, written in this run."""
    skipped: int = 0
    """Files and links that were there already and stay."""
    resumed: int = 0
    """Files and links that an earlier attempt had completed."""
    resumed_bytes: int = 0
    """Of large files that an earlier attempt had not completed: what was in its place."""
    removed: int = 0
    """Entries that were not in the snapshot; a directory counts as one."""
    denied: int = 0
    """Entries whose owner, mode or time the system refused to set."""
    failed: int = 0
    warned: int = 0
    failures: list[RestoreFailure] = msgspec.field(default_factory=list)
    warnings: list[RestoreWarning] = msgspec.field(default_factory=list)

    def add_failure(self, path: str, error: LighterageError) -> None:
        """Count and, while there are few, name a failure."""
        self.failed += 1
        if len(self.failures) < NAMED:
            self.failures.append(RestoreFailure(path, error.code, str(error)))

    def add_warning(self, path: str, message: str) -> None:
        """Count and, while there are few, name a warning."""
        self.warned += 1
        if len(self.warnings) < NAMED:
            self.warnings.append(RestoreWarning(path, message))


def partial_restore(report: RestoreReport) -> PartialRestore:
    """What is raised at the end of a restore with failures."""
    first = report.failures[0]
    return PartialRestore(
        f"{report.failed} entries could not be restored, the first: {first.path or '/'!r}: {first.message}",
        hint="everything else is in place",
    )
