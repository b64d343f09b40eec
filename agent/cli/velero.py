"""`/velero node-agent server FLAGS…` as `lighter agent run FLAGS…`.

An image in which `/velero` is this entry point works in the DaemonSet that `velero install --use-node-agent` makes,
with nothing changed but its image. Everything else that Velero's program can do is refused: it is another program.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from agent.base.errors import UsageError
from agent.cli.console import print_error

_COMMAND = ["node-agent", "server"]


def translate(arguments: Sequence[str]) -> list[str]:
    """Arguments of `velero` as arguments of `lighter`; `UsageError` for anything but the node agent's server.

    As with Go's command lines, flags may come before the command: `velero --log-level=debug node-agent server`.
    """
    given = list(arguments)
    for start in range(len(given)):
        if given[start : start + 2] == _COMMAND and all(one.startswith("-") for one in given[:start][:1]):
            return ["agent", "run", *given[:start], *given[start + 2 :]]
    raise UsageError(
        f"this image does not do `velero {' '.join(given[:2])}`, only `velero node-agent server`",
        hint="Velero's own image and command line program do the rest",
    )


def main() -> None:
    """Run the agent for Velero's command line; never returns."""
    from agent.cli.main import main as lighter

    try:
        sys.argv = ["lighter", *translate(sys.argv[1:])]
    except UsageError as error:
        print_error(error, as_json=False)
        sys.exit(error.exit_status)
    lighter()
