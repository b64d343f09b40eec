"""Whether a mount gets what the host mounts below it later: the kernel's table of mounts (proc(5), `mountinfo`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

_SEPARATOR: Final = "-"
_MOUNT_POINT: Final = 4
_FIRST_OPTIONAL: Final = 6
_RECEIVING: Final = ("master:", "shared:")


class MountTable(msgspec.Struct, frozen=True):
    """The table of this process, or of a test."""

    path: Path = Path("/proc/self/mountinfo")


def propagates(folder: str, table: MountTable) -> bool:
    """Whether later mounts of the host below `folder` are seen here. True when that cannot be known. Thread side."""
    try:
        lines = table.path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return True
    best, receives = "", True
    folder = os.path.realpath(folder)
    for line in lines:
        parts = line.split(" ")
        if len(parts) <= _FIRST_OPTIONAL or _SEPARATOR not in parts:
            continue
        point = _unescaped(parts[_MOUNT_POINT])
        if (folder == point or folder.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best = point
            optional = parts[_FIRST_OPTIONAL : parts.index(_SEPARATOR)]
            receives = any(one.startswith(_RECEIVING) for one in optional)
    return receives


def _unescaped(text: str) -> str:
    """Blanks and backslashes are octal in the table."""
    for octal, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(octal, char)
    return text
