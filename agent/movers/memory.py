"""A control group (v2) around one worker, where the node lets the agent have one.

With it the kernel counts all of the worker's memory and says who was killed for want of it. Elsewhere the worker gets
`RLIMIT_DATA`, which counts its own data only. In a mover pod that is set below what the container may have: then a job
that needs too much ends with an error that says so, and not with the pod. Blocking calls on files in memory: the
supervisor makes them in a thread.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

POD_RESERVE: Final = 160 << 20
"""Bytes of a container that are not for its worker's data: the process around the worker, mapped files, page tables."""


class WorkerGroup(msgspec.Struct, frozen=True):
    """The control group of one worker."""

    folder: Path

    @classmethod
    def create(cls, parent: Path, name: str, memory_bytes: int) -> WorkerGroup | None:
        """A group below `parent` with this limit; None when that is not possible here."""
        folder = parent / name
        try:
            folder.mkdir()
        except OSError:
            return None
        group = cls(folder)
        try:
            group._write("memory.max", memory_bytes)
        except OSError:
            group.remove()
            return None
        with suppress(OSError):  # no swap to limit
            group._write("memory.swap.max", 0)
        return group

    def limit(self) -> int:
        """Bytes that all processes in it may have; 0 where there is no limit, or none can be read."""
        try:
            text = (self.folder / "memory.max").read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return 0
        return int(text) if text.isdecimal() else 0

    def was_exhausted(self) -> bool:
        """Whether the kernel killed something in it for want of memory."""
        try:
            events = (self.folder / "memory.events").read_text(encoding="ascii")
        except OSError:
            return False
        return any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in events.splitlines())

    def remove(self) -> None:
        """Take it away; its processes have ended."""
        with suppress(OSError):  # a group that is left over costs nothing and is named after its worker
            self.folder.rmdir()

    def _write(self, name: str, value: int) -> None:
        # Not created where it does not exist: then this is no control group.
        descriptor = os.open(self.folder / name, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, str(value).encode())
        finally:
            os.close(descriptor)


def worker_share(container: int) -> int:
    """Bytes of data that the one worker of a container may have, by the container's limit; 0 is no limit for both.

    At least half, so that a pod that is small beyond use fails with a name as well.
    """
    return max(container - POD_RESERVE, container // 2)
