"""The first code of a process, before anything takes time to import: a signal must not get lost.

The first process of a container is never ended by a signal that it has no handler for: the kernel drops it. A pod that
is deleted while its program is still importing would go on as if nobody had asked, be killed after the termination
period, and keep what it holds, so that the next agent of its node would have to wait for it to have been silent.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn


def lighter() -> None:
    """Entry point of the command; never returns."""
    _listen()
    from agent.base.read_ahead import read_command

    read_command()
    from agent.cli.main import main

    _leave(main)


def velero() -> None:
    """Entry point of `/velero` in the image; never returns."""
    _listen()
    from agent.cli.velero import main

    _leave(main)


def _listen() -> None:
    """Until the command has handlers of its own. Any other process than the first is ended by the kernel."""
    if os.getpid() == 1:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)


def _leave(main: Callable[[], None]) -> NoReturn:
    """Run what never returns, and end at once where it ends.

    Python would first take apart, one by one, the thousands of objects that hundreds of modules are made of: a tenth of
    the time of a short command.
    """
    status = 0
    try:
        main()
    except SystemExit as end:
        status = int(end.code or 0)
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        status = 120  # as Python's own end says it
    os._exit(status)


def _end(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)
