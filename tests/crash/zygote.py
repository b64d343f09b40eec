"""Starts `lighter` commands as processes of their own, within milliseconds: `python -m tests.crash.zygote`.

It has imported everything and remembers derived keys; each command is a fork of it that can be killed like any process,
and that is at its work at once, so that a random moment is hardly ever one before the work has begun. One order a line
on stdin, each answered with the status in which the command ended.
"""

import contextlib
import importlib
import io
import os
import select
import signal
import sys
from collections.abc import Sequence
from functools import cache

import msgspec

from agent.cli import main as command_line
from agent.repository import create, format_manager, kdf

_MODULES = ("backup", "browse", "connection", "forget", "repository", "repository_repair", "restore", "snapshots")


class Order(msgspec.Struct):
    """A command, and where its output goes."""

    args: list[str]
    output: str
    warm_up: bool = False
    """Run it in the zygote itself, for what it leaves in memory."""
    kill_after: float | None = None
    """Seconds."""


def _run(args: Sequence[str]) -> int:
    sys.argv = ["lighter", *args]
    try:
        command_line.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _child(order: Order) -> None:
    fd = os.open(order.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    status = 1
    try:
        status = _run(order.args)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _ends_within(pid: int, seconds: float) -> bool:
    handle = os.pidfd_open(pid)
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


def main() -> None:
    """Until stdin ends."""
    derive = cache(kdf.derive_password_key)
    format_manager.derive_password_key = create.derive_password_key = derive  # type: ignore[attr-defined]
    for module in _MODULES:
        importlib.import_module(f"agent.cli.{module}")
    answers = sys.stdout
    for line in sys.stdin:
        order = msgspec.json.decode(line, type=Order)
        if order.warm_up:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                status = _run(order.args)
        else:
            pid = os.fork()
            if not pid:
                _child(order)
            if order.kill_after is not None and not _ends_within(pid, order.kill_after):
                os.kill(pid, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(status, file=answers, flush=True)


if __name__ == "__main__":
    main()
