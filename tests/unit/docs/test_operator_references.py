"""References for people who run it are made from the code, whole, and lead nowhere that does not exist."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from agent.server.rights import RIGHTS
from hack import metrics_docs, permissions_docs, troubleshooting_docs
from hack.cli_docs import leaves

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("made", [metrics_docs, permissions_docs, troubleshooting_docs])
def test_a_reference_is_current(made: ModuleType) -> None:
    name = made.__name__.rpartition(".")[2]
    assert made.TARGET.read_text(encoding="utf-8") == made.render(), f"run `python -m hack.{name}`"


def test_every_error_code_says_what_to_do_and_nothing_else_does() -> None:
    codes = [line.split("\t")[0] for line in troubleshooting_docs.REMEDIES.read_text(encoding="utf-8").splitlines()]
    assert len(codes) == len(set(codes))
    assert set(codes) == {leaf.code for leaf in leaves()}
    assert all(text.endswith(".") for text in troubleshooting_docs.remedies().values())
    text = troubleshooting_docs.render()
    assert [code for code in codes if text.count(f"\n| `{code}`") != 1] == []


def test_every_right_is_in_the_reference_once() -> None:
    rows = [line for line in permissions_docs.render().splitlines() if line.startswith("| `") and ", " in line]
    for right in RIGHTS:
        row = f"| `{right.name}` | {', '.join(right.verbs)} | {right.use} |"
        assert sum(line.startswith(row) for line in permissions_docs.render().splitlines()) == 1, right.name
    assert len(rows) >= len([right for right in RIGHTS if len(right.verbs) > 1])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_to_files_that_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} leads to {target}"
