"""Helm, and what it makes of the chart."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.unit.deploy.chart_kit import CHART, DEPLOY, Json, Objects, Render

TOOL = DEPLOY.parent / "hack" / "tool"


@pytest.fixture(scope="session")
def helm() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The program, from `hack/tool`: built first where nobody has it."""
    found = subprocess.run([TOOL, "helm"], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.fail(f"there is no helm: {found.stderr[-2000:]}")

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([found.stdout.strip(), *arguments], capture_output=True, text=True, check=False)

    return call


@pytest.fixture
def render(helm: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> Render:
    """`render({"hostPaths": False}, chart=…, namespace=…)`: the objects by kind and name."""

    def rendered(values: Json | None = None, *, chart: Path = CHART, namespace: str = "velero") -> Objects:
        file = tmp_path / "values.json"
        file.write_text(json.dumps(values or {}))
        done = helm("template", "lighterage", str(chart), "--namespace", namespace, "--values", str(file))
        assert done.returncode == 0, done.stderr
        objects = [one for one in yaml.safe_load_all(done.stdout) if one]
        return {(one["kind"], one["metadata"]["name"]): one for one in objects}

    return rendered
