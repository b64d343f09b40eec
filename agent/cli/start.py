"""The first code of a process, before anything takes time to import: a signal must not get lost.

The first process of a container is never ended by a signal that it has no handler for: the kernel drops it. A pod that
is deleted while its program is still importing would go on as if nobody had asked, be killed after the termination
period, and keep what it holds, so that the next agent of its node would have to wait for it to have been silent.
"""

from __future__ import annotations

import os
import signal
from types import FrameType


def lighter() -> None:
    """Entry point of the command; never returns."""
    _listen()
    from agent.base.read_ahead import read_command

    read_command()
    from agent.cli.main import main

    main()


def velero() -> None:
    """Entry point of `/velero` in the image; never returns."""
    _listen()
    from agent.cli.velero import main

    main()


def _listen() -> None:
    """Until the command has handlers of its own. Any other process than the first is ended by the kernel."""
    if os.getpid() == 1:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)


def _end(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)
