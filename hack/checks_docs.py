"""Write docs/compatibility.md: `python -m hack.checks_docs`, after tiers of tests have run.

checks.tsv has the checks of the contract with Velero's server (§12) and what of each no test shows; marks in the tests
say who shows them; `build/checks` has the outcomes of the last run of each tier (tests/checks.py). A tier that has not
run in this folder keeps the results that the page has, so that each machine renews what it can run.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
TESTS: Final = ROOT / "tests"
RESULTS: Final = ROOT / "build" / "checks"
TARGET: Final = ROOT / "docs" / "compatibility.md"
_LIST = Path(__file__).with_name("checks.tsv")
_VELERO = ROOT / "hack" / "tools" / "velero" / "go.mod"
_VELERO_TIERS = ("controlplane", "e2e")
_NOT_RUN = "not run"

_INTRO = """\
# Held to Velero's server

<!-- Made by `python -m hack.checks_docs` from marks in the tests and their last results; edit hack/checks.tsv. -->

Lighterage takes the place of Velero's `node-agent`, so Velero decides what is right. Two tiers ask it:

* **Control plane**, `make controlplane`: etcd, an API server and its controllers, a CSI driver with its provisioner and
  snapshotter, an S3 server, and an **unmodified** Velero (server and command) as processes on loopback; two agents work
  with nothing but the rights of `deploy/daemonset`. Only scheduler and kubelet are played, on real mounts, and what was
  written is read back by Velero's own fork of kopia. It takes Linux and root. `make test` runs all of it but what takes
  longest.
* **Cluster**, `make e2e`: a real node with kubelet and containerd, Velero in pods ([cluster.md](cluster.md)).

The checks are the acceptance list of the contract with Velero's server. A test says which it shows by a mark,
`@pytest.mark.check(6, 8)`; a cell says how many tests, how they ended, and against which Velero. *Other* are the tiers
without Velero's server: unit, storage, interop, crash. What the API server in memory promises to them,
`tests/controlplane/test_kube_contract.py` asks of both, it and a real one.

| check | what | control plane | cluster | other | tests | not shown |
|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Check:
    """A line of checks.tsv."""

    number: int
    what: str
    missing: str


@dataclass(frozen=True, slots=True)
class MarkedTest:
    """A test function with a mark."""

    file: str
    """Relative to the root."""
    name: str

    @property
    def tier(self) -> str:
        return self.file.split("/")[1]


def checks() -> list[Check]:
    """The acceptance list."""
    rows = [line.split("\t") for line in _LIST.read_text(encoding="utf-8").splitlines()]
    return [Check(int(number), what, missing) for number, what, missing in rows]


def marked() -> dict[int, list[MarkedTest]]:
    """Tests by the number of the check that they show."""
    found: dict[int, list[MarkedTest]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        file = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for number in _numbers(node.decorator_list):
                    found[number].append(MarkedTest(file, node.name))
    return found


def _numbers(decorators: list[ast.expr]) -> Iterator[int]:
    for one in decorators:
        if isinstance(one, ast.Call) and ast.unparse(one.func) == "pytest.mark.check":
            yield from (ast.literal_eval(argument) for argument in one.args)


def where(tests: list[MarkedTest]) -> str:
    """The files of tests as the page lists them."""
    return ", ".join(dict.fromkeys(f"`{test.file.removeprefix('tests/')}`" for test in tests))


def render(results: Path = RESULTS, before: str = "") -> str:
    """The whole page; `before` is the page as it was."""
    tests, kept = marked(), dict(_kept(before))
    lines = []
    for check in checks():
        cells = [
            _cell([test for test in tests[check.number] if _column(test) == column], results)
            or kept.get(
                (check.number, column), _NOT_RUN if any(_column(test) == column for test in tests[check.number]) else ""
            )
            for column in _COLUMNS
        ]
        lines.append(
            " | ".join([f"| {check.number}", check.what, *cells, where(tests[check.number]), check.missing]) + " |"
        )
    return _INTRO + "\n".join(lines) + "\n"


_COLUMNS = ("controlplane", "e2e", "other")


def _column(test: MarkedTest) -> str:
    return test.tier if test.tier in _VELERO_TIERS else "other"


def _cell(tests: list[MarkedTest], results: Path) -> str:
    """How tests of one column ended; empty when none of their tiers has run."""
    outcomes: Counter[str] = Counter()
    versions: set[str] = set()
    for test in tests:
        runs = [
            outcome
            for name, outcome in _results(results / f"{test.tier}.json").items()
            if name.partition("[")[0] == f"{test.file}::{test.name}"
        ]
        ended = {run["outcome"] for run in runs} or {_NOT_RUN}
        outcomes["failed" if "failed" in ended else ended.pop()] += 1
        if test.tier in _VELERO_TIERS:
            versions |= {run.get("velero", _pinned()) for run in runs}
    if outcomes.total() == outcomes[_NOT_RUN]:
        return ""
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items(), reverse=True))
    return told + (f" ({', '.join(sorted(versions))})" if versions else "")


def _results(file: Path) -> Mapping[str, Mapping[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


def _kept(page: str) -> Iterator[tuple[tuple[int, str], str]]:
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].isdigit():
            for column, cell in zip(_COLUMNS, cells[2:], strict=False):
                if re.match(r"\d+ (passed|failed|skipped)", cell):
                    yield (int(cells[0]), column), cell


def _pinned() -> str:
    found = re.search(r"vmware-tanzu/velero v(\S+)", _VELERO.read_text(encoding="utf-8"))
    return found[1] if found else "?"


if __name__ == "__main__":
    TARGET.write_text(render(before=TARGET.read_text(encoding="utf-8")), encoding="utf-8")
