"""What a test run says of the contract's acceptance list (§12): `@pytest.mark.check(6, 8)` is all that a test needs.

Each run leaves the outcomes of its marked tests in `build/checks`, a file for each tier; what was not run stays as it
was. `python -m hack.checks_docs` makes docs/compatibility.md of them. A test against another version of Velero than
that of `hack/tools/velero` says so by `record_property("velero", …)`, and its tier has a file for that version.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).resolve().parent.parent / "build" / "checks"
_MARK = "check(*numbers): shows these checks of the acceptance list of the contract with Velero's server (§12)"
_WORST = ("failed", "skipped", "passed")


class CheckResults:
    """Plug-in: remembers the outcomes of marked tests, and writes them when the run ends."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            numbers = {number for mark in item.iter_markers("check") for number in mark.args}
            if numbers:
                item.user_properties.append(("checks", sorted(numbers)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told = dict(report.user_properties)
        if "checks" not in told:
            return
        seen = self.found.setdefault(report.nodeid, {"outcome": "passed"})
        seen["outcome"] = min(seen["outcome"], report.outcome, key=_WORST.index)
        seen |= told

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workerinput"):  # its reports reach the one that started it
            return
        for stem in {_stem(name, outcome) for name, outcome in self.found.items()}:
            file = RESULTS / f"{stem}.json"
            known = json.loads(file.read_text()) if file.exists() else {}
            known |= {name: outcome for name, outcome in self.found.items() if _stem(name, outcome) == stem}
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def register(config: pytest.Config) -> None:
    """Make the mark known, and what follows its tests."""
    config.addinivalue_line("markers", _MARK)
    config.pluginmanager.register(CheckResults())


def _stem(name: str, outcome: dict[str, Any]) -> str:
    """Of the file that keeps this result."""
    tier = Path(name.partition("::")[0]).parts[1]
    return f"{tier}-{outcome['velero']}" if "velero" in outcome else tier
