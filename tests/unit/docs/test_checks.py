"""Each check of the contract's acceptance list is shown by marked tests, or says why not; the page lists them all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hack import checks_docs
from tests.checks import CheckResults

NUMBERS = range(1, 47)


def rows(page: str) -> dict[int, list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    return {int(row[0]): row for row in cells if row[0].isdigit()}


def test_the_list_is_whole() -> None:
    assert [check.number for check in checks_docs.checks()] == list(NUMBERS)


def test_each_check_is_marked_on_a_test_or_says_why_not() -> None:
    marked = checks_docs.marked()
    assert set(marked) <= set(NUMBERS)
    assert [one.number for one in checks_docs.checks() if not marked[one.number] and not one.missing] == []


def test_a_test_that_is_named_after_a_check_has_its_mark() -> None:
    marked = {(test.name, number) for number, tests in checks_docs.marked().items() for test in tests}
    named = [
        (name, int(number))
        for path in sorted(checks_docs.TESTS.rglob("test_*.py"))
        for name, numbers in re.findall(r"^(?:async )?def (test_check((?:_\d\d)+)_\w+)", path.read_text(), re.MULTILINE)
        for number in numbers.strip("_").split("_")
    ]
    assert len(named) > 30
    assert set(named) - marked == set()


def test_the_page_lists_every_check_and_the_tests_that_show_it() -> None:
    found, marked = rows(checks_docs.TARGET.read_text(encoding="utf-8")), checks_docs.marked()
    assert {
        one.number: (one.what, checks_docs.where(marked[one.number]), one.missing) for one in checks_docs.checks()
    } == {number: (row[1], row[5], row[6]) for number, row in found.items()}, "run `python -m hack.checks_docs`"


def test_a_tier_that_ran_has_its_results_and_one_that_did_not_keeps_what_the_page_says(tmp_path: Path) -> None:
    (test, *_) = [test for test in checks_docs.marked()[7] if test.tier == "controlplane"]
    outcome = {"checks": [7], "outcome": "failed", "velero": "9.9"}
    (tmp_path / "controlplane.json").write_text(json.dumps({f"{test.file}::{test.name}": outcome}))
    first = rows(checks_docs.render(tmp_path))
    assert first[7][2] == "1 failed (9.9)"
    assert first[7][3] == "not run"
    (tmp_path / "controlplane.json").unlink()
    assert rows(checks_docs.render(tmp_path, checks_docs.render(tmp_path)))[7][2] == "not run"
    page = "| 7 | x | 1 passed (1.2) | 1 passed (1.3) | | y | |"
    assert rows(checks_docs.render(tmp_path, page))[7][2:4] == ["1 passed (1.2)", "1 passed (1.3)"]


@pytest.mark.parametrize("outcomes", [("passed", "failed"), ("failed", "passed")])
def test_the_worst_part_of_a_test_is_its_outcome(outcomes: tuple[str, str]) -> None:
    results = CheckResults()
    for outcome in outcomes:
        report = pytest.TestReport(
            "tests/e2e/test_x.py::test_y", ("", 0, ""), {}, outcome, None, "call", user_properties=[("checks", [1])]
        )
        results.pytest_runtest_logreport(report)
    assert results.found == {"tests/e2e/test_x.py::test_y": {"outcome": "failed", "checks": [1]}}


def test_a_cell_says_what_each_version_of_velero_came_to_and_runs_of_one_leave_the_others(tmp_path: Path) -> None:
    (test, *_) = [test for test in checks_docs.marked()[7] if test.tier == "controlplane"]
    page = f"| 7 | x | 1 passed ({checks_docs.pinned()}); 1 failed (1.17.9, 1.16.9) | | | y | |"
    outcome = {"checks": [7], "outcome": "passed", "velero": "1.17.9"}
    (tmp_path / "controlplane-1.17.9.json").write_text(json.dumps({f"{test.file}::{test.name}": outcome}))
    cell = rows(checks_docs.render(tmp_path, page))[7][2]
    assert cell == f"1 passed ({checks_docs.pinned()}, 1.17.9); 1 failed (1.16.9)"


def test_an_older_server_has_a_version_of_its_own() -> None:
    assert checks_docs.pinned("1.16").startswith("1.16.")
    assert checks_docs.pinned("1.17").startswith("1.17.")
    assert checks_docs.pinned("1.18") == checks_docs.pinned()


def test_a_test_of_another_version_is_not_missed_in_that_of_every_day(tmp_path: Path) -> None:
    one, other = [test for test in checks_docs.marked()[8] if test.tier == "controlplane"] + [
        test for test in checks_docs.marked()[32] if test.tier == "controlplane"
    ][-1:]
    outcome = {"checks": [32], "outcome": "passed"}
    coming, today = (f"{test.file}::{test.name}" for test in (other, one))
    (tmp_path / "controlplane.json").write_text(json.dumps({today: outcome}))
    (tmp_path / "controlplane-1.19.json").write_text(json.dumps({coming: outcome | {"velero": "1.19"}}))
    found = checks_docs._outcomes([one, other], tmp_path)
    assert found == {checks_docs.pinned(): "1 passed", "1.19": "1 passed"}
