"""Real block devices for tests: files attached as loop devices.

What a block device does differently from an image (it cannot grow, has no holes to ask for, is claimed while it is
mounted) is only seen on one. Attaching needs root and the kernel's loop driver; where they are missing a test fails
rather than leaving devices untested without a word. `LIGHTERAGE_NO_LOOP_DEVICES=1` says that this is known.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ABSENT = "LIGHTERAGE_NO_LOOP_DEVICES"


class NoLoopDevices(Exception):
    """A file could not be attached; the text says why and what to do."""


def declared_absent() -> bool:
    """Whether the environment says that there are none here."""
    return os.environ.get(ABSENT, "") not in ("", "0")


@contextmanager
def loop_device(backing: Path) -> Iterator[Path]:
    """The block device over the file `backing`; detached at the end. Raises `NoLoopDevices`."""
    try:
        made = _losetup("--find", "--show", "--nooverlap", str(backing))
    except OSError as error:
        raise NoLoopDevices(_refusal(f"losetup cannot be run: {error.strerror}")) from error
    if made.returncode:
        raise NoLoopDevices(_refusal(made.stderr.strip()))
    device = Path(made.stdout.strip())
    try:
        yield device
    finally:
        _losetup("--detach", str(device)).check_returncode()


def _losetup(*args: str) -> subprocess.CompletedProcess[str]:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    environment = {**os.environ, "PATH": path, "LC_ALL": "C"}
    return subprocess.run(["losetup", *args], env=environment, capture_output=True, text=True, timeout=60, check=False)


def _refusal(reason: str) -> str:
    return (
        f"no loop device could be attached ({reason}); run the test as root on a kernel with the loop driver,"
        f" or set {ABSENT}=1 to leave out what needs a block device"
    )
