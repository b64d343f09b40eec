"""The shell in the README and the guides: blocks that each say where they are run, and those that want a cluster.

The word after `sh` says it: `run` on this machine (tests/unit), `cluster` on one with Velero and the agent (tests/e2e),
`machine` on one of their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
REFERENCE: Final = ROOT / "docs" / "cli.md"
"""Its blocks are examples of the commands' own help."""
PAGES: Final = sorted({ROOT / "README.md", *(ROOT / "docs").rglob("*.md")} - {REFERENCE})
FENCE: Final = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACES: Final = frozenset({"run", "cluster", "machine"})


@dataclass(frozen=True)
class Block:
    page: Path
    info: str
    text: str

    @property
    def place(self) -> str:
        return self.info.removeprefix("sh").strip()

    def __str__(self) -> str:
        return f"{self.page.name}: {self.text.splitlines()[0]}"


def blocks(page: Path) -> list[Block]:
    """Of any language, and of none."""
    return [Block(page, info, text) for info, text in FENCE.findall(page.read_text(encoding="utf-8"))]


SHELL: Final = [block for page in PAGES for block in blocks(page) if block.info.split(" ")[0] == "sh"]


def of(place: str) -> list[Block]:
    """The blocks that are run there, by page and in order."""
    return [block for block in SHELL if block.place == place]


# What is on the right is shell: a variable is of the test that runs the page.
_CHART: Final = 'deploy/helm/lighterage --set "image.repository=$REPOSITORY,image.tag=$TAG"'
ON_THE_CLUSTER: Final[dict[str, Mapping[str, str]]] = {
    "docs/control-api.md": {
        "production": "$CONTEXT",
        "worker-3": "$NODE",
        "/run/lighterage/control.sock": '"$SOCKET"',
        "ca.crt": '"$CA"',
        "node-1.example:8087": "-servername node-1.example $ADDRESS:8087",
        # These two go on until they are interrupted.
        "lighter agent watch": "for_a_while lighter agent watch",
        "grpcurl -cacert": "for_a_while grpcurl -cacert",
    },
    "docs/install.md": {
        "IMAGE": "$IMAGE",
        "deploy/daemonset": '"$MANIFESTS"',
        "deploy/helm/lighterage": _CHART,
    },
    "docs/runbooks/LighterageAbsent.md": {},
    "docs/runbooks/LighterageAgentDown.md": {"NODE": "$NODE", "POD": "$POD"},
    "docs/runbooks/LighterageAgentNotReady.md": {"POD": "$POD"},
    "docs/runbooks/LighterageConfigurationInvalid.md": {},
    "docs/runbooks/LighterageExposeFailed.md": {},
    "docs/runbooks/LighterageExposeSlow.md": {"POD": "$POD"},
    "docs/runbooks/LighterageJobFailed.md": {"BACKUP": "$BACKUP"},
    "docs/runbooks/LighterageJobsFailing.md": {},
    "docs/runbooks/LighterageLeftoversReturn.md": {},
    "docs/runbooks/LighterageLocationUnusable.md": {"NAME": "default"},
    "docs/runbooks/LighterageNoProgress.md": {"NODE": "$NODE", "POD": "$POD", "busybox": "$BUSYBOX"},
    "docs/runbooks/LighterageQueueWaits.md": {},
    "docs/runbooks/LighterageRepositoryUnusable.md": {},
    "docs/runbooks/LighterageSweepsFail.md": {"POD": "$POD"},
    "docs/runbooks/LighterageVersionsDiffer.md": {},
    "docs/runbooks/LighterageWorkerLost.md": {"POD": "$POD"},
    "docs/switching.md": {
        "IMAGE": "$IMAGE",
        "APP": "$APP",
        "NAME": "$CONFIG_MAP",
        "deploy/daemonset": '"$MANIFESTS"',
        "deploy/helm/lighterage": _CHART,
    },
    "docs/traces.md": {},
    "docs/troubleshooting.md": {"POD": "$POD", "NAME": "$UPLOAD"},
}
"""Pages with blocks for a cluster: what stands in them for what a reader has, and what the tests have."""

FIND_NOTHING: Final[Mapping[str, str]] = {
    "docs/runbooks/LighterageSweepsFail.md": "the agent of the tests may list what it looks for",
    "docs/runbooks/LighterageWorkerLost.md": "no worker is lost beside the other tests",
}
"""Pages that search a log for what is not in it, and why."""

TRIES: Final[Mapping[str, str]] = {
    "make image": "hack/e2e",
    "make cluster": "hack/e2e",
    "make cluster-down": "hack/e2e",
    "make cluster-demo": "hack/e2e all",
    "make cluster-bench": "hack/e2e all",
    "make cluster-test": "make test",
    "make test": ".ci/run",
}
"""What `machine` blocks tell people to run, and which script or target runs that. `make demo` runs in tests/unit.

What only `all` adds to a script is not run for each change.
"""

TRIED_BY_HAND: Final[Mapping[str, str]] = {
    "docker buildx": "needs Docker, which no machine of the tests has",
    "make e2e": "takes too long for each change: it is what `make cluster-test` leaves out, run by the same script",
}
"""The rest of them, and why no test runs it."""

_PRELUDE: Final = """\
for_a_while() { timeout 10 "$@" || [ $? = 124 ]; }
"""
_FIND_NOTHING: Final = """\
grep() { command grep "$@" || [ $? = 1 ]; }
"""


def script(page: str, text: str) -> str:
    """What bash runs for a block of a page: with what the tests have in the place of what the reader has."""
    for placeholder, shell in ON_THE_CLUSTER[page].items():
        # `NAME:.metadata.name` is a column.
        text = re.sub(rf"(?<!\w){re.escape(placeholder)}(?!\w|:\.)", lambda _, shell=shell: shell, text)
    return _PRELUDE + (_FIND_NOTHING if page in FIND_NOTHING else "") + text


def other_way(text: str) -> str:
    """A block with the other commands that it names: `this command      # or: that one`."""
    return re.sub(r"^\S.*# or: (.*)$", r"\1", text, flags=re.MULTILINE)
