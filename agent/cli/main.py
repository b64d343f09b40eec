"""Entry point of `lighter`: the table of commands, errors to exit statuses.

Commands are imported when they are run, not before: `lighter --help` and shell completion stay fast, and a local backup
never loads an S3 client. Every error that reaches this module is a leaf of `agent.base.errors`; its code is
printed, its `exit_status` is the status of the process. Anything else is a defect and is shown with its traceback.
"""

from __future__ import annotations

import gc
import importlib
import sys

import click

from agent import __version__
from agent.base.errors import CanceledError, LighterageError, UsageError
from agent.cli.console import print_error

_COMMANDS: dict[str, tuple[str, str]] = {
    "agent": ("agent.cli.agent", "Run the agent of a Kubernetes node, or ask one."),
    "backup": ("agent.cli.backup", "Take a snapshot of a folder, device or image."),
    "benchmark": ("agent.cli.benchmark", "Measure splitters, hashes, ciphers, compressors and the store here."),
    "cat": ("agent.cli.browse", "Print one file of a snapshot."),
    "completion": ("agent.cli.completion", "Print the completion script of a shell."),
    "connect": ("agent.cli.connect", "Remember a repository, so that --repo need not be repeated."),
    "diff": ("agent.cli.browse", "Compare two snapshots, or two folders in them."),
    "disconnect": ("agent.cli.connect", "Forget the remembered repository."),
    "find": ("agent.cli.browse", "Search snapshots for files."),
    "forget": ("agent.cli.forget", "Delete snapshots, by id or by retention policy."),
    "ls": ("agent.cli.browse", "List a folder of a snapshot."),
    "maintenance": ("agent.cli.maintenance", "Show who maintains the repository and what is due."),
    "mover": ("agent.cli.mover", "What runs in pods that the agent makes."),
    "repository": ("agent.cli.repository", "Create, inspect, verify and repair repositories."),
    "restore": ("agent.cli.restore", "Write a snapshot, or a part of one, to a folder or device."),
    "snapshots": ("agent.cli.snapshots", "List snapshots, oldest first."),
    "verify": ("agent.cli.verify", "Prove that snapshots can be restored."),
}

_OBJECTS_BETWEEN_COLLECTIONS = 5_000
"""Importing makes many objects and no garbage: with Python's own 700 a tenth of a short command is spent on looking."""

_EPILOG = """\b
Examples:
  lighter repository create --repo file:///backup --password-file ~/.pw
  lighter connect --repo file:///backup --password-file ~/.pw
  lighter backup /srv/data
  lighter snapshots
  lighter restore latest /tmp/restored

Exit status: 0 done, 1 defect, 2 usage, 3 canceled, 10-19 storage, 30-39 repository, 50-59 volume, 70-79 snapshot
(73: saved, but something could not be read), 80-89 control API, 90-99 mover, 100-119 cluster.
Every error prints its stable code.
"""


class _LazyGroup(click.Group):
    """A group whose commands live in modules that are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(_COMMANDS[cmd_name][0])
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.command(cls=_LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lighter")
def lighter() -> None:
    """Back up, restore, verify and browse volumes in Kopia's repository format."""


def _help_hint(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"`{context.command_path} --help` shows the options" if context else ""


def main() -> None:
    """Run the command line; never returns."""
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    as_json = "--json" in sys.argv
    try:
        lighter.main(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.Abort:
        print_error(CanceledError("interrupted"), as_json)
        sys.exit(CanceledError.exit_status)
    except click.ClickException as error:
        if as_json:
            print_error(UsageError(error.format_message(), hint=_help_hint(error)), as_json)
        else:
            error.show()
        sys.exit(error.exit_code)
    except LighterageError as error:
        print_error(error, as_json)
        sys.exit(error.exit_status)
    sys.exit(0)
