"""Alerts and dashboard: about metrics that exist, tried on time series, each alert with a page that says what to do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack import dashboard, prometheus_rule
from hack.cli_docs import leaves
from hack.metrics_docs import rows
from hack.troubleshooting_docs import SECTIONS
from tests.unit.deploy.promql import family, parse

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deploy" / "observability"
RUNBOOKS = ROOT / "docs" / "runbooks"

TARGET_LABELS = frozenset({"job", "node"})
"""What monitors give each target, and all that rules and dashboard may expect of it."""
EXPORTED = {name: frozenset(labels.split(",")) - {""} for name, _, labels, _ in rows()}
HISTOGRAMS = frozenset(name for name, kind, _, _ in rows() if kind == "histogram")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def recorded() -> dict[str, frozenset[str]]:
    """Labels of each recorded series: what it is grouped by."""
    return {rule["record"]: parse(rule["expr"]).grouped for rule in rules() if "record" in rule}


def panels() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each panel with each of its targets."""
    for panel in json.loads((FOLDER / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", []):
            yield panel, target


def queries() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel, target in panels():
        yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$__range", "1d")


def labels_of(metric: str) -> frozenset[str]:
    if metric in recorded():
        return recorded()[metric]
    if metric == "up":
        return TARGET_LABELS
    name = family(metric, HISTOGRAMS)
    own = EXPORTED[name] | ({"le"} if metric.endswith("_bucket") else frozenset())
    return own | TARGET_LABELS


@pytest.mark.parametrize(("where", "expression"), list(queries()))
def test_a_query_is_about_metrics_and_labels_that_are_exported(where: str, expression: str) -> None:
    query = parse(expression)
    known = {*EXPORTED, *recorded(), "up"}
    assert {family(name, HISTOGRAMS) for name in query.metrics} <= known, where
    assert query.metrics, where
    wrong = {(name, label) for name, label in query.selected if label not in labels_of(name)}
    assert wrong == set(), where
    assert query.grouped <= frozenset().union(*map(labels_of, query.metrics)), where


def test_every_metric_of_ours_is_on_the_dashboard_or_in_a_rule() -> None:
    seen = {family(name, HISTOGRAMS) for _, expression in queries() for name in parse(expression).metrics}
    assert {name for name in EXPORTED if name.startswith("lighterage_")} <= seen


def test_every_code_that_a_rule_selects_by_is_one_of_the_error_tree() -> None:
    codes = {leaf.code for leaf in leaves()}
    found = [
        (operator, pattern)
        for rule in rules()
        for operator, pattern in re.findall(r'(?:code|status)(=~|!~|=)"([^"]*)"', rule["expr"])
    ]
    assert len(found) > 5
    for operator, pattern in found:
        plain = pattern.replace("\\\\", "\\")
        for part in _alternatives(plain) if operator != "=" else [re.escape(plain)]:
            assert any(re.fullmatch(part, code) for code in codes | {"ok"}), part


def _alternatives(pattern: str) -> list[str]:
    """The patterns that `a|b\\.(c|d)` stands for."""
    parts, depth = [""], 0
    for letter in pattern:
        depth += (letter == "(") - (letter == ")")
        if letter == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    flat = []
    for part in parts:
        inner = re.search(r"\(([^()]*)\)", part)
        if inner is None:
            flat.append(part)
        else:
            flat += [part[: inner.start()] + one + part[inner.end() :] for one in inner[1].split("|")]
    return flat


def test_texts_of_alerts_and_legends_name_labels_that_their_query_has() -> None:
    for name, rule in alerts().items():
        query = parse(rule["expr"])
        texts = " ".join(rule["annotations"].values())
        named = set(re.findall(r"\$labels\.(\w+)", texts))
        has = query.grouped or frozenset().union(*map(labels_of, query.metrics))
        assert named <= has, name
    for panel, target in panels():
        named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert named <= parse(target["expr"]).grouped, panel["title"]


def test_each_alert_says_how_bad_it_is_and_leads_to_its_runbook() -> None:
    for name, rule in alerts().items():
        assert name.startswith("Lighterage")
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"] == f"docs/runbooks/{name}.md"


def test_each_alert_has_a_runbook_with_its_three_parts_and_each_runbook_an_alert() -> None:
    pages = {path.stem: path.read_text() for path in RUNBOOKS.glob("Lighterage*.md")}
    assert set(pages) == set(alerts())
    for name, text in pages.items():
        assert text.startswith(f"# {name}\n")
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["What it means", "How to look", "What to do"]
        named = {code for code in re.findall(r"`([a-z]+\.[a-z-]+)`", text) if code.split(".")[0] in SECTIONS}
        assert named <= {leaf.code for leaf in leaves()}, name
    assert set(re.findall(r"\(((?:\w+))\.md\)", (RUNBOOKS / "README.md").read_text())) == set(pages)


# ---- by promtool ----


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.fail("there is no promtool: run `hack/system-packages prometheus`")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def test_the_rules_fire_at_what_their_tests_say() -> None:
    done = promtool("test", "rules", str(FOLDER / "rules_test.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_to_fire_in_the_tests_of_the_rules() -> None:
    cases = yaml.safe_load((FOLDER / "rules_test.yaml").read_text())["tests"]
    fired = {
        name
        for case in cases
        for one in case.get("promql_expr_test", [])
        for sample in one["exp_samples"]
        for name in re.findall(r'alertname="(\w+)"', sample["labels"])
    } | {one["alertname"] for case in cases for one in case.get("alert_rule_test", []) if one["exp_alerts"]}
    assert fired == set(alerts())


def test_queries_of_the_dashboard_are_promql(tmp_path: Path) -> None:
    expressions = [
        target["expr"].replace("$__rate_interval", "5m").replace("$__range", "1d").replace("$node", ".*")
        for _, target in panels()
    ]
    rules = [{"record": f"panel:{number}", "expr": one} for number, one in enumerate(expressions)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = promtool("check", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


# ---- made files ----


def test_the_dashboard_is_current() -> None:
    assert dashboard.TARGET.read_text(encoding="utf-8") == dashboard.render(), "run `python -m hack.dashboard`"


def test_the_rules_for_the_operator_are_current_and_the_same() -> None:
    text = prometheus_rule.TARGET.read_text(encoding="utf-8")
    assert text == prometheus_rule.render(), "run `python -m hack.prometheus_rule`"
    assert yaml.safe_load(text)["spec"] == yaml.safe_load((FOLDER / "rules.yaml").read_text())


def test_panels_have_ids_of_their_own_and_lie_beside_each_other() -> None:
    found = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    taken: set[tuple[int, int]] = set()
    for panel in found:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_file_of_the_folder_is_named_in_the_kustomization_or_made_of_one_that_is() -> None:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    named = set(kustomization["resources"]) | {"kustomization.yaml", "rules.yaml", "rules_test.yaml"}
    assert {path.name for path in FOLDER.glob("*.yaml")} == named
    (generator,) = kustomization["configMapGenerator"]
    assert generator["files"] == ["lighterage.json=dashboard.json"]
