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
_TOOLS = ROOT / "hack" / "tools"
_VELERO_TIERS = ("controlplane", "e2e")
_NOT_RUN = "not run"
_Runs = dict[str, dict[str, str]]

_INTRO = """\
# Held to Velero's server

<!-- Made by `python -m hack.checks_docs` from marks in the tests and their last results; edit hack/checks.tsv. -->

Lighterage takes the place of Velero's `node-agent`, so Velero decides what is right. Two tiers ask it:

* **Control plane**, `make controlplane`: etcd, an API server and its controllers, a CSI driver with its provisioner and
  snapshotter, an S3 server, and an **unmodified** Velero (server and command) as processes on loopback; two agents work
  with nothing but the rights of `deploy/daemonset`. Only scheduler and kubelet are played, on real mounts, and what was
  written is read back by Velero's own fork of kopia. It takes Linux and root. `make test` runs all of it but what takes
  longest. `VELERO=1.17` or `VELERO=1.16` asks an older server, with its own definitions; some tests give 1.18's the
  definitions of the coming 1.19.
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
        cells = []
        for column in _COLUMNS:
            own = [test for test in tests[check.number] if _column(test) == column]
            told = kept.get((check.number, column), {}) | _outcomes(own, results)
            cells.append(_cell(told) or (_NOT_RUN if own else ""))
        lines.append(
            " | ".join([f"| {check.number}", check.what, *cells, where(tests[check.number]), check.missing]) + " |"
        )
    return _INTRO + "\n".join(lines) + "\n"


_COLUMNS = ("controlplane", "e2e", "other")


def _column(test: MarkedTest) -> str:
    return test.tier if test.tier in _VELERO_TIERS else "other"


def _outcomes(tests: list[MarkedTest], results: Path) -> dict[str, str]:
    """How tests of one column ended, by the version of Velero; none of a version that none of their tiers has seen.

    What was not asked of another server than that of every day is not counted, nor there what was asked of another.
    """
    told = {}
    runs = _runs({test.tier for test in tests}, results)
    asked = {test for test in tests for tiers in runs.values() if _ended(test, tiers.get(test.tier, {})) != _NOT_RUN}
    for version, tiers in runs.items():
        outcomes = Counter(_ended(test, tiers.get(test.tier, {})) for test in tests)
        if version in {"", pinned()}:
            outcomes[_NOT_RUN] = len({*tests} - asked)
        else:
            del outcomes[_NOT_RUN]
        outcomes = +outcomes
        if outcomes.total() != outcomes[_NOT_RUN]:
            told[version] = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items(), reverse=True))
    return told


def _ended(test: MarkedTest, runs: _Runs) -> str:
    """The worst of all that a test was run with."""
    ended = {run["outcome"] for name, run in runs.items() if name.partition("[")[0] == f"{test.file}::{test.name}"}
    return "failed" if "failed" in ended else ended.pop() if ended else _NOT_RUN


def _runs(tiers: set[str], results: Path) -> dict[str, dict[str, _Runs]]:
    """Outcomes of tests by version of Velero, empty where there is none, and by tier."""
    found: dict[str, dict[str, _Runs]] = defaultdict(dict)
    for tier in sorted(tiers):
        for file in (results / f"{tier}.json", *sorted(results.glob(f"{tier}-*.json"))):
            runs: _Runs = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
            for name, run in runs.items():
                version = str(run.get("velero", pinned())) if tier in _VELERO_TIERS else ""
                found[version].setdefault(tier, {})[name] = run
    return found


def _cell(told: Mapping[str, str]) -> str:
    """Versions that ended alike are told of together, the newest first."""
    alike: dict[str, list[str]] = defaultdict(list)
    for version in sorted(told, reverse=True):
        alike[told[version]].append(version)
    return "; ".join(
        outcomes + (f" ({', '.join(versions)})" if versions != [""] else "") for outcomes, versions in alike.items()
    )


def _kept(page: str) -> Iterator[tuple[tuple[int, str], dict[str, str]]]:
    """The cells of a page, each as `_outcomes` gives it."""
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].isdigit():
            for column, cell in zip(_COLUMNS, cells[2:], strict=False):
                parts = [_PART.fullmatch(part) for part in cell.split("; ")]
                told = {version: part[1] for part in parts if part for version in (part[2] or "").split(", ")}
                yield (int(cells[0]), column), told


_PART = re.compile(r"(\d+ (?:passed|failed|skipped)[^()]*?)(?: \(([^()]+)\))?")


def pinned(release: str = "") -> str:
    """The version of Velero that `hack/tools` has of a release, `1.17`; without one of that of every day."""
    own = _TOOLS / f"velero-{release}"
    module = (own if own.is_dir() else _TOOLS / "velero") / "go.mod"
    found = re.search(r"vmware-tanzu/velero v(\S+)", module.read_text(encoding="utf-8"))
    return found[1] if found else "?"


if __name__ == "__main__":
    TARGET.write_text(render(before=TARGET.read_text(encoding="utf-8")), encoding="utf-8")
