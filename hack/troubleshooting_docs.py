"""Write docs/troubleshooting.md from the error tree: `python -m hack.troubleshooting_docs`.

The tree says what a code means, remedies.tsv what a person does about it. A test compares the file with what this
makes, and holds both to the same codes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from agent.base.errors import LighterageError
from hack.cli_docs import leaves

REMEDIES = Path(__file__).with_name("remedies.tsv")
TARGET = Path(__file__).resolve().parent.parent / "docs" / "troubleshooting.md"

_INTRO = """\
# Troubleshooting by error code

<!-- Made by `python -m hack.troubleshooting_docs`; edit agent/base/errors.py and hack/remedies.tsv. -->

Every error has a code. It begins `status.message` of the object that failed, is the label `code` of
`lighterage_errors_total`, is printed by `lighter`, and decides its [exit status](cli.md#exit-statuses). Behind it
stands what was tried, on what, and often what to do.

```sh cluster
kubectl -n velero get datauploads,datadownloads,podvolumebackups,podvolumerestores \\
  -o custom-columns=NAME:.metadata.name,PHASE:.status.phase,MESSAGE:.status.message
kubectl -n velero describe dataupload NAME        # its events, one for each phase
kubectl -n velero logs POD | grep NAME            # with facts about all objects involved
kubectl -n velero exec POD -- lighter agent run --check
```

Codes with ↻ pass by themselves: they are tried again, by the request or by the job, before anybody hears of them.
"""

SECTIONS: Final[Mapping[str, str]] = {
    "": "The agent and the command",
    "location": "Backup storage locations and their secrets",
    "storage": "Object stores and folders",
    "repository": "Repositories",
    "expose": "Making volumes accessible",
    "volume": "What lies in a volume",
    "snapshot": "Snapshots",
    "mover": "Workers",
    "kube": "The API server",
    "control": "The control API",
}
"""Title by the first part of a code; everything else comes first."""


def remedies() -> dict[str, str]:
    """What to do, by code."""
    return dict(line.split("\t") for line in REMEDIES.read_text(encoding="utf-8").splitlines())


def render() -> str:
    """The whole document."""
    return "\n".join([_INTRO, *_sections()])


def _sections() -> Iterator[str]:
    found, to_do = {leaf.code: leaf for leaf in leaves()}, remedies()
    for prefix, title in SECTIONS.items():
        codes = sorted(code for code in found if _section(code) == prefix)
        lines = [f"| `{code}`{_again(found[code])} | {_meaning(found[code])} | {to_do[code]} |" for code in codes]
        yield "\n".join([f"## {title}\n", "| code | what happened | what to do |", "|---|---|---|", *lines, ""])


def _section(code: str) -> str:
    prefix = code.partition(".")[0]
    return prefix if prefix in SECTIONS else ""


def _again(leaf: type[LighterageError]) -> str:
    return " ↻" if leaf.retryable else ""


def _meaning(leaf: type[LighterageError]) -> str:
    if leaf is LighterageError:
        return "Something that nobody foresaw."
    return re.sub(r"\s+", " ", inspect.getdoc(leaf) or "").replace("|", "\\|")


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
