"""The commands of `lighter agent` that take `--node`, with what each needs."""

from __future__ import annotations

from typing import Final

APP: Final = ("--volume-namespace", "app")
INTO: Final = ("--pod", "app/web", "--volume", "html")
COMMANDS: Final = {
    "status": (),
    "jobs": (),
    "watch": ("--until-finished",),
    "cancel": ("du/one",),
    "pause": ("du/one",),
    "resume": ("du/one",),
    "limits": (),
    "ls": APP,
    "cat": ("s/f", *APP),
    "restore": ("s", *APP, *INTO),
}
